"""Turns of one session at the same time, and the same message twice."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import timedelta
from typing import Any

import pytest

from sessions import NewMessage, SessionNotFoundError, SessionRepositoryFactory, TurnConflictError
from sessions.core.turns import Turns
from sessions.services import ChatService, claims
from sessions.services.claims import CLAIM_OWNER
from tests.services.agents import Echo, Gate, Pieces, everything, texts

LEASE = 0.5


async def test_the_loser_of_a_race_is_told_and_stores_nothing(repository: Any) -> None:
    gate = Gate()
    services = [ChatService(gate, repository=repository) for _ in range(2)]
    session_id = (await ChatService(Echo(), repository=repository).chat("First", "alice"))["session_id"]
    for chosen in (session_id, str(uuid.uuid4())):
        gate.asked = 0
        gate.open.clear()
        turns = [
            asyncio.create_task(service.chat(f"Turn {index}", "alice", chosen))
            for index, service in enumerate(services * 2)
        ]
        while gate.asked < 4:
            await asyncio.sleep(0.005)
        gate.open.set()
        outcomes = await asyncio.gather(*turns, return_exceptions=True)
        [won] = [outcome for outcome in outcomes if isinstance(outcome, dict)]
        assert [type(outcome) for outcome in outcomes if outcome is not won] == [TurnConflictError] * 3
        history = await texts(repository, "alice", chosen)
        assert history[-1] == ("assistant", won["message"])
        assert len(history) == (4 if chosen == session_id else 2)


async def test_turns_that_wait_answer_one_after_the_other(repository: Any) -> None:
    agent = Echo()
    session_id = str(uuid.uuid4())
    services = [ChatService(agent, repository=repository, on_conflict="wait") for _ in range(2)]

    async def stream(service: ChatService, message: str) -> Any:
        return [item async for item in service.stream(message, "alice", session_id)][-1]

    turns = [service.chat(f"Chat {index}", "alice", session_id) for index, service in enumerate(services * 2)]
    results = await asyncio.gather(*turns, *(stream(service, "Stream") for service in services))
    assert len(agent.asked) == 6
    assert sorted(int(result["message"].split()[-1]) for result in results) == [0, 2, 4, 6, 8, 10]
    history = await texts(repository, "alice", session_id)
    assert [content.split()[-1] for role, content in history if role == "assistant"] == [
        *("0", "2", "4", "6", "8", "10")
    ]
    assert await repository.count_sessions(CLAIM_OWNER) == 0


async def test_a_turn_that_waits_asks_again_if_one_that_does_not_comes_between(repository: Any) -> None:
    gate = Gate()
    session_id = (await ChatService(Echo(), repository=repository).chat("First", "alice"))["session_id"]
    waiting = asyncio.create_task(
        ChatService(gate, repository=repository, on_conflict="wait").chat("Second", "alice", session_id)
    )
    await gate.started.wait()
    await ChatService(Echo(), repository=repository).chat("Between", "alice", session_id)
    gate.open.set()
    assert (await waiting)["message"] == "Second after 4"
    assert gate.asked == 2


async def test_other_changes_of_the_session_are_no_conflict(repository: Any) -> None:
    gate = Gate()
    service = ChatService(gate, repository=repository)
    first = await ChatService(Echo(), repository=repository).chat("First", "alice")
    session_id, answer_id = first["session_id"], first["metadata"]["answer_id"]
    for message in ("Second", "Third"):  # The version is read, then remembered.
        gate.started.clear()
        gate.open.clear()
        turn = asyncio.create_task(service.chat(message, "alice", session_id))
        await gate.started.wait()
        assert await service.rename_session("alice", session_id, f"Mine {message}")
        await repository.update_session_async("alice", session_id, merge_metadata={"pinned": message})
        await repository.update_message("alice", session_id, answer_id, merge_metadata={"thumbs": message})
        gate.open.set()
        assert (await turn)["success"] is True
    assert len(await texts(repository, "alice", session_id)) == 6
    found = await repository.get_session("alice", session_id)
    assert (found.title, found.metadata) == ("Mine Third", {"pinned": "Third"})
    # The same for turns that replace messages.
    for change in ("regenerate", "edit"):
        gate.started.clear()
        gate.open.clear()
        history = await repository.get_session_history("alice", session_id)
        work = (
            service.regenerate("alice", session_id)
            if change == "regenerate"
            else service.edit("alice", session_id, history[-2].message_id, "Edited")
        )
        turn = asyncio.create_task(work)
        await gate.started.wait()
        await repository.update_message("alice", session_id, answer_id, merge_metadata={"thumbs": change})
        gate.open.set()
        assert (await turn)["success"] is True
        kept = (await repository.get_session_history("alice", session_id))[1]
        assert kept.metadata["thumbs"] == change
        assert len(await texts(repository, "alice", session_id)) == 6


@pytest.mark.parametrize("change", ["message", "clear", "delete"])
async def test_other_changes_of_the_messages_are_a_conflict(repository: Any, change: str) -> None:
    gate = Gate()
    service = ChatService(gate, repository=repository)
    session_id = (await ChatService(Echo(), repository=repository).chat("First", "alice"))["session_id"]
    last = (await repository.get_session_history("alice", session_id))[-2].message_id
    turns = [
        asyncio.create_task(work)
        for work in (
            service.chat("Second", "alice", session_id),
            service.regenerate("alice", session_id),
            service.edit("alice", session_id, last, "Other"),
        )
    ]
    while gate.asked < 3:
        await asyncio.sleep(0.005)
    if change == "message":
        await repository.add_message(session_id, "user", "Between")
    elif change == "clear":
        await repository.clear_messages("alice", session_id)
    else:
        await service.delete_session("alice", session_id)
    left = await everything(repository)
    gate.open.set()
    outcomes = await asyncio.gather(*turns, return_exceptions=True)
    expected = SessionNotFoundError if change == "delete" else TurnConflictError
    assert [type(outcome) for outcome in outcomes] == [expected] * 3
    assert await everything(repository) == left


@pytest.mark.parametrize("on_conflict", ["raise", "wait"])
async def test_a_repeated_message_id_returns_the_stored_answer(
    repository: Any, on_conflict: Any, backend: Any
) -> None:
    gate = Gate()
    message_id = str(uuid.uuid4())

    async with backend.repository() as other_repository:
        # As of two processes: they share nothing but the database.
        services = [
            ChatService(gate, repository=each, on_conflict=on_conflict)
            for each in (repository, other_repository)
        ]
        for session_id in (
            None,
            (await ChatService(Echo(), repository=repository).chat("First", "alice"))["session_id"],
        ):
            gate.asked = 0
            gate.started.clear()
            gate.open.clear()
            message_id = str(uuid.uuid4())
            turns = [
                asyncio.create_task(service.chat("Hi", "alice", session_id, message_id=message_id.upper()))
                for service in services * 2
            ]
            await gate.started.wait()
            await asyncio.sleep(0.05)
            gate.open.set()
            results = await asyncio.gather(*turns)
            assert gate.asked == 1
            assert len({result["session_id"] for result in results}) == 1
            assert len({result["metadata"]["answer_id"] for result in results}) == 1
            assert sum(result["metadata"].get("repeated", False) for result in results) == 3
            text, repeated = [
                item
                async for item in services[0].stream(
                    "Hi", "alice", session_id, message_id=uuid.UUID(message_id)
                )
            ]
            assert isinstance(repeated, dict)
            assert text == repeated["message"] == results[0]["message"]
            assert repeated["success"] is True
            assert gate.asked == 1
            # Also once there is another answer.
            again = await services[0].regenerate("alice", repeated["session_id"])
            found = await services[1].chat("Hi", "alice", session_id, message_id=message_id)
            assert found["metadata"]["answer_id"] == again["metadata"]["answer_id"]
    assert await repository.count_sessions(CLAIM_OWNER) == 0


async def test_a_message_that_is_stored_without_an_answer_is_answered(repository: Any) -> None:
    agent = Echo()
    service = ChatService(agent, repository=repository)
    message_id = str(uuid.uuid4())
    session_id = await repository.create_session_async(
        "alice", messages=[("system", "Be kind."), NewMessage("user", "Hi", message_id=message_id)]
    )
    result = await service.chat("Hi", "alice", session_id, message_id=message_id)
    assert (result["message"], result["metadata"]["message_id"]) == ("Hi after 1", message_id)
    assert len(await texts(repository, "alice", session_id)) == 3


@pytest.mark.parametrize(
    ("name", "is_new"),
    [
        ("get_session", True),
        ("get_message", True),
        ("get_session", False),
        ("get_session_history", False),
        ("get_message", False),
    ],
)
async def test_an_answer_that_is_committed_after_it_was_looked_for_is_returned(
    repository: Any, monkeypatch: pytest.MonkeyPatch, name: str, is_new: bool
) -> None:
    # As by a process that was killed, whose last transaction the server commits afterwards.
    first = [("system", "Be kind.")]
    chosen = None if is_new else await repository.create_session_async("alice", messages=first)
    message_id, read = str(uuid.uuid4()), getattr(repository, name)
    earlier = ChatService(Pieces("The first answer"), repository=repository)
    monkeypatch.setattr(claims.Claims, "hold", lambda self, *parts: contextlib.nullcontext())

    async def too_early(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(repository, name, read)
        found = await read(*arguments, **options)
        await earlier.chat("Hi", "alice", chosen, message_id=message_id)
        return found

    monkeypatch.setattr(repository, name, too_early)
    service = ChatService(Echo(), repository=repository)
    result = await service.chat("Hi", "alice", chosen, message_id=message_id)
    monkeypatch.setattr(repository, name, read)
    assert (result["message"], result["metadata"].get("repeated")) == ("The first answer", True)
    history = await texts(repository, "alice", result["session_id"])
    assert history[-2:] == [("user", "Hi"), ("assistant", "The first answer")]
    assert len(history) == (2 if is_new else 3)


async def test_a_repetition_after_a_failure_asks_the_agent_again(repository: Any) -> None:
    agent = Pieces(then=RuntimeError())
    service = ChatService(agent, repository=repository)
    message_id = uuid.uuid4()
    assert (await service.chat("Hi", "alice", message_id=message_id))["success"] is False
    agent.then, agent.pieces = None, ("Hello",)
    assert (await service.chat("Hi", "alice", message_id=message_id))["message"] == "Hello"
    assert await everything(repository) == [[("user", "Hi", None), ("assistant", "Hello", "complete")]]


async def test_a_claim_of_a_process_that_died_is_taken_over(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process has no part in the queues of this one.
    monkeypatch.setattr(claims, "turns_for", lambda key: Turns())
    gate = Gate()
    message_id = str(uuid.uuid4())
    lost = ChatService(gate, repository=repository, claim_seconds=LEASE)
    dead = asyncio.create_task(lost.chat("Hi", "alice", message_id=message_id))
    await gate.started.wait()
    # The holder renews it: nobody else asks an agent.
    patient = ChatService(Echo(), repository=repository, claim_seconds=LEASE, wait_timeout=3 * LEASE)
    with pytest.raises(TurnConflictError):
        await patient.chat("Hi", "alice", message_id=message_id)
    for task in asyncio.all_tasks():  # What a killed process no longer does.
        if getattr(task.get_coro(), "__qualname__", "") == "_Claim.renew":
            task.cancel()
    agent = Echo()
    service = ChatService(agent, repository=repository, claim_seconds=LEASE)
    result = await service.chat("Hi", "alice", message_id=message_id)
    assert (result["message"], len(agent.asked)) == ("Hi after 0", 1)
    # The former holder comes back: it returns the stored answer, too.
    gate.open.set()
    assert (await dead)["metadata"]["answer_id"] == result["metadata"]["answer_id"]
    assert len(await everything(repository)) == 1
    assert await repository.count_sessions(CLAIM_OWNER) == 0


async def test_claims_that_killed_processes_left_are_deleted_at_last(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        for _ in range(3):
            await repository.create_session_async(CLAIM_OWNER, {"title": "claim"})
        service = ChatService(Echo(), repository=repository)
        monkeypatch.setattr(claims, "PURGED_BY_ONE_OF", 1)
        await service.chat("Hi", "alice", message_id=uuid.uuid4())
        assert await repository.count_sessions(CLAIM_OWNER) == 3
        monkeypatch.setattr(claims, "PURGE_AFTER", timedelta(0))
        await service.chat("Hi", "alice", message_id=uuid.uuid4())
        assert await repository.count_sessions(CLAIM_OWNER) == 0
