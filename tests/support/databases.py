"""Databases on the test servers, and how to reach them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import redis
from pymongo import AsyncMongoClient

from sessions import SessionRepositoryFactory


@dataclass(frozen=True)
class Backend:
    """A fresh, empty database of one kind."""

    name: str
    repository_type: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)

    def repository(self, **options: Any) -> Any:
        return SessionRepositoryFactory.create_repository(
            self.repository_type, url=self.url, **self.options, **options
        )


def run_in_thread(function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """Run a coroutine to its end from anywhere, also while this thread's event loop is running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(function(*args))).result()


def in_database(url: str, name: str) -> str:
    """Return a server URL with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def as_role(url: str, role: str) -> str:
    """Return a server URL with another role, which needs no password."""
    split = urlsplit(url)
    host = split.netloc.rpartition("@")[2]
    return urlunsplit(split._replace(netloc=f"{role}@{host}"))


def execute_postgres(url: str, *statements: str) -> None:
    """Execute statements outside of any transaction."""

    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    run_in_thread(execute)


def postgres_major(url: str) -> int:
    """Return the major version of a PostgreSQL server."""

    async def ask() -> int:
        connection = await asyncpg.connect(url)
        try:
            return connection.get_server_version().major
        finally:
            await connection.close()

    major: int = run_in_thread(ask)
    return major


@contextlib.asynccontextmanager
async def mongodb_client(url: str, **options: Any) -> AsyncIterator[Any]:
    """Yield a client as a service has one: PyMongo's, or Motor's where the extra [motor] is installed."""
    client: Any
    if version("beanie").startswith("1."):
        from motor.motor_asyncio import AsyncIOMotorClient

        client = AsyncIOMotorClient(url, **options)
    else:
        client = AsyncMongoClient(url, **options)
    try:
        yield client
    finally:
        closed = client.close()
        if inspect.isawaitable(closed):  # Motor's close is a plain call.
            await closed


# For the servers that the tests share, on a busy machine.
PATIENT = {"socket_timeout": 60, "socket_connect_timeout": 60}
CLAIMED = "sessions-tests:claimed"
OF_THE_TESTS = "of-the-tests"


@contextlib.contextmanager
def redis_database(server: str) -> Iterator[str]:
    """Yield the URL of an empty database of a server, which no other test uses meanwhile."""
    with redis.Redis.from_url(f"{server}/0", **PATIENT) as shared:
        count = int(shared.config_get("databases")["databases"])
        number = next(number for number in range(1, count) if shared.sadd(CLAIMED, number))
        url = f"{server}/{number}"
        with redis.Redis.from_url(url, client_name=OF_THE_TESTS, **PATIENT) as client:
            client.flushdb()
            try:
                yield url
            finally:
                client.flushdb()
                shared.srem(CLAIMED, number)
