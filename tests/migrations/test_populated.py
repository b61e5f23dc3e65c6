"""Migrations of PostgreSQL tables that hold rows, while others read and write them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from sessions import SessionRepositoryFactory, migrations
from tests.migrations.migration_helpers import (
    OLD_INDEXES,
    OLD_MESSAGES,
    OLD_SCHEMA,
    OLD_SESSIONS,
    OUR_TABLES,
    AlembicCommand,
    constraint_names,
    describe_postgres,
    execute,
    migrate,
    postgres_rows,
)

SESSIONS = 500
# Other tests use the same server.
HERE = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
WAITING = "wait_event_type = 'Lock'"
# A statement that a migration holds up for longer than this is an error; on a busy machine it takes its time.
PATIENCE = {"lock_timeout": "10s"}


def session_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


async def populate(url: str, messages: int, schema: tuple[str, ...] = OLD_SCHEMA) -> None:
    """Make the tables of a deployment from before, where a few rows lack what may be NULL there."""
    await execute(
        url,
        *schema,
        f"""
        INSERT INTO chat_sessions (session_id, title, user_id, created_at, metadata)
        SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'T', 'u' || n % 10,
               CASE WHEN n % 100 > 0 THEN now() - interval '1 day' END,
               CASE WHEN n % 50 > 0 THEN '{{"a": 1}}'::jsonb END
        FROM generate_series(1, {SESSIONS}) n
        """,
        f"""
        INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
        SELECT gen_random_uuid(),
               ('00000000-0000-4000-8000-' || lpad((n % {SESSIONS} + 1)::text, 12, '0'))::uuid,
               'user', repeat('text ', 20), CASE WHEN n % 1000 > 0 THEN now() END
        FROM generate_series(1, {messages}) n
        """,
    )


@contextlib.asynccontextmanager
async def writers(url: str) -> AsyncIterator[Callable[[], int]]:
    """Write without a pause; an error of any writer is one of the block. Yields what counts the writes."""
    written, done = 0, asyncio.Event()

    async def write(number: int) -> None:
        nonlocal written
        connection = await asyncpg.connect(url, server_settings=PATIENCE)
        try:
            while not done.is_set():
                await connection.execute(
                    "INSERT INTO chat_messages (message_id, session_id, role, content) "
                    "VALUES (gen_random_uuid(), $1, 'user', 'meanwhile')",
                    session_id(number),
                )
                written += 1
                # One of the rows that have no created_at yet, too.
                for updated in (number, 100):
                    await connection.execute(
                        "UPDATE chat_sessions SET updated_at = now() WHERE session_id = $1",
                        session_id(updated),
                    )
                await asyncio.sleep(0.005)
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as tasks:
        for number in range(1, 5):
            tasks.create_task(write(number))
        while written < 4:
            await asyncio.sleep(0.01)
        try:
            yield lambda: written
        finally:
            done.set()


async def more(count: Callable[[], int]) -> None:
    """Wait until each writer has written a few times more."""
    at_first = count()
    async with asyncio.timeout(60):
        while count() < at_first + 4 * 4:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def transaction(
    url: str, statement: str, isolation: Literal["read_committed", "repeatable_read"] = "read_committed"
) -> AsyncIterator[Any]:
    """Keep a transaction open that has executed a statement; it may be ended before the block is."""
    connection = await asyncpg.connect(url)
    try:
        opened = connection.transaction(isolation=isolation)
        await opened.start()
        await connection.execute(statement)
        yield opened
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def connected(connect: Callable[[], Any]) -> AsyncIterator[AsyncConnection]:
    """Yield a connection as the package has it, over one of the driver."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def until(url: str, statement: str) -> None:
    """Wait until a query returns a row."""
    async with asyncio.timeout(60):
        while not await postgres_rows(url, statement):
            await asyncio.sleep(0.05)


@pytest.fixture
def url(empty_postgres_url: str) -> str:
    return empty_postgres_url


@pytest.mark.parametrize("messages", [20_000, pytest.param(100_000, marks=pytest.mark.full_size)])
async def test_every_revision_goes_up_and_down_with_many_messages_while_others_write(
    url: str, postgres_url: str, messages: int
) -> None:
    head = await describe_postgres(postgres_url)
    await populate(url, messages)
    contents = "SELECT message_id, session_id, role, content FROM chat_messages WHERE content <> 'meanwhile'"
    before = sorted(await postgres_rows(url, contents))
    assert len(before) == messages
    total, meanwhile = messages, 0

    for revision in ("0001", "0002", "0003", "0002", "0003", "0001", "0003"):
        async with writers(url) as count:
            at_first = count()
            await migrate(url, revision)
            meanwhile += count() - at_first
        total += count()
        assert await postgres_rows(url, "SELECT count(*) FROM chat_messages") == [(total,)]
        assert await postgres_rows(url, "SELECT version_num FROM sessions_alembic_version") == [(revision,)]

    assert meanwhile
    assert await describe_postgres(url) == head
    assert await constraint_names(url) == await constraint_names(postgres_url)
    assert sorted(await postgres_rows(url, contents)) == before
    assert await postgres_rows(url, "SELECT count(*) FROM chat_sessions") == [(SESSIONS,)]
    await migrate(url, "base")
    assert await describe_postgres(url) == {"columns": [], "constraints": [], "indexes": []}


async def test_writers_of_this_package_upgrade_what_another_process_downgrades(
    url: str, postgres_url: str, alembic_command: AlembicCommand
) -> None:
    await populate(url, 1000)
    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repo:
        ids = [await repo.create_session_async("ann") for _ in range(4)]
        done = asyncio.Event()
        stored = dict.fromkeys(ids, 0)

        async def converse(own: str) -> None:
            while not done.is_set():
                await repo.add_message(own, "user", "meanwhile", user_id="ann")
                stored[own] += 1
                assert len(await repo.get_session_history("ann", own)) == stored[own]

        async with asyncio.TaskGroup() as tasks:
            for own in ids:
                tasks.create_task(converse(own))
            for revision in ("0002", "0001"):
                before = sum(stored.values())
                await asyncio.to_thread(alembic_command, "downgrade", revision, POSTGRES_URL=url)
                assert sum(stored.values()) > before
            done.set()

        assert all(stored.values())
    assert await describe_postgres(url) == await describe_postgres(postgres_url)


READ_BOTH = "SELECT 1 FROM chat_messages, chat_sessions LIMIT 1"


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, "0003"), ("0002", "0003"), ("0003", "0002"), ("0002", "0001")],
    ids=["up from nothing", "up", "down to 0002", "down to 0001"],
)
async def test_a_long_reader_holds_up_a_migration_but_no_writer(
    url: str, postgres_url: str, before: str | None, after: str
) -> None:
    await populate(url, 1000)
    if before is not None:
        await migrate(url, before)

    async with transaction(url, READ_BOTH) as reading, writers(url) as count:
        upgrading = asyncio.create_task(migrate(url, after))
        await until(url, f"{HERE} AND {WAITING} AND query ~ '^ALTER'")
        # The upgrade gives way, again and again: some writes come before the next attempt, and some after.
        for _ in range(3):
            await more(count)
            await asyncio.sleep(1)
        assert not upgrading.done()
        await reading.rollback()
        await upgrading

    assert await postgres_rows(url, "SELECT version_num FROM sessions_alembic_version") == [(after,)]
    await migrate(url)
    assert await describe_postgres(url) == await describe_postgres(postgres_url)


async def test_an_index_that_is_missing_is_built_while_a_writer_has_not_committed(url: str) -> None:
    await populate(url, 1000, (OLD_SESSIONS, OLD_MESSAGES, OLD_INDEXES[0]))
    write = f"DELETE FROM chat_messages WHERE session_id = '{session_id(9)}'"

    async with transaction(url, write) as writing, writers(url) as count:
        upgrading = asyncio.create_task(migrate(url, "0001"))
        await until(url, f"{HERE} AND query ~ '^CREATE INDEX CONCURRENTLY'")
        await more(count)
        assert not upgrading.done()
        await writing.commit()
        await upgrading

    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'idx_messages_session_id'::regclass"
    assert await postgres_rows(url, valid) == [(True,)]


@pytest.mark.parametrize(
    ("present", "before", "revision", "left"),
    [
        ((OLD_SESSIONS, OLD_MESSAGES), None, "0001", "idx_sessions_user_id"),
        (OLD_SCHEMA, None, "0002", "idx_sessions_user_id_new"),
        (OLD_SCHEMA, "0002", "0003", "idx_messages_session_id_new"),
    ],
    ids=["0001", "0002", "0003"],
)
async def test_an_index_that_was_left_half_built_is_built_again(
    url: str, postgres_url: str, present: tuple[str, ...], before: str | None, revision: str, left: str
) -> None:
    await populate(url, 1000, present)
    if before is not None:
        await migrate(url, before)
    building = f"datname = current_database() AND query ~ '^CREATE INDEX CONCURRENTLY {left} '"

    # The build waits for a snapshot from before it.
    async with transaction(url, "SELECT count(*) FROM pg_class", "repeatable_read"):
        upgrading = asyncio.create_task(migrate(url, revision))
        await until(url, f"SELECT 1 FROM pg_stat_activity WHERE {building} AND {WAITING}")
        await execute(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {building}")
        with pytest.raises(SQLAlchemyError):
            await upgrading

    invalid = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
    assert await postgres_rows(url, invalid) == [(left,)]
    await migrate(url, revision)
    assert await postgres_rows(url, invalid) == []
    await migrate(url)
    assert await describe_postgres(url) == await describe_postgres(postgres_url)


async def test_a_first_call_that_loses_its_connection_while_it_upgrades_does_it_again(
    url: str, postgres_url: str
) -> None:
    await populate(url, 1000)
    building = "datname = current_database() AND query ~ '^CREATE INDEX CONCURRENTLY'"

    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repo:
        async with transaction(url, "SELECT count(*) FROM pg_class", "repeatable_read"):
            calling = asyncio.create_task(repo.count_sessions("u1"))
            await until(url, f"SELECT 1 FROM pg_stat_activity WHERE {building} AND {WAITING}")
            await execute(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {building}")
            await until(url, f"SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE {building})")
        assert await calling == SESSIONS // 10

    assert await describe_postgres(url) == await describe_postgres(postgres_url)


async def test_not_null_is_set_without_reading_the_table_under_its_lock(url: str) -> None:
    await populate(url, 1000)
    said: list[str] = []

    async def connect() -> Any:
        connection = await asyncpg.connect(url, server_settings={"client_min_messages": "debug1"})
        connection.add_log_listener(lambda _, report: said.append(report.message))
        return connection

    async with connected(connect) as connection:
        await connection.run_sync(migrations.upgrade)
        await asyncio.sleep(0)

    proven = [line for line in said if "sufficient to prove that it does not contain nulls" in line]
    assert len(proven) == 5, said


async def test_an_empty_database_does_not_wait_for_the_transactions_of_other_services(url: str) -> None:
    report = transaction(url, "SELECT count(*) FROM pg_class", "repeatable_read")
    async with report, asyncio.timeout(60):
        await migrate(url)

    assert await postgres_rows(url, "SELECT version_num FROM sessions_alembic_version") == [
        (migrations.HEAD,)
    ]


async def test_in_one_transaction_a_long_reader_ends_the_upgrade_and_changes_nothing(
    url: str, postgres_url: str
) -> None:
    """As behind a proxy that lends connections for one transaction."""
    await populate(url, 1000, (OLD_SESSIONS, OLD_MESSAGES, OLD_INDEXES[0]))
    before = await describe_postgres(url)
    upgrade = functools.partial(migrations.upgrade, one_transaction=True)

    async with transaction(url, READ_BOTH), connected(lambda: asyncpg.connect(url)) as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.run_sync(upgrade)
    assert getattr(caught.value.orig, "sqlstate", None) == "55P03"
    assert await describe_postgres(url) == before

    async with connected(lambda: asyncpg.connect(url)) as connection:
        await connection.run_sync(upgrade)
    assert await describe_postgres(url) == await describe_postgres(postgres_url)
    assert [len(await postgres_rows(url, f"SELECT 1 FROM {table}")) for table in OUR_TABLES] == [
        1000,
        SESSIONS,
    ]
