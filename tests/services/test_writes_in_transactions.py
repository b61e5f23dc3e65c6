"""Versions, ids sent again and merged metadata in a service's own transaction."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from sessions import AsyncChats, MessageConflictError, NewMessage, VersionConflictError

SQL = {"sqlite": "sqlite+aiosqlite", "postgres": "postgresql+asyncpg"}


@pytest.fixture(params=SQL)
async def sql(request: pytest.FixtureRequest) -> AsyncIterator[tuple[AsyncChats, AsyncEngine]]:
    """Chats on a service's own engine."""
    url = request.getfixturevalue(f"{request.param}_url")
    async with AsyncChats(url) as chats:
        await chats.ensure_ready()
    engine = create_async_engine(url.replace(url.partition("://")[0], SQL[request.param], 1))
    if request.param == "sqlite":

        @event.listens_for(engine.sync_engine, "connect")
        def enforce_foreign_keys(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA foreign_keys=ON")

    async with AsyncChats(backend=request.param, engine=engine) as chats:
        yield chats, engine
    await engine.dispose()


async def work(chats: AsyncChats) -> str:
    """Write all that a message and a session hold, and fail on the way in each manner."""
    first = NewMessage("user", "One", message_id=uuid.uuid4(), metadata={"a": 1}, payload=[1])
    session_id = await chats.create_session("alice", metadata={"kept": 1}, messages=[first])
    batch = [NewMessage("tool", str(number), message_id=uuid.uuid4()) for number in range(3)]
    await chats.add_messages("alice", session_id, batch[1:2], expected_version=0)
    await chats.add_messages("alice", session_id, batch, merge_metadata={"merged": True}, expected_version=1)
    # Errors of which the caller's transaction goes on.
    with pytest.raises(VersionConflictError):
        await chats.add_message("alice", session_id, "user", "Late", expected_version=0)
    with pytest.raises(MessageConflictError):
        await chats.add_messages(
            "alice", session_id, [("user", "New"), NewMessage("user", "Two", message_id=first.message_id)]
        )
    with pytest.raises(MessageConflictError):
        await chats.create_session("alice", messages=[("user", "New"), first])
    assert await chats.add_messages("alice", session_id, batch, merge_metadata={"merged": 2}) == [
        str(message.message_id) for message in batch
    ]
    with pytest.raises(VersionConflictError):
        await chats.update_session("alice", session_id, title="Late", expected_version=1)
    assert await chats.update_session(
        "alice", session_id, merge_metadata={"new": None}, remove_metadata=["kept"], expected_version=2
    )
    with pytest.raises(VersionConflictError):
        await chats.delete_session("alice", session_id, expected_version=2)
    [preview] = (await chats.list_session_previews("alice", where={"merged": True, "kept": None})).previews
    assert preview.last_message is not None
    assert preview.last_message.content == "2"
    return session_id


@pytest.mark.parametrize("of_orm", [True, False])
@pytest.mark.parametrize("commits", [True, False])
async def test_writes_commit_or_roll_back_and_errors_leave_the_transaction_open(
    sql: tuple[AsyncChats, AsyncEngine], commits: bool, of_orm: bool
) -> None:
    chats, engine = sql
    opened: Any = AsyncSession(engine) if of_orm else engine.connect()
    async with opened as transaction:
        await transaction.begin()
        session_id = await work(chats.using(transaction))
        await transaction.execute(text("SELECT 1"))
        await (transaction.commit() if commits else transaction.rollback())
    found = await chats.get_session("alice", session_id)
    history = await chats.get_session_history("alice", session_id)
    assert [message.content for message in history] == (["One", "1", "0", "2"] if commits else [])
    assert await chats.count_sessions("alice") == (1 if commits else 0)
    if commits:
        assert found is not None
        assert (found.version, found.metadata) == (3, {"merged": True, "new": None})
        assert (history[0].metadata, history[0].payload) == ({"a": 1}, [1])


async def test_a_services_own_engine_writes_the_same(sql: tuple[AsyncChats, AsyncEngine]) -> None:
    chats, _ = sql
    session_id = await work(chats)
    history = await chats.get_session_history("alice", session_id)
    assert [message.content for message in history] == ["One", "1", "0", "2"]


async def test_two_transactions_never_pop_the_same_message(sql: tuple[AsyncChats, AsyncEngine]) -> None:
    chats, engine = sql
    session_id = await chats.create_session("alice", messages=[("user", "1"), ("user", "2")])
    async with engine.connect() as first, engine.connect() as second:
        one = await chats.using(first).pop_message("alice", session_id)
        waits = asyncio.create_task(chats.using(second).pop_message("alice", session_id))
        await asyncio.wait([waits], timeout=0.2)
        await first.commit()
        other = await waits
        await second.commit()
    assert one is not None
    assert other is not None
    assert (one.content, other.content) == ("2", "1")
    found = await chats.get_session("alice", session_id)
    assert found is not None
    assert found.version == 2
    assert await chats.count_messages("alice", session_id) == 0
