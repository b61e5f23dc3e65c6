"""A schema that is lost under a live manager is made ready once more, and the call is repeated."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiosqlite
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import SchemaOutdatedError, SessionRepositoryFactory, migrations
from tests.migrations.migration_helpers import (
    describe_postgres,
    describe_sqlite,
    execute,
    postgres_rows,
    sqlite_file,
    sqlite_rows,
)
from tests.support.databases import execute_postgres, in_database

USER = "alice"
TABLES = "chat_messages, chat_sessions"
DROPS = {
    "all tables": f"DROP TABLE {TABLES}, {migrations.VERSION_TABLE}",
    "our tables without the version table": f"DROP TABLE {TABLES}",
    "one table": "DROP TABLE chat_messages",
    "a column": "ALTER TABLE chat_sessions DROP COLUMN title, DROP COLUMN metadata",
}


def repository(url: str, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("postgres", url=url, **options)


async def use(repo: Any) -> None:
    """Write and read what lies in both tables."""
    session_id = await repo.create_session_async(USER, {"title": "Rome"})
    message_id = await repo.add_message(session_id, "user", "Hello")
    [message] = await repo.get_session_history(USER, session_id)
    assert message.message_id == message_id


@pytest.mark.parametrize("what", [what for what in DROPS if what != "a column"])
async def test_what_was_dropped_is_created_again(postgres_url: str, what: str) -> None:
    head = await describe_postgres(postgres_url)
    async with repository(postgres_url) as repo:
        await use(repo)
        await execute(postgres_url, DROPS[what])
        await use(repo)
    assert await describe_postgres(postgres_url) == head


@pytest.mark.parametrize("what", [what for what in DROPS if what != "a column"])
async def test_what_was_dropped_before_the_first_call_is_created_again(postgres_url: str, what: str) -> None:
    head = await describe_postgres(postgres_url)
    async with repository(postgres_url) as repo:
        await execute(postgres_url, DROPS[what])
        session_id = str(uuid.uuid4())
        created = await asyncio.gather(*(repo.ensure_session_exists(session_id, USER) for _ in range(20)))
        assert sorted(created) == [False] * 19 + [True]
        await use(repo)
        await execute(postgres_url, DROPS[what])
        await repo.aclose()
        await repo.ensure_ready()
        await use(repo)
    assert await describe_postgres(postgres_url) == head


@pytest.mark.parametrize("what", [what for what in DROPS if what != "a column"])
@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_a_write_that_would_make_it_again_is_healthy(
    postgres_url: str, what: str, auto_migrate: bool
) -> None:
    async with repository(postgres_url, auto_migrate=auto_migrate) as repo:
        await use(repo)
        await execute(postgres_url, DROPS[what])
        assert await repo.is_healthy() is auto_migrate
        await repo.aclose()
        assert await repo.is_healthy() is auto_migrate


@pytest.mark.parametrize("what", DROPS)
async def test_without_auto_migrate_it_is_an_error_and_nothing_is_made(postgres_url: str, what: str) -> None:
    async with repository(postgres_url, auto_migrate=False) as repo:
        await use(repo)
        await execute(postgres_url, DROPS[what])
        before = await describe_postgres(postgres_url)
        with pytest.raises(SchemaOutdatedError):
            await use(repo)
        assert await describe_postgres(postgres_url) == before


async def test_what_no_migration_can_mend_is_an_error(postgres_url: str) -> None:
    async with repository(postgres_url) as repo:
        await use(repo)
        await execute(postgres_url, DROPS["a column"])
        with pytest.raises(SchemaOutdatedError):
            await use(repo)


async def test_a_database_that_is_dropped_and_created_again_gets_its_schema(postgres_server: str) -> None:
    name = f"sessions_{uuid.uuid4().hex}"
    url = in_database(postgres_server, name)
    await asyncio.to_thread(execute_postgres, postgres_server, f"CREATE DATABASE {name}")
    try:
        async with repository(url) as repo:
            await use(repo)
            for statement in (f"DROP DATABASE {name} WITH (FORCE)", f"CREATE DATABASE {name}"):
                await asyncio.to_thread(execute_postgres, postgres_server, statement)
            await use(repo)
    finally:
        await asyncio.to_thread(execute_postgres, postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_schema_of_its_own_is_created_again(empty_postgres_url: str) -> None:
    async with repository(empty_postgres_url, schema="chats") as repo:
        await use(repo)
        head = await describe_postgres(empty_postgres_url, "chats")
        await execute(empty_postgres_url, "DROP SCHEMA chats CASCADE")
        await use(repo)
    assert await describe_postgres(empty_postgres_url, "chats") == head


@pytest.fixture
async def owned(postgres_url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://", 1))
    yield SessionRepositoryFactory.create_repository("postgres", engine=engine)
    await engine.dispose()


async def test_it_is_so_on_a_services_own_engine_too(postgres_url: str, owned: Any) -> None:
    await use(owned)
    await execute(postgres_url, DROPS["all tables"])
    await use(owned)


async def test_callers_at_the_same_time_migrate_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrades: list[object] = []

    def upgrade(*arguments: Any, **options: Any) -> None:
        upgrades.append(arguments)
        real(*arguments, **options)

    real = migrations.upgrade
    async with repository(postgres_url) as repo:
        await asyncio.gather(*(repo.count_sessions(USER) for _ in range(20)))
        monkeypatch.setattr(migrations, "upgrade", upgrade)
        await execute(postgres_url, DROPS["all tables"])
        created = await asyncio.gather(*(repo.create_session_async(USER) for _ in range(20)))
        assert await repo.count_sessions(USER) == len(set(created)) == 20
    assert len(upgrades) == 1


async def test_closing_forgets_that_the_schema_was_ready(postgres_url: str) -> None:
    async with repository(postgres_url, auto_migrate=False) as repo:
        await use(repo)
        await execute(postgres_url, f"UPDATE {migrations.VERSION_TABLE} SET version_num = '0001'")
        await use(repo)
        await repo.aclose()
        with pytest.raises(SchemaOutdatedError, match="0001"):
            await use(repo)


async def test_an_upgrade_by_hand_makes_a_lost_table_again(postgres_url: str) -> None:
    head = await describe_postgres(postgres_url)
    await execute(postgres_url, DROPS["one table"])
    engine = create_async_engine(
        postgres_url.replace("postgresql://", "postgresql+asyncpg://", 1), isolation_level="AUTOCOMMIT"
    )
    async with engine.connect() as connection:
        await connection.run_sync(migrations.upgrade)
    await engine.dispose()
    assert await describe_postgres(postgres_url) == head
    assert await postgres_rows(postgres_url, f"SELECT version_num FROM {migrations.VERSION_TABLE}") == [
        (migrations.HEAD,)
    ]


@pytest.mark.parametrize("table", ["chat_messages", "chat_sessions"])
async def test_tables_of_a_file_that_were_dropped_are_created_again(sqlite_url: str, table: str) -> None:
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repo:
        await use(repo)
        head = describe_sqlite(sqlite_url)
        await execute_sqlite(sqlite_url, f"DROP TABLE {table}")
        await use(repo)
        assert describe_sqlite(sqlite_url) == head
        assert sqlite_rows(sqlite_url, f"SELECT version_num FROM {migrations.VERSION_TABLE}") == [
            (migrations.HEAD,)
        ]


async def test_tables_of_a_file_that_were_dropped_before_the_first_call_are_created_again(
    sqlite_url: str,
) -> None:
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repo:
        await use(repo)
        await repo.aclose()
        await execute_sqlite(sqlite_url, "DROP TABLE chat_messages")
        assert await repo.is_healthy()
        await repo.ensure_ready()
        await use(repo)


async def execute_sqlite(url: str, statement: str) -> None:
    async with aiosqlite.connect(sqlite_file(url)) as connection:
        await connection.execute(statement)
        await connection.commit()
