"""A process is killed at each step of an append or a create on a standalone MongoDB."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from sessions import NewMessage
from sessions.core.identifiers import new_message_id
from tests.faults.killed.dying import MAX_OPERATION_TIME, MAX_STEPS, Dying
from tests.support.databases import Backend

USER = "alice"


@pytest.fixture(autouse=True)
def every_note_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MAX_OPERATION_TIME, timedelta(seconds=-2))


def new_rows(contents: list[str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": one, "message_id": new_message_id()} for one in contents]


async def state(repository: Any, session_id: str) -> tuple[list[str], int, dict[str, Any]]:
    history = await repository.get_session_history(USER, session_id)
    chat_session = await repository.get_session(USER, session_id)
    return [message.content for message in history], chat_session.version, chat_session.metadata


async def check_clean(repository: Any, raw: Any, number: int) -> None:
    await repository.remove_orphaned_messages()
    assert raw.chat_unfinished.count_documents({}) == 0
    assert raw.chat_messages.count_documents({}) == number
    assert raw.chat_messages.count_documents({"batch": {"$exists": True}}) == 0
    assert raw.chat_sessions.count_documents({"edit.open": True}) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"expected_version": 1},
        {"merge_metadata": {"$a.b": 1}},
        {"merge_metadata": {"$a.b": 1}, "expected_version": 1},
    ],
    ids=["version", "merge", "version and merge"],
)
@pytest.mark.parametrize("ends", ["repeated", "cleaned up"])
async def test_messages_metadata_and_version_change_together_or_not_at_all(
    processes: Dying, backend: Backend, raw: Any, options: dict[str, Any], ends: str
) -> None:
    metadata = {"kept": True}
    before = (["before"], 1, metadata)
    after = (["before", "a", "b"], 2, metadata | options.get("merge_metadata", {}))
    seen = []
    async with backend.repository() as repository:
        for step in range(MAX_STEPS):
            session_id = await repository.create_session_async(USER, {"metadata": metadata})
            await repository.add_message(session_id, "user", "before")
            rows = new_rows(["a", "b"])
            processes.start(backend, "add_messages", session_id, rows, step=step, **options)
            killed = processes.was_killed()

            found = await state(repository, session_id)
            assert found in (before, after)
            seen.append(found == after)
            if ends == "repeated":
                messages = [NewMessage(**row) for row in rows]
                for _ in range(2):
                    assert await repository.add_messages(session_id, messages, **options) == [
                        row["message_id"] for row in rows
                    ]
                    assert await state(repository, session_id) == after
                found = after
            await check_clean(repository, raw, len(found[0]))
            assert await state(repository, session_id) == found
            await repository.delete_session_async(USER, session_id)
            if not killed:
                break
    assert not killed
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (False, True)


async def test_a_repetition_completes_an_append_that_was_killed_before_its_second_write(
    processes: Dying, backend: Backend, raw: Any
) -> None:
    versions = []
    async with backend.repository() as repository:
        for step in range(MAX_STEPS):
            session_id = await repository.create_session_async(USER)
            created = (await repository.get_session(USER, session_id)).updated_at
            [row] = new_rows(["once"])
            arguments = [session_id, "user", "once"]
            processes.start(backend, "add_message", *arguments, step=step, message_id=row["message_id"])
            killed = processes.was_killed()
            versions.append((await state(repository, session_id))[1])
            for _ in range(2):
                await repository.add_message(*arguments, message_id=row["message_id"])
                chat_session = await repository.get_session(USER, session_id)
                assert await state(repository, session_id) == (["once"], 1, {})
                assert chat_session.updated_at > created
            await check_clean(repository, raw, 1)
            await repository.delete_session_async(USER, session_id)
            if not killed:
                break
    assert not killed
    # It looks the session up, inserts, updates.
    assert versions == [0, 0, 0, 1]


async def test_a_session_is_created_with_all_of_its_messages_or_not_at_all(
    processes: Dying, backend: Backend, raw: Any
) -> None:
    numbers = []
    async with backend.repository() as repository:
        for step in range(MAX_STEPS):
            messages = new_rows(["a", "b", "c"])
            processes.start(backend, "create_session_async", USER, None, step=step, messages=messages)
            killed = processes.was_killed()

            found = (await repository.list_session_previews(USER)).previews
            numbers.append(len(found))
            for preview in found:
                assert await state(repository, preview.session.session_id) == (["a", "b", "c"], 0, {})
                assert preview.last_message is not None
                assert preview.last_message.content == "c"
            await check_clean(repository, raw, 3 * len(found))
            await repository.delete_user(USER)
            if not killed:
                break
    assert not killed
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (0, 1)
