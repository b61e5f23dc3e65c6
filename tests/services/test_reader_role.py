"""A service that only reads, as a role or a user that may do nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
from databases import as_role, execute_postgres
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import (
    BackendUnavailableError,
    ConfigurationError,
    SchemaOutdatedError,
    SessionRepositoryFactory,
    SessionsError,
)

SCHEMA = "chat"


def repository(url: str | None = None, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("postgres", url=url, **options)


async def converse(writer: Any) -> str:
    session_id: str = await writer.create_session_async("ann", {"title": "Rome"})
    await writer.add_messages(session_id, [("user", "Hello"), ("assistant", "Hi!")])
    return session_id


async def read_everything(reader: Any, session_id: str) -> None:
    """Call every operation that only reads."""
    assert (await reader.get_session("ann", session_id)).title == "Rome"
    assert await reader.get_session("bob", session_id) is None
    history = await reader.get_session_history("ann", session_id)
    assert [message.content for message in history] == ["Hello", "Hi!"]
    last = await reader.get_session_history("ann", session_id, limit=1, before=history[1].message_id)
    assert last == history[:1]
    assert len(await reader.list_paginated_sessions_async("ann")) == 1
    assert (await reader.list_sessions("ann")).next_cursor is None
    assert await reader.count_sessions("ann") == 1
    assert [len(messages) async for _, messages in reader.export_user("ann")] == [2]


def writes(repo: Any, session_id: str) -> dict[str, Callable[[], Any]]:
    return {
        "create": lambda: repo.create_session_async("ann"),
        "ensure": lambda: repo.ensure_session_exists(str(uuid.uuid4()), "ann"),
        "update": lambda: repo.update_session_async("ann", session_id, {"title": "x"}),
        "add": lambda: repo.add_message(session_id, "user", "secret content"),
        "add many": lambda: repo.add_messages(session_id, [("user", "secret content")], user_id="ann"),
        "delete": lambda: repo.delete_session_async("ann", session_id),
        "keep": lambda: repo.keep_latest_sessions("ann", 0),
        "delete user": lambda: repo.delete_user("ann"),
    }


async def assert_refused(
    repo: Any, session_id: str, reason: str, expected: type[SessionsError] = ConfigurationError
) -> None:
    for name, write in writes(repo, session_id).items():
        with pytest.raises(expected, match=reason) as caught:
            await write()
        assert "secret content" not in str(caught.value), name
    assert await repo.count_sessions("ann") == 1


# --- PostgreSQL ------------------------------------------------------------------------------------


@pytest.fixture(params=[None, SCHEMA], ids=["public", "schema"])
def schema(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where the tables are, as an option of the repository."""
    return {} if request.param is None else {"schema": request.param}


@pytest.fixture
def reader_url(empty_postgres_url: str) -> Iterator[str]:
    """The database for a role that nothing is granted yet."""
    role = f"reader_{uuid.uuid4().hex}"
    execute_postgres(empty_postgres_url, f"CREATE ROLE {role} LOGIN")
    yield as_role(empty_postgres_url, role)
    execute_postgres(empty_postgres_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def grant_reading(url: str, reader_url: str, schema: str = "public") -> str:
    """Grant what README says, and return the role."""
    role = reader_url.partition("//")[2].partition("@")[0]
    execute_postgres(
        url,
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        f"GRANT SELECT ON {schema}.chat_sessions, {schema}.chat_messages, "
        f"{schema}.sessions_alembic_version TO {role}",
    )
    return role


async def test_a_role_with_select_only_reads_and_is_refused_each_write(
    empty_postgres_url: str, reader_url: str, schema: dict[str, str]
) -> None:
    async with repository(empty_postgres_url, **schema) as writer:
        session_id = await converse(writer)
    grant_reading(empty_postgres_url, reader_url, **schema)

    for options in ({}, {"auto_migrate": False}):
        async with repository(reader_url, **schema, **options) as reader:
            await read_everything(reader, session_id)
            await assert_refused(reader, session_id, r"may not do this \(SQLSTATE 42501\)$")


async def test_a_role_whose_transactions_are_read_only_reads_and_is_refused_each_write(
    empty_postgres_url: str, reader_url: str
) -> None:
    async with repository(empty_postgres_url) as writer:
        session_id = await converse(writer)
    role = grant_reading(empty_postgres_url, reader_url)
    execute_postgres(
        empty_postgres_url,
        f"GRANT INSERT, UPDATE, DELETE ON chat_sessions, chat_messages TO {role}",
        f"ALTER ROLE {role} SET default_transaction_read_only = on",
    )

    async with repository(reader_url) as reader:
        await read_everything(reader, session_id)
        # What a server says, too, that has handed over to another one.
        await assert_refused(reader, session_id, "PostgreSQL is read-only", BackendUnavailableError)


async def test_a_reader_sends_nothing_but_select(postgres_url: str) -> None:
    async with repository(postgres_url) as writer:
        session_id = await converse(writer)
    sent: list[str] = []
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(postgres_url))
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda _c, _u, statement, *_: sent.append(statement)
    )
    try:
        await read_everything(repository(engine=engine), session_id)
    finally:
        await engine.dispose()

    assert len(sent) > 8
    assert {statement.split()[0] for statement in sent} == {"SELECT"}


async def test_a_reader_before_the_first_writer_is_told_so(empty_postgres_url: str, reader_url: str) -> None:
    async with repository(reader_url, auto_migrate=False) as reader:
        with pytest.raises(SchemaOutdatedError, match="no schema yet; run: sessions db upgrade"):
            await reader.count_sessions("ann")
    async with repository(reader_url) as reader:
        with pytest.raises(ConfigurationError, match="SQLSTATE 42501"):
            await reader.count_sessions("ann")
