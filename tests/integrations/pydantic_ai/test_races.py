"""Conversations of Pydantic AI that two processes save at the same time."""

from __future__ import annotations

from typing import Any

from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.exceptions import UserError

from sessions.integrations.pydantic_ai import ConversationStore
from tests.integrations.pydantic_ai.talking import texts, turn
from tests.integrations.racing import ROUNDS, Race
from tests.support.databases import Backend


async def save(repository: Any, *, number: int, name: str) -> list[str]:
    """Save turns, each again after a conflict until it is stored."""
    store, done = ConversationStore(repository, user_id="alice"), 0
    while done < 2:
        name_of_conversation = f"trip {number}"
        conversation = await store.load(name_of_conversation)
        conversation = conversation or Conversation(conversation_id=name_of_conversation)
        conversation.messages += turn(f"{name} {done}")
        try:
            await store.save(conversation)
        except ConversationConflict:
            continue
        done += 1
    return []


async def save_once(repository: Any, *, number: int, name: str) -> bool:
    """Save what was loaded before both began; return whether it was stored."""
    store = ConversationStore(repository, user_id="alice")
    conversation = await store.load(f"trip {number}") or Conversation(conversation_id=f"trip {number}")
    conversation.messages += turn(name)
    try:
        await store.save(conversation)
    except ConversationConflict:
        return False
    return True


async def change_lives(repository: Any, *, number: int, name: str) -> list[bool]:
    """Delete the conversation and store it anew, or fork it, again and again; tell which was refused."""
    store, outcomes = ConversationStore(repository, user_id="alice"), []
    for part in range(2):
        try:
            if name == "deletes":
                await store.delete(f"trip {number}")
                await store.save(Conversation(conversation_id=f"trip {number}", messages=turn(f"new {part}")))
            else:
                conversation = await store.load(f"trip {number}")
                if conversation is not None:
                    first = texts(conversation)
                    conversation.messages += turn(f"after {first[0]}")
                    await store.save(conversation)
                await store.fork(f"trip {number}", new_conversation_id=f"fork {number} {part}")
        except UserError:  # Also a conflict.
            outcomes.append(False)
        else:
            outcomes.append(True)
    return outcomes


@ROUNDS
async def test_two_processes_save_every_turn_once(
    backend: Backend, repository: Any, race: Race, rounds: int
) -> None:
    race.run(backend, f"{__name__}:save", {"name": "one"}, {"name": "two"}, times=rounds)
    store = ConversationStore(repository, user_id="alice")
    for number in range(rounds):
        found = texts(await store.load(f"trip {number}"))
        for name in ("one", "two"):
            mine = [text for text in found if f" {name} " in text]
            assert mine == [f"{kind} {name} {part}" for part in range(2) for kind in ("Question", "Answer")]
        assert len(found) == 8
    assert await repository.count_sessions("alice") == rounds


@ROUNDS
async def test_what_is_stored_is_what_was_not_refused(
    backend: Backend, repository: Any, race: Race, rounds: int
) -> None:
    jobs = [{"name": "one"}, {"name": "two"}]
    for number, stored in enumerate(race.run(backend, f"{__name__}:save_once", *jobs, times=rounds)):
        assert any(stored)
        found = texts(await ConversationStore(repository, user_id="alice").load(f"trip {number}"))
        names = [name for name, is_stored in zip(("one", "two"), stored, strict=True) if is_stored]
        assert sorted(text.split()[1] for text in found[::2]) == names
        assert len(found) == 2 * len(names)


@ROUNDS
async def test_no_conversation_is_continued_that_was_stored_anew(
    backend: Backend, repository: Any, race: Race, rounds: int
) -> None:
    race.run(backend, f"{__name__}:change_lives", {"name": "deletes"}, {"name": "continues"}, times=rounds)
    store = ConversationStore(repository, user_id="alice")
    for record in await store.list_conversations():
        found = texts(await store.load(record.conversation_id))
        # Each turn continues the conversation that it was made for, and no history lacks a part.
        assert found[0].startswith("Question new")
        for text in found[2::2]:
            assert text == f"Question after {found[0]}"
        assert len(found) % 2 == 0
