"""A call that fails does not modify errors of its caller, and shows none of the values to be stored."""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis
from fastapi import HTTPException
from pymongo import MongoClient
from sqlalchemy import event, exc
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import BackendUnavailableError, SessionRepositoryFactory, SessionsError
from sessions.cli import database
from sessions.repositories import SessionRepositoryType
from tests.support.databases import Backend, execute_postgres, mongodb_client
from tests.support.servers import free_port

CONTENT = "a very private thing to say"


@pytest.fixture
def backend(new_backend: Backend) -> Backend:
    """Each backend, with a database whose schema these tests may change."""
    return new_backend


class OfTheService(Exception):
    """Has the attributes of drivers' errors."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.detail = self.hide_parameters = self.message = text


def of_the_service() -> list[Exception]:
    text = f"of the service, full error: {CONTENT}\nDETAIL: {CONTENT}"
    return [
        HTTPException(404, text),
        OfTheService(text),
        exc.StatementError(text, "SELECT", {"a": CONTENT}, None),
    ]


async def refuse_private_content(backend: Backend) -> None:
    """Make a database reject private content, with a report that quotes it if the database does that."""
    if backend.repository_type == "postgres":
        execute_postgres(
            backend.url,
            "ALTER TABLE chat_messages ADD CHECK (content NOT LIKE '%private%')",
            "ALTER TABLE chat_sessions ADD CHECK (title NOT LIKE '%private%')",
        )
    elif backend.repository_type == "sqlite":
        engine = create_async_engine(backend.url.replace("sqlite:", "sqlite+aiosqlite:"))
        async with engine.begin() as connection:
            for table, column in (("chat_messages", "content"), ("chat_sessions", "title")):
                await connection.exec_driver_sql(
                    f"CREATE TRIGGER no_private_{column} BEFORE INSERT ON {table} "
                    f"WHEN NEW.{column} LIKE '%private%' BEGIN SELECT RAISE(ABORT, 'refused'); END"
                )
        await engine.dispose()
    elif backend.repository_type == "redis":
        # It has no conditions: all content is refused.
        with redis.Redis.from_url(backend.url) as server:
            server.set("sessions:sessions", "of another type")
    else:
        with MongoClient(backend.url) as client:
            for collection, field in (("chat_messages", "content"), ("chat_sessions", "title")):
                client.get_default_database().command(
                    "collMod", collection, validator={field: {"$not": {"$regex": "private"}}}
                )


@asynccontextmanager
async def repositories(backend: Backend) -> AsyncIterator[dict[str, Any]]:
    """Yield a repository with its own connections, and one on a service's, whose driver hides nothing."""
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(backend.repository())
        if backend.repository_type == "mongodb":
            client = await stack.enter_async_context(mongodb_client(backend.url))
            option: dict[str, Any] = {"client": client}
        elif backend.repository_type == "redis":
            option = {"client": await stack.enter_async_context(redis.asyncio.Redis.from_url(backend.url))}
        else:
            engine = (
                create_async_engine(
                    "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(backend.url)
                )
                if backend.repository_type == "postgres"
                else create_async_engine(backend.url.replace("sqlite:", "sqlite+aiosqlite:"))
            )
            stack.push_async_callback(engine.dispose)
            if backend.repository_type == "sqlite":
                event.listen(
                    engine.sync_engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON")
                )
            option = {"engine": engine}
        service = SessionRepositoryFactory.create_repository(backend.repository_type, **option)
        found = {"own": own, "service's": service}
        for repository in found.values():
            await repository.count_sessions("alice")  # Creates the schema that a test then changes.
        yield found
        await service.aclose()


def everything_of(error: BaseException) -> str:
    """Return everything that a traceback may show, with all chained errors."""
    texts = list(traceback.format_exception(error))
    found: list[BaseException] = [error]
    seen: set[int] = set()
    while found:
        link = found.pop()
        if id(link) in seen or isinstance(link, HTTPException | OfTheService):
            continue
        seen.add(id(link))
        texts += [str(link), repr(link)]
        found += [chained for chained in (link.__cause__, link.__context__) if chained is not None]
    return "\n".join(texts)


async def failure_while_handling(
    handled: Exception, call: Callable[..., Awaitable[Any]], *args: Any
) -> Exception:
    """Return the error of a call in the handler of another error, which the call must not modify."""
    before = (handled.args, dict(vars(handled)), str(handled))
    with pytest.raises(SessionsError) as caught:  # noqa: PT012 - the handler is what is tested
        try:
            raise handled
        except Exception:
            await call(*args)
    assert (handled.args, dict(vars(handled)), str(handled)) == before
    return caught.value


async def test_an_error_that_the_caller_is_handling_is_not_modified(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sessions")
    async with repositories(backend) as found:
        session_id = await found["own"].create_session_async("alice")
        await refuse_private_content(backend)
        for repository in found.values():
            for handled in of_the_service():
                for call, *arguments in (
                    (repository.add_message, session_id, "user", CONTENT),
                    (repository.add_messages, session_id, [("user", "fine"), ("user", CONTENT)]),
                    (repository.create_session_async, "alice", {"title": CONTENT}),
                ):
                    error = await failure_while_handling(handled, call, *arguments)
                    assert isinstance(error, BackendUnavailableError)
                    assert error.__cause__ is not None
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("sessions")]
    assert CONTENT not in "".join(ours)


async def test_an_error_shows_nothing_of_what_was_to_be_stored(backend: Backend) -> None:
    async with repositories(backend) as found:
        session_id = await found["own"].create_session_async("alice")
        await refuse_private_content(backend)
        for name, repository in found.items():
            with pytest.raises(BackendUnavailableError) as caught:
                await repository.add_message(session_id, "user", CONTENT)
            assert CONTENT not in everything_of(caught.value), name


async def test_the_command_line_does_not_modify_a_callers_error(tmp_path: Path) -> None:
    for backend, url in {
        SessionRepositoryType.POSTGRES: f"postgresql://u@127.0.0.1:{free_port()}/d?sslmode=disable",
        SessionRepositoryType.SQLITE: f"sqlite:///{tmp_path}/no/such/folder.db",
        SessionRepositoryType.MONGODB: f"mongodb://127.0.0.1:{free_port()}/d?serverSelectionTimeoutMS=100",
    }.items():
        for handled in of_the_service():
            await failure_while_handling(handled, database.upgrade, backend, url)
