"""Two processes that add to one conversation of LangChain at the same time."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from sessions.integrations.langchain import ChatMessageHistory
from tests.integrations.racing import ROUNDS, Race, keeps_batches_together
from tests.support.databases import Backend

TURNS = 4


def history_of(repository: Any, number: int) -> ChatMessageHistory:
    return ChatMessageHistory(f"trip {number}", repository=repository, user_id="alice")


async def add_turns(repository: Any, number: int, name: str) -> None:
    for turn in range(TURNS):
        history = history_of(repository, number)
        messages = [HumanMessage(f"{name} {turn}"), AIMessage(f"{name} {turn}")]
        if turn % 2:
            history.add_messages(messages)
        else:
            await history.aadd_messages(messages)


@ROUNDS
async def test_both_create_the_session_and_no_message_is_lost(
    backend: Backend, race: Race, rounds: int
) -> None:
    race.run(backend, f"{__name__}:add_turns", {"name": "a"}, {"name": "b"}, times=rounds)
    async with backend.repository() as repository:
        assert await repository.count_sessions("alice") == rounds
        for number in range(rounds):
            found = [each.content for each in await history_of(repository, number).aget_messages()]
            if keeps_batches_together(backend):  # Each turn is one write.
                assert found[::2] == found[1::2]
            for name in "ab":
                mine = [each for each in found if str(each).startswith(name)]
                assert mine[::2] == mine[1::2] == [f"{name} {turn}" for turn in range(TURNS)]
        sessions = (await repository.list_sessions("alice", limit=1000)).sessions
        assert {each.title for each in sessions} <= {"a 0", "b 0"}
