"""A clean-up after noted operations: its cost, and what it leaves to those that still run."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId

from sessions import MessageConflictError, NewMessage
from sessions.backends.mongodb import cleanup
from sessions.backends.mongodb.deletion import MongoDeletion
from sessions.backends.mongodb.forking import MongoForking
from sessions.models.documents import SESSION_FIELD
from tests.support.databases import Backend
from tests.support.wire import Wire, counted

USER = "alice"
LONG_AGO = datetime.now(UTC) - timedelta(hours=2)
SECONDS_AGO = datetime.now(UTC) - timedelta(seconds=40)  # More than the time limit of an operation.


@pytest.fixture
async def watched(url: str) -> AsyncIterator[tuple[Any, Wire]]:
    async with counted(Backend("mongodb", "mongodb", url)) as (repository, wire):
        await repository.ensure_ready()
        yield repository, wire


def note(raw: Any, session_ids: list[str], at: datetime | None = None, **marks: Any) -> None:
    first = ObjectId() if at is None else ObjectId.from_datetime(at)
    note_id = ObjectId(first.binary[:4] + ObjectId().binary[4:])
    raw.chat_unfinished.insert_one({"_id": note_id, "session_ids": session_ids} | marks)


def under_way(raw: Any, session_id: str) -> None:
    """Add notes of operations of every kind that have just begun, and of a committed edit."""
    note(raw, [session_id])
    note(raw, [session_id], batch="not stored")
    note(raw, [session_id], edit=ObjectId())
    note(raw, [], edit=ObjectId(), new_session_ids=["not stored"])
    token = commit(raw, session_id)
    note(raw, [session_id], edit=token)


def commit(raw: Any, session_id: str) -> ObjectId:
    """Let the session have a committed edit that has not ended; it drops a message."""
    token = ObjectId()
    edit = {"token": token, "wide": None, "open": True}
    raw.chat_sessions.update_one({"session_id": session_id}, {"$set": {"edit": edit}})
    raw.chat_messages.update_one({"session_id": session_id}, {"$set": {"dropped_by": [token]}})
    return token


async def sessions(repository: Any, number: int) -> list[str]:
    found = [await repository.create_session_async(USER) for _ in range(number)]
    for session_id in found:
        await repository.add_messages(session_id, [("user", "first"), ("user", "second")])
    return found


async def test_the_number_of_commands_does_not_grow_with_the_operations_under_way(
    watched: tuple[Any, Wire], raw: Any
) -> None:
    repository, wire = watched
    seen = []
    for session_ids in (await sessions(repository, 1), await sessions(repository, 11)):
        for session_id in session_ids:
            under_way(raw, session_id)
        wire.clear()
        assert await repository.delete_user("nobody") == 0
        seen.append(list(wire.statements))

    assert raw.chat_unfinished.count_documents({}) == 12 * 5
    assert raw.chat_sessions.count_documents({"edit.open": True}) == 12
    assert seen[0] == seen[1]
    # Of sessions to delete; of notes; of absent and of edited sessions; of batches.
    assert seen[0].count("find") == 5
    assert set(seen[0]) <= {"find", "commitTransaction", "abortTransaction"}


async def test_one_clean_up_ends_all_that_was_interrupted(watched: tuple[Any, Wire], raw: Any) -> None:
    repository, wire = watched
    for number in (1, 30):
        *deleted, complete = await sessions(repository, number + 1)
        for session_id in deleted:
            raw.chat_sessions.delete_one({"session_id": session_id})
            note(raw, [session_id])
            stored = raw.chat_messages.find_one({"session_id": complete})
            mark = f"{session_id} last"
            raw.chat_messages.insert_one(
                stored | {"_id": session_id, "message_id": session_id, "batch": mark}
            )
            note(raw, [complete], LONG_AGO, batch=mark)
            note(raw, [complete], LONG_AGO)
        wire.clear()
        found = await repository.remove_orphaned_messages()
        # Two messages of each deleted session, and one of each incomplete batch.
        assert (found.removed, found.under_way) == (3 * number, 0)
        assert wire.statements.count("delete") == 3
        assert raw.chat_unfinished.count_documents({}) == 0
        assert len(await repository.get_session_history(USER, complete)) == 2
        await repository.delete_user(USER)


async def test_a_committed_edit_is_ended_once_its_attempt_is_over(
    watched: tuple[Any, Wire], raw: Any
) -> None:
    repository, _ = watched
    [session_id] = await sessions(repository, 1)
    token = commit(raw, session_id)
    note(raw, [session_id], SECONDS_AGO, edit=token)

    assert await repository.delete_user("nobody") == 0
    assert raw.chat_unfinished.count_documents({}) == 0
    assert raw.chat_messages.count_documents({}) == 1
    assert "open" not in raw.chat_sessions.find_one({"session_id": session_id})["edit"]


async def test_a_deletion_does_not_spend_its_time_on_the_edits_of_others(
    watched: tuple[Any, Wire], raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, _ = watched
    for session_id in await sessions(repository, 5):
        note(raw, [session_id], SECONDS_AGO, edit=commit(raw, session_id))
    # The time is over after two of them.
    times = chain([0.0, 0.0, 0.0], repeat(1000.0))
    monkeypatch.setattr(cleanup, "time", SimpleNamespace(monotonic=lambda: next(times)))

    assert await repository.delete_user("nobody") == 0
    assert raw.chat_unfinished.count_documents({}) == 3
    monkeypatch.undo()
    assert (await repository.remove_orphaned_messages()).under_way == 0
    assert raw.chat_unfinished.count_documents({}) == 0
    assert raw.chat_messages.count_documents({}) == 5


@pytest.mark.parametrize("url", ["mongodb_standalone_url"], indirect=True, ids=["standalone"])
@pytest.mark.parametrize("operation", ["delete_session_async", "delete_user"])
async def test_a_session_created_again_during_its_deletion_leaves_no_message_of_the_former(
    watched: tuple[Any, Wire], raw: Any, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    repository, _ = watched
    [session_id] = await sessions(repository, 1)
    delete_orphaned = MongoDeletion.delete_orphaned

    async def after_another_caller(self: Any, *session_ids: str, **former: Any) -> int:
        if not raw.chat_sessions.count_documents({"session_id": session_id}):
            # A caller of `ensure_session_exists` that found the session absent before it was filled.
            await repository.create_session_async("bob", messages=[("user", "new")], session_id=session_id)
        return await delete_orphaned(self, *session_ids, **former)

    monkeypatch.setattr(MongoDeletion, "delete_orphaned", after_another_caller)
    arguments = (USER, session_id) if operation == "delete_session_async" else (USER,)
    assert await getattr(repository, operation)(*arguments) == 1
    assert [message["content"] for message in raw.chat_messages.find()] == ["new"]
    assert [message.content for message in await repository.get_session_history("bob", session_id)] == ["new"]


async def test_what_an_interrupted_creation_has_left_does_not_take_the_ids_of_its_messages(
    watched: tuple[Any, Wire], raw: Any
) -> None:
    repository, _ = watched
    session_id, message_id, oid = str(uuid.uuid4()), str(uuid.uuid4()), ObjectId()
    left = {"_id": message_id, "message_id": message_id, "session_id": session_id, "role": "user"}
    left |= {"content": "Hi", "timestamp": datetime.now(UTC), SESSION_FIELD: oid, "batch": oid}
    raw.chat_messages.insert_one(left)
    # With an answer of its own, as the next attempt of a turn.
    messages = [NewMessage("user", "Hi", message_id=message_id), ("assistant", "Hello")]
    await repository.create_session_async(USER, messages=messages, session_id=session_id)
    history = await repository.get_session_history(USER, session_id)
    assert [(message.content, message.message_id == message_id) for message in history] == [
        ("Hi", True),
        ("Hello", False),
    ]
    assert raw.chat_messages.count_documents({}) == 2
    # A visible message keeps its id.
    with pytest.raises(MessageConflictError):
        await repository.create_session_async(USER, messages=messages[:1])
    assert await repository.count_sessions(USER) == 1


@pytest.mark.parametrize("url", ["mongodb_standalone_url"], indirect=True, ids=["standalone"])
async def test_a_creation_that_is_taken_for_interrupted_stores_its_messages_again(
    watched: tuple[Any, Wire], raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, _ = watched
    insert = MongoForking.insert

    async def slow(self: Any, collection: Any, *arguments: Any) -> None:
        if collection.name == "chat_sessions":
            raw.chat_messages.delete_one({"content": "second"})
        await insert(self, collection, *arguments)

    monkeypatch.setattr(MongoForking, "insert", slow)
    messages = [("user", "first"), ("assistant", "second"), ("user", "third")]
    session_id = await repository.create_session_async(USER, messages=messages)
    history = await repository.get_session_history(USER, session_id)
    assert [message.content for message in history] == ["first", "second", "third"]
