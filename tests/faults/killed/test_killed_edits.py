"""A process is killed at each step of an edit on a standalone MongoDB: the edit is whole, or not there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from sessions import NewMessage
from sessions.core.identifiers import new_message_id
from tests.faults.killed.dying import MAX_OPERATION_TIME, MAX_STEPS, Dying
from tests.support.databases import Backend

USER = "alice"
AFTER = ["0", "1", "2", "3"]
BEFORE = ["0", "1", "2", "3", "4"]


@dataclass
class Work:
    """An edit.

    Attributes:
        operation: Its async name.
        after: The contents of the messages after it.
        arguments: Its arguments after the session; a number is the id of that message.
        options: Its keyword arguments.
    """

    operation: str
    after: list[str]
    arguments: list[Any] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


WORKS = {
    "update": Work("update_message", ["0", "new", "2", "3", "4"], [1], {"content": "new"}),
    "pop": Work("pop_message", BEFORE[:-1]),
    "delete of some": Work("delete_messages", ["0", "2", "4"], [[1, 3]]),
    "delete from one": Work("delete_messages_from", ["0", "1"], [2]),
    "delete after one": Work("delete_messages_from", ["0", "1", "2"], [2], {"inclusive": False}),
    "clear": Work("clear_messages", []),
    "replace": Work("replace_messages", ["a", "b"], [[["user", "a"], ["assistant", "b"]]]),
}


async def _contents(repository: Any, session_id: str) -> list[str]:
    """Return the visible messages, after checking that all operations agree on them."""
    history = await repository.get_session_history(USER, session_id)
    contents = [message.content for message in history]
    newest = await repository.get_session_history(USER, session_id, limit=2)
    assert newest == history[-2:]
    assert await repository.count_messages(USER, session_id) == len(history)
    if history:
        after = await repository.get_session_history(USER, session_id, after=history[0].message_id)
        assert after == history[1:]
        since = await repository.get_session_history(USER, session_id, since=history[0].timestamp, limit=1)
        assert since == history[:1]
    for message in history:
        assert await repository.get_message(USER, session_id, message.message_id) == message
    exported = [
        message.content
        async for chat_session, part in repository.export_user(USER)
        if chat_session.session_id == session_id
        for message in part
    ]
    assert exported == contents
    hits = (
        (await repository.search_messages(USER, contents[0], session_id=session_id)).hits if history else []
    )
    assert all(hit.message in history for hit in hits)
    return contents


async def _clean_up(repository: Any, raw: Any, session_id: str, contents: list[str]) -> None:
    """The next clean-up that takes the operation for ended leaves only visible messages, without marks."""
    await repository.remove_orphaned_messages()
    assert raw.chat_unfinished.count_documents({}) == 0
    stored = list(raw.chat_messages.find({"session_id": session_id}))
    assert sorted(document["content"] for document in stored) == sorted(contents)
    assert not any(document.get("dropped_by") or "revises" in document for document in stored)
    assert all(document.get("batch") is None for document in stored)
    assert "open" not in (raw.chat_sessions.find_one({"session_id": session_id}).get("edit") or {})
    assert await _contents(repository, session_id) == contents


async def _edit(repository: Any, session_id: str, contents: list[str]) -> list[str]:
    """The next edits and appends build on what is visible."""
    await repository.add_message(session_id, "user", "last")
    contents = [*contents, "last"]
    assert await _contents(repository, session_id) == contents
    first = (await repository.get_session_history(USER, session_id))[0]
    assert await repository.update_message(USER, session_id, first.message_id, content="first")
    contents = ["first", *contents[1:]]
    assert await _contents(repository, session_id) == contents
    return contents


# What README's command has: a change of one message, of some, and of all.
USED = ("update", "delete of some", "replace")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in USED else [pytest.mark.full_size]) for name in WORKS]
)
async def test_an_edit_killed_at_any_step_is_atomic(
    processes: Dying, backend: Backend, raw: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, seen = WORKS[name], []
    monkeypatch.setattr(MAX_OPERATION_TIME, timedelta(seconds=-2))  # Every note is old.
    async with backend.repository() as repository:
        for step in range(MAX_STEPS):
            session_id = await repository.create_session_async(USER)
            ids = await repository.add_messages(session_id, [("user", content) for content in BEFORE])
            version = raw.chat_sessions.find_one({"session_id": session_id}).get("version") or 0
            arguments = [_with_ids(argument, ids) for argument in work.arguments]
            processes.start(backend, work.operation, USER, session_id, *arguments, step=step, **work.options)
            killed = processes.was_killed()

            contents = await _contents(repository, session_id)
            assert contents in (BEFORE, work.after)
            after = raw.chat_sessions.find_one({"session_id": session_id}).get("version") or 0
            assert after == version + (contents == work.after)
            seen.append(contents)
            if step % 2:
                contents = await _edit(repository, session_id, contents)
            await _clean_up(repository, raw, session_id, contents)
            await _edit(repository, session_id, contents)
            await repository.delete_session_async(USER, session_id)
            if not killed:
                break
    assert not killed
    # Both states are met, first the old one.
    assert seen == sorted(seen, key=lambda contents: contents == work.after)
    assert seen[0] == BEFORE
    assert seen[-2] == seen[-1] == work.after


async def test_a_replacement_that_reuses_ids_is_atomic_at_any_step(
    processes: Dying, backend: Backend, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repetition after the kill, with the same ids, finds what the first attempt left."""
    monkeypatch.setattr(MAX_OPERATION_TIME, timedelta(seconds=-2))
    async with backend.repository() as repository:
        for step in range(MAX_STEPS):
            session_id = await repository.create_session_async(USER)
            new = [new_message_id() for _ in range(4)]
            await repository.add_message(session_id, "user", "old", message_id=new[0])
            await repository.add_message(session_id, "user", "other")
            await repository.add_message(session_id, "user", "kept", message_id=new[3])
            before = await _contents(repository, session_id)
            processes.start(backend, "replace_messages", USER, session_id, _rows(new), step=step)
            killed = processes.was_killed()

            contents = await _contents(repository, session_id)
            assert contents in (before, AFTER)
            rows = [NewMessage(**row) for row in _rows(new)]
            assert await repository.replace_messages(USER, session_id, rows) == [
                row.message_id for row in rows
            ]
            assert await _contents(repository, session_id) == AFTER
            await _clean_up(repository, raw, session_id, AFTER)
            if not killed:
                break
    assert not killed


async def test_a_fork_killed_at_any_step_is_complete_or_absent(
    processes: Dying, backend: Backend, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MAX_OPERATION_TIME, timedelta(seconds=-2))
    numbers = []
    async with backend.repository() as repository:
        for step in range(MAX_STEPS):
            session_id = await repository.create_session_async(USER)
            await repository.add_messages(session_id, [("user", content) for content in BEFORE])
            processes.start(backend, "fork_session", USER, session_id, step=step)
            killed = processes.was_killed()

            found = [one.session_id for one in (await repository.list_sessions(USER)).sessions]
            forks = [one for one in found if one != session_id]
            numbers.append(len(forks))
            for fork in forks:
                assert await _contents(repository, fork) == BEFORE
            await repository.remove_orphaned_messages()
            assert raw.chat_unfinished.count_documents({}) == 0
            assert raw.chat_messages.count_documents({}) == len(BEFORE) * len(found)
            assert raw.chat_messages.count_documents({"batch": {"$exists": True}}) == 0
            for fork in forks:
                assert await _contents(repository, fork) == BEFORE
            await repository.delete_user(USER)
            if not killed:
                break
    assert not killed
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert numbers[-2] == numbers[-1] == 1


async def test_what_may_still_run_is_left_alone(
    processes: Dying, backend: Backend, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backend.repository() as repository:
        session_id = await repository.create_session_async(USER)
        await repository.add_messages(session_id, [("user", content) for content in BEFORE])
        # Killed before the session of the fork is stored, and before the replacement is committed.
        for work, step in (("fork_session", 5), ("replace_messages", 6)):
            arguments = [[["user", "new"]]] if work == "replace_messages" else []
            processes.start(backend, work, USER, session_id, *arguments, step=step)
            assert processes.was_killed()
        hidden = raw.chat_messages.count_documents({"batch": {"$exists": True}})
        assert hidden == len(BEFORE) + 1

        young = await repository.remove_orphaned_messages()
        assert (young.removed, young.under_way) == (0, 2)
        assert await repository.delete_user("nobody") == 0
        assert raw.chat_messages.count_documents({"batch": {"$exists": True}}) == hidden
        assert await _contents(repository, session_id) == BEFORE
        monkeypatch.setattr(MAX_OPERATION_TIME, timedelta(0))
        time.sleep(1)  # An ObjectId has whole seconds.
        old = await repository.remove_orphaned_messages()
        assert (old.removed, old.under_way) == (hidden, 0)
        assert await _contents(repository, session_id) == BEFORE


def _rows(ids: list[str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": str(at), "message_id": ids[at]} for at in range(4)]


def _with_ids(argument: Any, ids: list[str]) -> Any:
    if isinstance(argument, int):
        return ids[argument]
    if isinstance(argument, list) and all(isinstance(item, int) for item in argument):
        return [ids[item] for item in argument]
    return argument
