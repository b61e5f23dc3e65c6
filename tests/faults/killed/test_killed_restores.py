"""A process is killed at each step of a restore on a standalone MongoDB; it is repeated at once."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import ChatMessage, ChatSession
from sessions.cli.exported_lines import format_line
from tests.faults.killed.dying import MAX_STEPS, Dying
from tests.support.databases import Backend

THEN = datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)


def conversation() -> tuple[ChatSession, list[ChatMessage]]:
    owner = ChatSession(str(uuid.uuid4()), "Tea", "alice", THEN, THEN + timedelta(1), {"a": 1}, 7)
    return owner, [
        ChatMessage(
            str(uuid.uuid4()), owner.session_id, "user", f"Message {number}", THEN, {"n": number}, [number]
        )
        for number in range(4)
    ]


async def stored(repository: Any, session_id: str) -> tuple[Any, list[ChatMessage]]:
    return (
        await repository.get_session("alice", session_id),
        await repository.get_session_history("alice", session_id),
    )


@pytest.mark.parametrize("exists", [False, True], ids=["a new session", "a session that exists"])
async def test_a_restore_takes_effect_whole_or_not_at_all(
    processes: Dying, backend: Backend, exists: bool
) -> None:
    seen = set()
    async with backend.repository() as repository:
        for step in range(MAX_STEPS):
            owner, messages = conversation()
            before: tuple[Any, list[ChatMessage]] = (None, [])
            if exists:
                # One message is revised, one stays, two are new.
                before = (
                    replace(owner, title="Old", version=3),
                    [replace(messages[0], content="Old"), messages[1]],
                )
                await repository.admin.restore(*before)
            after = owner, messages
            line = format_line(*after).decode()
            processes.start(backend, "restore", line, step=step)
            was_killed = processes.was_killed()

            found = await stored(repository, owner.session_id)
            assert found in (before, after), step
            seen.add("before" if found == before else "after")
            await repository.admin.restore(*after)
            assert await stored(repository, owner.session_id) == after, step
            if not was_killed:
                break
        else:
            pytest.fail("the restore has more steps")

    assert seen == {"before", "after"}
