"""An error of PostgreSQL has a clear text, and a health check detects that writes would fail."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from sessions import (
    BackendUnavailableError,
    ConfigurationError,
    RetryConfig,
    SchemaOutdatedError,
    SessionRepositoryFactory,
)
from tests.support.certificates import expired_tls_server
from tests.support.databases import execute_postgres
from tests.support.refusals import CONTENT, SECRET, refusal
from tests.support.timing import within

QUICK = RetryConfig(max_attempts=3, base_delay=0.01)


def repository(url: str, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("postgres", url=url, retry=QUICK, **options)


async def execute(url: str, *statements: str) -> None:
    await asyncio.to_thread(execute_postgres, url, *statements)


@pytest.fixture
async def role_url(postgres_url: str) -> AsyncIterator[str]:
    """A new role with all privileges on the tables, and no others."""
    role, split = f"r_{uuid.uuid4().hex}", urlsplit(postgres_url)
    await execute(
        postgres_url,
        f"CREATE ROLE {role} LOGIN PASSWORD '{SECRET}'",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
    )
    host = split.netloc.rpartition("@")[2]
    yield urlunsplit(split._replace(netloc=f"{role}:{SECRET}@{host}"))
    await execute(postgres_url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def role_of(url: str) -> str:
    role = urlsplit(url).username
    assert role
    return role


async def test_a_read_only_database_is_named_and_unhealthy(postgres_url: str) -> None:
    name = urlsplit(postgres_url).path.removeprefix("/")
    async with repository(postgres_url) as repo:
        assert await repo.is_healthy() is True
    await execute(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with repository(postgres_url) as repo:
        assert "read-only" in await refusal(repo, BackendUnavailableError)
        assert await repo.count_sessions("alice") == 0
        assert await repo.is_healthy() is False
        assert await repo._connection_manager.is_healthy() is False


async def test_a_server_without_a_free_connection_is_named_after_the_retries(
    postgres_url: str, role_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with repository(role_url) as repo:
        await repo.count_sessions("alice")
    await execute(postgres_url, f"ALTER ROLE {role_of(role_url)} CONNECTION LIMIT 1")
    only = await asyncpg.connect(role_url)
    try:
        async with repository(role_url) as repo:
            caplog.clear()
            assert "max_connections" in await refusal(repo, BackendUnavailableError)
            assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
            assert "create_session: attempt 1 of 3 failed with TooManyConnectionsError" in caplog.text
            assert await repo.is_healthy() is False
            await only.close()
            assert await repo.is_healthy() is True
            assert await repo.create_session_async("alice")
    finally:
        only.terminate()


@pytest.mark.parametrize(
    ("table", "right"),
    [
        ("chat_sessions", "INSERT"),
        ("chat_sessions", "UPDATE"),
        ("chat_sessions", "DELETE"),
        ("chat_messages", "INSERT"),
    ],
)
async def test_a_role_that_lacks_a_privilege_is_unhealthy(
    postgres_url: str, role_url: str, table: str, right: str
) -> None:
    async with repository(role_url) as repo:
        assert await repo.is_healthy() is True
        await execute(postgres_url, f"REVOKE {right} ON {table} FROM {role_of(role_url)}")
        assert await repo.is_healthy() is False
        if (table, right) == ("chat_sessions", "INSERT"):
            assert "42501" in await refusal(repo, ConfigurationError)


async def test_a_health_check_stores_nothing(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        async with repository(postgres_url) as repo:
            await repo.count_sessions("alice")
            assert all([await repo.is_healthy() for _ in range(20)])
            tables = ("chat_sessions", "chat_messages")
            assert [await connection.fetchval(f"SELECT count(*) FROM {name}") for name in tables] == [0, 0]
            # Not even rolled-back rows.
            size = "SELECT pg_relation_size('chat_sessions') + pg_relation_size('chat_messages')"
            assert await connection.fetchval(size) == 0
    finally:
        await connection.close()


@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_a_dropped_schema_is_unhealthy_unless_a_write_creates_it_again(
    postgres_url: str, auto_migrate: bool
) -> None:
    async with repository(postgres_url, auto_migrate=auto_migrate) as repo:
        assert await repo.is_healthy() is True
        await repo.count_sessions("alice")
        await execute(postgres_url, "DROP TABLE chat_messages")
        assert await repo.is_healthy() is auto_migrate
        if auto_migrate:
            assert await repo.create_session_async("alice")


@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_a_schema_that_is_newer_is_unhealthy_if_it_lacks_what_is_needed(
    postgres_url: str, auto_migrate: bool
) -> None:
    await execute(postgres_url, "UPDATE sessions_alembic_version SET version_num = '9999'")
    async with repository(postgres_url, auto_migrate=auto_migrate) as repo:
        assert await repo.is_healthy() is True
    await execute(postgres_url, "ALTER TABLE chat_messages RENAME COLUMN content TO contents")
    async with repository(postgres_url, auto_migrate=auto_migrate) as repo:
        assert await repo.is_healthy() is False
        with pytest.raises(SchemaOutdatedError):
            await repo.count_sessions("alice")


async def test_a_certificate_that_has_expired_is_named_and_not_retried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with expired_tls_server("postgres") as (port, ca_file):
        url = f"postgresql://u:{SECRET}@127.0.0.1:{port}/d?sslmode=verify-full&sslrootcert={ca_file}"
        async with repository(url) as repo:
            caplog.clear()
            assert "certificate has expired" in await refusal(repo, BackendUnavailableError)
            assert not caplog.records
            assert await repo.is_healthy() is False


# --- the time that a statement may take -------------------------------------------------------------


async def test_a_statement_that_takes_too_long_is_cancelled_on_the_server_and_not_retried(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = await asyncpg.connect(postgres_url)
    try:
        async with (
            repository(postgres_url) as patient,
            repository(postgres_url, statement_timeout=0.4) as repo,
        ):
            session_id = await patient.create_session_async("alice")
            caplog.clear()
            async with blocker.transaction():
                await blocker.execute("SELECT FROM chat_sessions FOR UPDATE")
                started = time.monotonic()
                with within(0.4), pytest.raises(BackendUnavailableError, match="statement_timeout") as caught:
                    await repo.add_message(session_id, "user", CONTENT)
                took = time.monotonic() - started
                running = (
                    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
                    "AND pid <> pg_backend_pid() AND datname = current_database()"
                )
                assert await blocker.fetchval(running) == 0
            assert took >= 0.4
            assert caught.value.__cause__ is not None
            assert not caplog.records
            assert await patient.get_session_history("alice", session_id) == []
            await patient.add_message(session_id, "user", CONTENT)
    finally:
        await blocker.close()


async def test_lock_not_available_is_retried(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    blocker = await asyncpg.connect(postgres_url)
    separator = "&" if "?" in postgres_url else "?"
    try:
        async with repository(f"{postgres_url}{separator}lock_timeout=200") as repo:
            session_id = await repo.create_session_async("alice")
            lock = blocker.transaction()
            await lock.start()
            await blocker.execute("SELECT FROM chat_sessions FOR UPDATE")
            caplog.clear()
            adding = asyncio.create_task(repo.add_message(session_id, "user", CONTENT))
            while not caplog.records:
                await asyncio.sleep(0.01)
            await lock.rollback()
            message_id = await adding
            history = await repo.get_session_history("alice", session_id)
    finally:
        await blocker.close()

    assert [message.message_id for message in history] == [message_id]
    assert "add_message: attempt 1 of 3 failed with LockNotAvailableError, next in " in caplog.text
    assert CONTENT not in caplog.text


async def test_the_statement_timeout_of_the_url_wins_on_the_server(postgres_url: str) -> None:
    separator = "&" if "?" in postgres_url else "?"
    for url, expected in (
        (postgres_url, "7s"),
        (f"{postgres_url}{separator}statement_timeout=1234", "1234ms"),
    ):
        async with repository(url, statement_timeout=7) as repo:
            engine = await repo._connection_manager.connect()
            async with engine.connect() as connection:
                shown = await connection.exec_driver_sql("SHOW statement_timeout")
                assert shown.scalar() == expected


async def test_a_migration_may_take_longer_than_a_statement(empty_postgres_url: str) -> None:
    async with repository(empty_postgres_url) as repo:
        await repo.count_sessions("alice")
    await execute(empty_postgres_url, "UPDATE sessions_alembic_version SET version_num = '0001'")
    reader = await asyncpg.connect(empty_postgres_url)
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute("SELECT FROM chat_sessions")  # It blocks the ALTER TABLE of revision 0002.
    async with repository(empty_postgres_url, statement_timeout=2) as repo:
        counting = asyncio.create_task(repo.count_sessions("alice"))
        await asyncio.sleep(3)
        await transaction.rollback()
        await reader.close()
        assert await counting == 0
        engine = await repo._connection_manager.connect()
        async with engine.connect() as connection:
            assert (await connection.exec_driver_sql("SHOW statement_timeout")).scalar() == "2s"
