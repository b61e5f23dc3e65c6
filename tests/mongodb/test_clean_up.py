"""A clean-up after noted operations: its cost, and what it leaves to those that still run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from bson import ObjectId

from sessions.backends.mongodb import cleanup
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
