"""A change of messages that waits for another writer of the session sees what that one left."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessions import MessageConflictError, NewMessage, SessionRepositoryFactory, VersionConflictError
from sessions.testing.open_connections import count_checked_out

# An append of a release that knows no versions.
APPEND = """
    WITH owner AS (
        UPDATE chat_sessions SET updated_at = updated_at + interval '1 microsecond' WHERE session_id = $1
        RETURNING updated_at
    )
    INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
    SELECT gen_random_uuid(), $1, 'user', 'new', updated_at FROM owner
"""
POP = """
    WITH owner AS (UPDATE chat_sessions SET version = version + 1 WHERE session_id = $1)
    DELETE FROM chat_messages WHERE session_id = $1 AND content = '2'
"""
CLEAR = """
    WITH owner AS (UPDATE chat_sessions SET version = version + 1 WHERE session_id = $1)
    DELETE FROM chat_messages WHERE session_id = $1
"""
TOUCH = "UPDATE chat_sessions SET updated_at = updated_at + interval '1 hour' WHERE session_id = $1"
# How many wait for a lock of the connection that asks.
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
DELETE = "DELETE FROM chat_sessions WHERE session_id = $1"


@pytest.fixture(params=["own pool", "one transaction at a time", "service's engine", "caller's transaction"])
async def repository(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[Any]:
    """A repository on each kind of connection."""
    async with contextlib.AsyncExitStack() as stack:
        options: dict[str, Any] = {"url": postgres_url}
        engine: AsyncEngine | None = None
        if request.param == "one transaction at a time":
            options["pgbouncer"] = True
        elif request.param != "own pool":
            engine = create_async_engine(
                "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(postgres_url)
            )
            stack.push_async_callback(engine.dispose)
            if request.param == "service's engine":
                options = {"engine": engine}
        repository: Any = SessionRepositoryFactory.create_repository("postgres", **options)
        await stack.enter_async_context(repository)
        await repository.ensure_ready()
        if request.param == "caller's transaction":
            assert engine is not None
            yield repository.using(await stack.enter_async_context(engine.begin()))
        else:
            yield repository
        assert count_checked_out(repository) == 0


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of another writer."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def session_id(other: asyncpg.Connection, repository: Any) -> str:
    """A session with three messages, whose transaction is committed."""
    session_id = str(uuid.uuid4())
    await other.execute(
        "INSERT INTO chat_sessions (session_id, title, user_id) VALUES ($1, 'title', 'user')", session_id
    )
    await other.execute(
        """
        INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
        SELECT gen_random_uuid(), session_id, 'user', n::text, updated_at + (n - 2) * interval '1 microsecond'
        FROM chat_sessions, generate_series(0, 2) n WHERE session_id = $1
        """,
        session_id,
    )
    return session_id


async def after(
    other: asyncpg.Connection, change: str, session_id: str, call: Any, *, commits: bool = True
) -> Any:
    """Return the result of a call that waits for the transaction of another writer."""
    transaction = other.transaction()
    await transaction.start()
    await other.execute(change, session_id)
    task = asyncio.create_task(call)
    while not await other.fetchval(WAITING):
        assert not task.done(), task
        await asyncio.sleep(0.01)
    await (transaction.commit() if commits else transaction.rollback())
    return await task


async def contents(other: asyncpg.Connection, session_id: str) -> list[str]:
    rows = await other.fetch(
        "SELECT content FROM chat_messages WHERE session_id = $1 ORDER BY timestamp, write_order, message_id",
        session_id,
    )
    return [content for (content,) in rows]


@pytest.mark.parametrize(
    ("change", "commits", "popped"),
    [(APPEND, True, "new"), (POP, True, "1"), (TOUCH, True, "2"), (APPEND, False, "2")],
    ids=["append", "pop", "touch", "rolled back"],
)
async def test_a_pop_takes_the_newest_message_of_that_moment(
    repository: Any, other: asyncpg.Connection, session_id: str, change: str, commits: bool, popped: str
) -> None:
    message = await after(
        other, change, session_id, repository.pop_message("user", session_id), commits=commits
    )
    assert message.content == popped


@pytest.mark.parametrize("change", [CLEAR, DELETE], ids=["clear", "delete"])
async def test_a_pop_finds_nothing_if_all_is_deleted_meanwhile(
    repository: Any, other: asyncpg.Connection, session_id: str, change: str
) -> None:
    before = await other.fetchval("SELECT version FROM chat_sessions WHERE session_id = $1", session_id)
    assert await after(other, change, session_id, repository.pop_message("user", session_id)) is None
    version = await other.fetchval("SELECT version FROM chat_sessions WHERE session_id = $1", session_id)
    assert version == (None if change == DELETE else before + 1)


@pytest.mark.parametrize(
    ("call", "left"),
    [
        (lambda r, key, first: r.clear_messages(*key), []),
        (lambda r, key, first: r.delete_messages_from(*key, first, inclusive=False), ["0"]),
        (lambda r, key, first: r.replace_messages(*key, [("user", "x")]), ["x"]),
    ],
    ids=["clear", "delete from", "replace"],
)
async def test_what_is_appended_meanwhile_is_among_what_changes(
    postgres_url: str, other: asyncpg.Connection, call: Callable[..., Any], left: list[str]
) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        session_id = await repository.create_session_async("user")
        await repository.add_messages(session_id, [("user", str(number)) for number in range(3)])
        [first, *_] = await repository.get_session_history("user", session_id)
        await after(other, APPEND, session_id, call(repository, ("user", session_id), first.message_id))
        assert await contents(other, session_id) == left


async def test_a_version_that_another_writer_raises_meanwhile_is_a_conflict(
    repository: Any, other: asyncpg.Connection, session_id: str
) -> None:
    call = repository.clear_messages("user", session_id, expected_version=0)
    with pytest.raises(VersionConflictError):
        await after(other, POP, session_id, call)
    assert await contents(other, session_id) == ["0", "1"]


@pytest.mark.parametrize("commits", [True, False])
async def test_an_id_that_another_session_takes_meanwhile_is_a_conflict(
    postgres_url: str, other: asyncpg.Connection, commits: bool
) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        session_id = await repository.create_session_async("user")
        await repository.add_message(session_id, "user", "old")
        another = await repository.create_session_async("user")
        before = await repository.get_session("user", session_id)
        taken = str(uuid.uuid4())
        insert = f"""
            INSERT INTO chat_messages (message_id, session_id, role, content)
            VALUES ('{taken}', $1, 'user', '')
        """
        batch = [("user", "first"), NewMessage("user", "second", message_id=taken)]
        call = repository.replace_messages("user", session_id, batch)
        if commits:
            with pytest.raises(MessageConflictError) as caught:
                await after(other, insert, another, call)
            assert caught.value.__context__ is None
            assert await contents(other, session_id) == ["old"]
            assert await repository.get_session("user", session_id) == before
        else:
            await after(other, insert, another, call, commits=False)
            assert await contents(other, session_id) == ["first", "second"]


async def test_a_pop_behind_a_queue_of_writers_is_executed_twice_at_most(
    postgres_url: str, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[int] = []
    fetch = asyncpg.Connection.fetch

    async def counting(connection: Any, query: str, *arguments: Any) -> Any:
        if "DELETE FROM chat_messages" in query:
            executed.append(1)
        return await fetch(connection, query, *arguments)

    monkeypatch.setattr(asyncpg.Connection, "fetch", counting)
    repository: Any = SessionRepositoryFactory.create_repository("postgres", url=postgres_url, pool_size=20)
    async with repository:
        session_id = await repository.create_session_async("user")
        await repository.add_messages(session_id, [("user", "Hi")] * 100)
        is_over = False

        async def touch(number: int) -> None:
            while not is_over:
                await repository.update_session_async("user", session_id, {"title": str(number)})

        writers = [asyncio.create_task(touch(number)) for number in range(10)]
        for _ in range(20):
            assert await repository.pop_message("user", session_id) is not None
        is_over = True
        await asyncio.gather(*writers)
        assert await repository.count_messages("user", session_id) == 80
    assert 20 <= len(executed) <= 40


@pytest.mark.parametrize("delay", [0.0, 0.05])
async def test_a_cancelled_wait_leaves_no_transaction_open(
    postgres_url: str, other: asyncpg.Connection, delay: float
) -> None:
    repository: Any = SessionRepositoryFactory.create_repository("postgres", url=postgres_url, pool_size=1)
    async with repository:
        session_id = await repository.create_session_async("user")
        await repository.add_message(session_id, "user", "Hi")
        version = (await repository.get_session("user", session_id)).version
        transaction = other.transaction()
        await transaction.start()
        await other.execute(TOUCH, session_id)
        lock = repository._calls.backend._edits.lock_session
        edit = repository._calls.backend._edits.clear_messages
        values = {"p_session_id": session_id, "p_user_id": "user", "p_expected_version": None}
        values["p_now"] = (await repository.get_session("user", session_id)).updated_at
        task = asyncio.create_task(repository._connection_manager.fetch_locked(lock, edit, values))
        while not await other.fetchval(WAITING):
            await asyncio.sleep(0.01)
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await transaction.rollback()
        assert await contents(other, session_id) == ["Hi"]
        assert (await repository.get_session("user", session_id)).version == version
        idle = """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND state LIKE 'idle in transaction%'
        """
        async with asyncio.timeout(60):  # The connection is closed in the background.
            while await other.fetchval(idle):
                await asyncio.sleep(0.01)
        assert (await repository.pop_message("user", session_id)).content == "Hi"
