"""A server that does not respond, or a file that another process locks: a cancelled call ends at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from sessions import SessionRepositoryFactory
from sessions.testing.open_connections import count_checked_out
from tests.faults.breakable import Mongod, Postgres, ReplicaSet, running

BACKENDS = ("sqlite", "postgres", "mongodb-replica-set", "mongodb-standalone")
# The issue says one second; machines are busy.
AT_ONCE = 3.0


@dataclass
class Freezer:
    """A database that can be made to stop responding, and to continue."""

    repository_type: str
    url: str
    freeze: Callable[[], None]
    thaw: Callable[[], None]
    options: dict[str, Any] = field(default_factory=dict)

    def repository(self, **options: Any) -> Any:
        return SessionRepositoryFactory.create_repository(
            self.repository_type, url=self.url, **self.options, **options
        )


def _processes(server: Any) -> list[psutil.Process]:
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


def _freezer_of(kind: str, server: Any, mongods: list[Any]) -> Freezer:
    def send(number: int) -> None:
        for member in mongods:
            for process in _processes(member):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    return Freezer(kind, server.url, lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT))


@pytest.fixture(scope="module")
def postgres() -> Iterator[Freezer]:
    server = Postgres()
    with running(server):
        freezer = _freezer_of("postgres", server, [server])
        yield freezer
        freezer.thaw()


@pytest.fixture(scope="module")
def replica_set() -> Iterator[Freezer]:
    server = ReplicaSet()
    with running(server):
        freezer = _freezer_of("mongodb", server, server.members)
        yield freezer
        freezer.thaw()


@pytest.fixture(scope="module")
def standalone() -> Iterator[Freezer]:
    server = Mongod()
    with running(server):
        freezer = _freezer_of("mongodb", server, [server])
        yield freezer
        freezer.thaw()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Freezer]:
    path = tmp_path / "frozen.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as holder:
        yield Freezer(
            "sqlite",
            f"sqlite:///{path}",
            lambda: holder.execute("BEGIN IMMEDIATE") and None,
            lambda: holder.execute("ROLLBACK") and None if holder.in_transaction else None,
        )


@pytest.fixture(params=BACKENDS)
def freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    """Each backend."""
    name = {"mongodb-replica-set": "replica_set", "mongodb-standalone": "standalone"}.get(
        request.param, request.param
    )
    found: Freezer = request.getfixturevalue(name)
    yield found
    found.thaw()


async def by_wait_for(call: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call(), 0.5)


async def by_timeout(call: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await call()


async def by_move_on_after(call: Callable[[], Awaitable[Any]]) -> None:
    with anyio.move_on_after(0.5) as scope:
        await call()
    assert scope.cancelled_caught


async def by_task_group(call: Callable[[], Awaitable[Any]]) -> None:
    """As Starlette does when a client disconnects."""
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.sleep(0.5)
        group.cancel_scope.cancel()


WAYS = [by_wait_for, by_timeout, by_move_on_after, by_task_group]


@contextlib.asynccontextmanager
async def at_once() -> AsyncIterator[None]:
    """Fail if the block takes long, or uses the CPU."""
    started, computed = time.monotonic(), time.process_time()
    yield
    assert time.monotonic() - started < AT_ONCE
    assert time.process_time() - computed < 0.5


async def unused(repository: Any) -> None:
    """Wait until no connection is checked out any more."""
    async with asyncio.timeout(60):
        while count_checked_out(repository):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_call_ends_at_once_and_leaves_nothing_open(
    freezer: Freezer, way: Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]
) -> None:
    repository = freezer.repository()
    session_id = await repository.create_session_async("user")
    freezer.freeze()

    async with at_once():
        await way(lambda: repository.add_message(session_id, "user", "lost or not"))
    # The background work does not use the CPU either.
    async with at_once():
        await asyncio.sleep(1)

    freezer.thaw()
    await unused(repository)
    await repository.add_message(session_id, "user", "after")
    history = await repository.get_session_history("user", session_id)
    assert [m.content for m in history] in (["after"], ["lost or not", "after"])
    await repository.aclose()


@pytest.mark.parametrize("operation", ["is_healthy", "first_call", "ensure"])
async def test_a_first_call_and_a_health_check_end_at_once_too(freezer: Freezer, operation: str) -> None:
    warm = freezer.repository()
    session_id = await warm.create_session_async("user")
    await warm.aclose()
    repository = freezer.repository()
    calls = {
        "is_healthy": repository.is_healthy,
        "first_call": lambda: repository.add_message(session_id, "user", "text"),
        "ensure": lambda: repository.ensure_session_exists(session_id, "other"),
    }
    freezer.freeze()
    started = time.monotonic()
    with contextlib.suppress(TimeoutError, Exception):
        await asyncio.wait_for(calls[operation](), 0.5)
    assert time.monotonic() - started < AT_ONCE
    freezer.thaw()
    await unused(repository)
    assert await repository.is_healthy()
    await repository.aclose()


async def test_closing_after_a_cancelled_call_is_bounded(freezer: Freezer) -> None:
    repository = freezer.repository()
    session_id = await repository.create_session_async("user")
    freezer.freeze()
    for _ in range(3):
        await by_wait_for(lambda: repository.add_message(session_id, "user", "text"))

    started = time.monotonic()
    await repository.aclose()

    assert time.monotonic() - started < 30
    assert count_checked_out(repository) == 0
    freezer.thaw()
    await repository.add_message(session_id, "user", "after")
    await repository.aclose()


async def test_no_attempt_begins_after_the_caller_was_cancelled(
    freezer: Freezer, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"sqlite": {"busy_timeout": 1}, "mongodb": {"timeout": 1.5}, "postgres": {}}
    repository = freezer.repository(**options[freezer.repository_type])
    session_id = await repository.create_session_async("user")
    freezer.freeze()
    await by_wait_for(lambda: repository.add_message(session_id, "user", "text"))
    await asyncio.sleep(2.5)
    freezer.thaw()
    assert [record for record in caplog.records if "attempt" in record.message] == []
    await repository.aclose()
