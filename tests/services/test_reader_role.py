"""A PostgreSQL role that may only read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import (
    BackendUnavailableError,
    ConfigurationError,
    SchemaOutdatedError,
    SessionRepositoryFactory,
)
from tests.services.reading import assert_refused, converse, read_everything
from tests.support.databases import as_role, execute_postgres

SCHEMA = "chat"


def repository(url: str | None = None, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("postgres", url=url, **options)


@pytest.fixture(params=[None, SCHEMA], ids=["public", "schema"])
def schema(request: pytest.FixtureRequest) -> dict[str, str]:
    """The schema of the tables, as an option of the repository."""
    return {} if request.param is None else {"schema": request.param}


@pytest.fixture
def reader_url(empty_postgres_url: str) -> Iterator[str]:
    """The database for a role without any privilege."""
    role = f"reader_{uuid.uuid4().hex}"
    # PostgreSQL 14 lets every role create tables in the schema "public", 15 and later none.
    execute_postgres(
        empty_postgres_url, f"CREATE ROLE {role} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )
    yield as_role(empty_postgres_url, role)
    execute_postgres(empty_postgres_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def grant_reading(url: str, reader_url: str, schema: str = "public") -> str:
    """Grant the privileges that the manual lists, and return the role."""
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
        # A server that was demoted reports the same error.
        await assert_refused(reader, session_id, "the server is read-only", BackendUnavailableError)


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
    assert {statement.lstrip("(").split()[0] for statement in sent} == {"SELECT"}


async def test_a_reader_before_the_first_writer_gets_an_error(
    empty_postgres_url: str, reader_url: str
) -> None:
    async with repository(reader_url, auto_migrate=False) as reader:
        with pytest.raises(SchemaOutdatedError, match="no schema yet; run: sessions db upgrade"):
            await reader.count_sessions("ann")
    async with repository(reader_url) as reader:
        with pytest.raises(ConfigurationError, match="SQLSTATE 42501"):
            await reader.count_sessions("ann")
