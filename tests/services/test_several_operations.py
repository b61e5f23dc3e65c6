"""`run_in_transaction`: several operations of the package's own transaction take effect together, or none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import (
    AsyncChats,
    AsyncSessionRepository,
    BackendUnavailableError,
    NewMessage,
    SessionNotFoundError,
    VersionConflictError,
)
from sessions.testing.open_connections import count_checked_out

KINDS = ["sqlite", "sqlite-engine", "postgres", "postgres-engine", "mongodb"]


@pytest.fixture(params=KINDS)
async def chats(request: pytest.FixtureRequest) -> AsyncIterator[AsyncChats]:
    """Chats on each backend with transactions, on its own connections and on a service's engine."""
    name, _, on_engine = request.param.partition("-")
    url = request.getfixturevalue(f"{name}_url")
    if not on_engine:
        async with AsyncChats(url) as opened:
            yield opened
        return
    driver = {"sqlite": "sqlite+aiosqlite", "postgres": "postgresql+asyncpg"}[name]
    engine = create_async_engine(url.replace(url.partition("://")[0], driver, 1))
    if name == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def enforce_foreign_keys(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA foreign_keys=ON")

    async with AsyncChats(backend=name, engine=engine) as opened:
        yield opened
    await engine.dispose()


async def contents(chats: AsyncChats, session_id: str) -> list[str]:
    return [message.content for message in await chats.get_session_history("alice", session_id)]


async def test_all_operations_take_effect_together(chats: AsyncChats) -> None:
    old = await chats.create_session("alice", messages=[("user", "One"), ("user", "Two")])

    async def work(inside: AsyncChats) -> str:
        assert inside.repository.in_transaction
        moved = await inside.pop_message("alice", old)
        assert moved is not None
        new = await inside.create_session("alice", messages=[NewMessage("user", moved.content)])
        await inside.add_messages("alice", new, [("assistant", "Three")], merge_metadata={"a": 1})
        assert await inside.update_session("alice", old, merge_metadata={"moved": True})
        assert await inside.ensure_session_exists("bob", "00000000-0000-4000-8000-000000000000")
        # Others see nothing of it yet.
        assert await contents(chats, old) == ["One", "Two"]
        assert await chats.get_session("alice", new) is None
        assert await contents(inside, new) == ["Two", "Three"]
        return new

    new = await chats.run_in_transaction(work)
    assert (await contents(chats, old), await contents(chats, new)) == (["One"], ["Two", "Three"])
    assert not chats.repository.in_transaction
    found = await chats.get_session("alice", old)
    assert found is not None
    assert (found.metadata, found.version) == ({"moved": True}, 2)
    assert await chats.count_sessions("bob") == 1
    # What follows uses the same connections in autocommit again.
    await chats.add_message("alice", old, "user", "Four")
    assert await contents(chats, old) == ["One", "Four"]
    assert count_checked_out(chats.repository) == 0


@pytest.mark.parametrize("error", [KeyError("of the caller"), VersionConflictError, SessionNotFoundError])
async def test_an_error_undoes_all_and_is_raised(chats: AsyncChats, error: Any) -> None:
    session_id = await chats.create_session("alice")
    calls = 0

    async def work(inside: AsyncChats) -> None:
        nonlocal calls
        calls += 1
        await inside.add_message("alice", session_id, "user", "Lost")
        if error is VersionConflictError:
            await inside.update_session("alice", session_id, title="x", expected_version=7)
        elif error is SessionNotFoundError:
            await inside.add_message("bob", session_id, "user", "Not mine")
        else:
            raise error

    with pytest.raises(error if isinstance(error, type) else KeyError):
        await chats.run_in_transaction(work)
    assert calls == 1
    assert await contents(chats, session_id) == []
    await chats.add_message("alice", session_id, "user", "Kept")
    assert await contents(chats, session_id) == ["Kept"]
    assert count_checked_out(chats.repository) == 0


async def test_concurrent_transactions_lose_nothing(chats: AsyncChats) -> None:
    sessions = [await chats.create_session("alice") for _ in range(2)]
    shared = await chats.create_session("alice")

    async def add(number: int) -> None:
        async def work(inside: AsyncChats) -> None:
            await inside.add_message("alice", sessions[number % 2], "user", str(number))
            await inside.update_session("alice", shared, merge_metadata={str(number): number})

        await chats.run_in_transaction(work)

    await asyncio.gather(*map(add, range(8)))
    found = await chats.get_session("alice", shared)
    assert found is not None
    assert found.metadata == {str(number): number for number in range(8)}
    assert found.version == 8
    for place, session_id in enumerate(sessions):
        assert sorted(await contents(chats, session_id)) == [str(number) for number in range(place, 8, 2)]


async def test_a_deadlock_begins_the_transaction_again(chats: AsyncChats) -> None:
    """On PostgreSQL and MongoDB one of the two is rolled back; SQLite lets them take turns."""
    first, second = [await chats.create_session("alice") for _ in range(2)]
    begun = asyncio.Barrier(2) if "sqlite" not in type(chats.repository).__name__.lower() else None

    async def add(sessions: tuple[str, str], number: int) -> None:
        waits = True

        async def work(inside: AsyncChats) -> None:
            nonlocal waits
            await inside.add_message("alice", sessions[0], "user", str(number))
            if begun is not None and waits:
                waits = False
                await begun.wait()
            await inside.add_message("alice", sessions[1], "user", str(number))

        await chats.run_in_transaction(work)

    await asyncio.gather(add((first, second), 1), add((second, first), 2))
    assert sorted(await contents(chats, first)) == sorted(await contents(chats, second)) == ["1", "2"]


async def test_a_cancelled_caller_leaves_no_open_transaction(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    is_inside = asyncio.Event()

    async def work(inside: AsyncChats) -> None:
        await inside.add_message("alice", session_id, "user", "Cancelled")
        is_inside.set()
        await asyncio.sleep(0.2)
        await inside.add_message("alice", session_id, "user", "or complete")

    running = asyncio.create_task(chats.run_in_transaction(work))
    await is_inside.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await chats.add_message("alice", session_id, "user", "Next")
    # All of it or none: on SQLite and MongoDB it continues to its end.
    assert sorted(await contents(chats, session_id)) in (["Next"], ["Cancelled", "Next", "or complete"])
    async with asyncio.timeout(20):
        while count_checked_out(chats.repository):
            await asyncio.sleep(0.01)


async def test_inside_of_another_transaction_it_is_part_of_that_one(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")

    async def fail(inside: AsyncChats) -> None:
        await inside.run_in_transaction(
            lambda deeper: deeper.add_message("alice", session_id, "user", "Lost")
        )
        raise KeyError

    with pytest.raises(KeyError):
        await chats.run_in_transaction(fail)
    assert await contents(chats, session_id) == []


async def test_the_repository_has_it_too(chats: AsyncChats) -> None:
    repository = chats.repository

    async def work(inside: AsyncSessionRepository) -> str:
        assert type(inside) is type(repository)
        return await inside.create_session_async("alice", {"title": "Inside"})

    session_id = await repository.run_in_transaction(work)
    found = await repository.get_session("alice", session_id)
    assert found is not None
    assert found.title == "Inside"


@pytest.mark.parametrize("on_engine", [False, True])
async def test_a_failed_statement_that_is_caught_is_no_success(postgres_url: str, on_engine: bool) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql", "postgresql+asyncpg", 1))
    async with (
        AsyncChats(backend="postgres", engine=engine) if on_engine else AsyncChats(postgres_url) as chats
    ):
        session_id = await chats.create_session("alice")

        async def work(inside: AsyncChats) -> None:
            await inside.add_message("alice", session_id, "user", "Lost")
            manager: Any = inside.repository._connection_manager
            with pytest.raises(Exception, match="division by zero"):
                await manager.fetch(text("SELECT 1/0").columns(), {})

        with pytest.raises(BackendUnavailableError, match="25P02"):
            await chats.run_in_transaction(work)
        assert await contents(chats, session_id) == []
    await engine.dispose()


async def test_what_has_no_transactions_says_so(mongodb_standalone_url: str, redis_url: str) -> None:
    async def work(_inside: AsyncChats) -> None:
        raise AssertionError

    for url, reason in ((mongodb_standalone_url, "standalone"), (redis_url, "Redis")):
        async with AsyncChats(url) as chats:
            with pytest.raises(NotImplementedError, match=f"run_in_transaction.*{reason}"):
                await chats.run_in_transaction(work)


async def test_a_server_that_is_gone_is_reported_as_such() -> None:
    async def work(_inside: AsyncChats) -> None:
        raise AssertionError

    async with AsyncChats("postgresql://localhost:1/nothing", connect_timeout=1) as chats:
        with pytest.raises(BackendUnavailableError):
            await chats.run_in_transaction(work)
