"""Turns in several processes: on one session, with the same messages, and killed at any point."""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from sessions.services.claims import CLAIM_OWNER
from tests.services.chat.turning import Turning, turning
from tests.support.databases import Backend


@pytest.fixture(scope="module")
def processes() -> Iterator[Turning]:
    with turning() as started:
        yield started


@pytest.mark.parametrize("on_conflict", ["raise", "wait"])
async def test_turns_of_two_processes_on_one_session_are_serialised(
    backend: Backend, repository: Any, processes: Turning, on_conflict: str
) -> None:
    session_id = await repository.create_session_async("alice")
    jobs: list[dict[str, Any]] = [
        {
            "user_id": "alice",
            "session_id": session_id,
            "messages": [(f"{name} {number}", None) for number in range(8)],
            "on_conflict": on_conflict,
        }
        for name in ("one", "two")
    ]
    results = processes.run(backend, *jobs)
    history = await repository.get_session_history("alice", session_id)
    assert len(history) == 32
    for index in range(0, 32, 2):
        question, answer = history[index : index + 2]
        assert (question.role, answer.role) == ("user", "assistant")
        # Each turn has seen all before it.
        assert answer.content == f"{question.content} after {index}"
    for name in ("one", "two"):
        mine = [message.content for message in history if message.content.startswith(name)][::2]
        assert mine == [f"{name} {number}" for number in range(8)]
    if on_conflict == "wait":
        assert [(result["asked"], result["conflicts"]) for result in results] == [(8, 0)] * 2
    assert sum(result["asked"] - result["conflicts"] for result in results) == 16
    assert await repository.count_sessions(CLAIM_OWNER) == 0


async def test_the_same_messages_in_two_processes_are_answered_once(
    backend: Backend, repository: Any, processes: Turning
) -> None:
    await repository.count_sessions("alice")
    messages = [(f"Message {number}", str(uuid.uuid4())) for number in range(6)]
    job = {"user_id": "alice", "messages": messages}
    results = processes.run(backend, dict(job), dict(job), dict(job))
    assert results[0]["answers"] == results[1]["answers"] == results[2]["answers"]
    assert sum(result["asked"] for result in results) == 6
    assert await repository.count_sessions("alice") == 6
    assert await repository.count_sessions(CLAIM_OWNER) == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("times", [3, pytest.param(10, marks=pytest.mark.full_size)])
async def test_a_process_that_is_killed_leaves_whole_turns_and_blocks_nobody(
    backend: Backend, repository: Any, processes: Turning, times: int
) -> None:
    await repository.count_sessions("alice")
    if backend.name == "mongodb-replica-set":
        # Each transaction of a killed process locks its session until the server ends it, up to a minute.
        times = math.ceil(times / 4)
    for number in range(times):
        user_id = f"user {number}"
        messages = [(f"Message {part}", str(uuid.uuid4())) for part in range(60)]
        job = {"user_id": user_id, "messages": messages}
        processes.run(backend, {**job, "kill_after": random.uniform(0.1, 0.5)})
        stored = [turn async for _, turn in repository.export_user(user_id)]
        for turn in stored:
            # A session is there with a whole turn, or not at all.
            assert [message.role for message in turn] == ["user", "assistant"]
            assert turn[1].content == f"{turn[0].content} after 0"
        # What was stored is returned, and the message that was being answered is answered by another process.
        count = len(stored) + 2
        [result] = processes.run(backend, {**job, "messages": messages[:count]})
        assert [text for _, text, _ in result["answers"]] == [
            f"{text} after 0" for text, _ in messages[:count]
        ]
        # One, if what the killed process had sent was committed after that.
        assert 1 <= result["asked"] <= 2 + result["unavailable"]
        assert await repository.count_sessions(user_id) == count
    assert await repository.count_sessions(CLAIM_OWNER) == 0
