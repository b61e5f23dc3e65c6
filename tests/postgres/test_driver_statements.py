"""Statements on asyncpg itself leave the pool, and a service's own engine, as SQLAlchemy would."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import psutil
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import SessionRepositoryFactory

USER = "alice"
OTHERS = "datname = current_database() AND pid <> pg_backend_pid()"


async def becomes(admin: Any, count: int, where: str = "true") -> None:
    """Wait until a number of other connections to the database meet a condition."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE {OTHERS} AND {where}"
    async with asyncio.timeout(60):
        while True:
            # Otherwise a transaction sees the activity of its first read.
            await admin.execute("SELECT pg_stat_clear_snapshot()")
            if (found := await admin.fetchval(query)) == count:
                break
            await asyncio.sleep(0.02)
    assert found == count


async def test_connections_beyond_the_pools_size_are_closed_after_the_burst(
    postgres_url: str, admin: Any
) -> None:
    repository = SessionRepositoryFactory.create_repository(
        "postgres", url=postgres_url, pool_size=2, max_overflow=6
    )
    async with repository:
        session_id = await repository.create_session_async(USER)
        found = await asyncio.gather(*(repository.get_session(USER, session_id) for _ in range(50)))
        assert {chat_session and chat_session.session_id for chat_session in found} == {session_id}
        await becomes(admin, 2)
    await becomes(admin, 0)


async def test_connections_that_the_server_closed_are_replaced_before_they_are_used(
    postgres_url: str, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        session_id = await repository.create_session_async(USER)
        await asyncio.gather(*(repository.get_session(USER, session_id) for _ in range(8)))
        query = f"SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OTHERS}"
        processes = [row["pid"] for row in await admin.fetch(query)]
        await becomes(admin, 0)
        # Their sockets are closed shortly after they leave the view: when the processes end.
        async with asyncio.timeout(60):
            while any(psutil.pid_exists(process) for process in processes):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        with caplog.at_level(logging.WARNING, logger="sessions"):
            await asyncio.gather(*(repository.get_session(USER, session_id) for _ in range(8)))
    assert caplog.messages == []


async def test_a_cancelled_call_ends_on_the_server_too(postgres_url: str, admin: Any) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        # Appends to one session would queue in this process.
        session_ids = [await repository.create_session_async(USER) for _ in range(4)]
        blocker = await asyncpg.connect(postgres_url)
        async with blocker.transaction():
            await blocker.execute("SELECT FROM chat_sessions FOR UPDATE")
            waiting = [
                asyncio.create_task(repository.add_message(session_id, "user", "Hello"))
                for session_id in session_ids
            ]
            await becomes(admin, 4, "wait_event_type = 'Lock'")
            for task in waiting:
                task.cancel()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}
            await becomes(admin, 0, "state = 'active'")
        await blocker.close()
        for session_id in session_ids:
            assert await repository.get_session_history(USER, session_id) == []


async def test_statements_are_prepared_again_after_a_table_is_altered(
    postgres_url: str, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        session_id = await repository.create_session_async(USER)
        assert await repository.get_session(USER, session_id)
        await admin.execute("ALTER TABLE chat_sessions ALTER COLUMN title TYPE text, ADD COLUMN note text")
        with caplog.at_level(logging.WARNING, logger="sessions"):
            assert await repository.get_session(USER, session_id)
    assert caplog.messages == []


async def test_a_services_own_engine_sees_every_statement(postgres_url: str) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://", 1))
    seen: list[str] = []

    def see(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    repository = SessionRepositoryFactory.create_repository("postgres", engine=engine)
    session_id = await repository.create_session_async(USER)
    event.listen(engine.sync_engine, "before_cursor_execute", see)
    message_id = await repository.add_message(session_id, "user", "Hello")
    [message] = await repository.get_session_history(USER, session_id)
    assert await repository.delete_session_async(USER, session_id)
    await engine.dispose()

    assert message.message_id == message_id
    assert [statement.split()[0] for statement in seen] == ["WITH", "SELECT", "DELETE"]


@pytest.mark.parametrize("whose", ["ours", "a service's"])
async def test_a_cancellation_together_with_the_awaited_connection_is_not_lost(
    postgres_url: str, whose: str
) -> None:
    pool = {"pool_size": 1, "max_overflow": 0}
    url = postgres_url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, **pool) if whose == "a service's" else None
    chosen: dict[str, Any] = {"url": postgres_url, **pool} if engine is None else {"engine": engine}
    async with SessionRepositoryFactory.create_repository("postgres", **chosen) as repository:
        await repository.count_sessions(USER)
        for turns in range(12):
            manager = repository._connection_manager
            async with manager._lend(await manager._pools.get()):
                waiting = asyncio.create_task(repository.count_sessions(USER))
                await asyncio.sleep(0.05)
                assert not waiting.done()
            for _ in range(turns):
                await asyncio.sleep(0)
            was_cancelled = waiting.cancel()
            [outcome] = await asyncio.gather(waiting, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError) is was_cancelled, turns
        assert await repository.count_sessions(USER) == 0
    if engine is not None:
        await engine.dispose()


async def test_a_task_that_waits_for_a_connection_of_the_engine_itself_is_served_before_a_busy_task(
    postgres_url: str,
) -> None:
    repository = SessionRepositoryFactory.create_repository(
        "postgres", url=postgres_url, pool_size=1, max_overflow=0, pool_timeout=60
    )
    async with repository:
        calls = 0
        served = asyncio.Event()

        async def keep_busy() -> None:
            nonlocal calls
            while not served.is_set():
                await repository.count_sessions(USER)
                calls += 1

        busy = asyncio.create_task(keep_busy())
        engine = await repository._connection_manager.connect()
        while calls < 10:
            await asyncio.sleep(0)
        before = calls
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT 1")) == 1
            between = calls - before
        served.set()
        await busy

    assert between <= 2


async def test_no_connection_is_opened_for_one_call(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    connect = asyncpg.connect

    async def count(*arguments: Any, **options: Any) -> Any:
        nonlocal opened
        opened += 1
        return await connect(*arguments, **options)

    monkeypatch.setattr(asyncpg, "connect", count)
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(32)]
        assert opened == 1

        async def append(session_id: str) -> None:
            for _ in range(20):
                await repository.add_message(session_id, "user", "Hello")

        await asyncio.gather(*map(append, session_ids))
        assert 1 < opened <= 10 + 10  # The defaults of pool_size and max_overflow.
        assert repository._connection_manager.checked_out() == 0


async def test_a_connection_that_is_cancelled_is_used_again(postgres_url: str, admin: Any) -> None:
    repository = SessionRepositoryFactory.create_repository(
        "postgres", url=postgres_url, pool_size=1, max_overflow=0
    )
    async with repository:
        session_id = await repository.create_session_async(USER)
        pids = f"SELECT array_agg(pid) FROM pg_stat_activity WHERE {OTHERS}"
        [before] = await admin.fetchval(pids)
        async with admin.transaction():
            await admin.execute("SELECT FROM chat_sessions FOR UPDATE")
            adding = asyncio.create_task(repository.add_message(session_id, "user", "Hello"))
            await becomes(admin, 1, "wait_event_type = 'Lock'")
            adding.cancel()
            await asyncio.gather(adding, return_exceptions=True)
            await becomes(admin, 0, "state = 'active'")
        assert await repository.get_session_history(USER, session_id) == []
        assert await admin.fetchval(pids) == [before]
