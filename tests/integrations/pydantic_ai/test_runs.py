"""Runs of agents of Pydantic AI whose conversations are stored: its own test models answer."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import UsageLimits

from sessions.integrations.pydantic_ai import ConversationStore


def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"Sunny in {city}"


@pytest.fixture
def store(repository: Any) -> ConversationStore:
    return ConversationStore(repository, user_id="alice")


async def test_a_run_continues_the_conversation_of_the_run_before(
    store: ConversationStore, repository: Any
) -> None:
    agent = Agent(TestModel(), tools=[weather])
    result = await agent.run("How is Rome?", conversation=Conversation(conversation_id="trip"))
    assert len(await store.save(result)) == 4
    # As a service does, in another request.
    other = ConversationStore(repository, user_id="alice")
    conversation = await other.load("trip")
    assert conversation == result.conversation
    again = await agent.run("And Paris?", conversation=conversation)
    assert [entry.message for entry in await other.save(again)] == again.new_messages()
    assert await store.load("trip") == again.conversation
    with pytest.raises(ConversationConflict):
        await store.save(result)
    [chat_session] = (await repository.list_sessions("alice")).sessions
    assert chat_session.title == "How is Rome?"
    history = await repository.get_session_history("alice", chat_session.session_id)
    roles = [message.role for message in history]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    assert history[2].content == "Sunny in a"
    assert {message.metadata.get("model") for message in history[1::2]} == {"test"}
    usage = again.conversation.usage
    stored = [message.metadata.get("usage.output_tokens", 0) for message in history]
    assert sum(stored) == usage.output_tokens


async def test_a_window_saves_only_what_the_run_added(store: ConversationStore) -> None:
    agent = Agent(TestModel())
    conversation = Conversation(conversation_id="trip")
    for number in range(4):
        result = await agent.run(f"Question {number}", conversation=conversation)
        await store.save(result)
        conversation = await store.load("trip", limit=2) or conversation
    whole = await store.load("trip")
    assert whole is not None
    assert len(whole.messages) == 8
    assert whole.usage.requests == 4
    with pytest.raises(Exception, match="request_limit"):
        await agent.run("More", conversation=whole, usage_limits=UsageLimits(request_limit=4))


async def test_a_run_that_waits_for_approval_is_stored_with_its_requests(store: ConversationStore) -> None:
    agent = Agent(TestModel(), output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True)
    def buy(thing: str) -> str:
        return f"bought {thing}"

    await store.save(await agent.run("Buy it", conversation=Conversation(conversation_id="shop")))
    waiting = await store.load("shop")
    assert waiting is not None
    assert waiting.deferred_tool_requests is not None
    [call] = waiting.deferred_tool_requests.approvals
    assert call.tool_name == "buy"
    answers = waiting.deferred_tool_requests.build_results(approvals={call.tool_call_id: True})
    await store.save(await agent.run(conversation=waiting, deferred_tool_results=answers))
    done = await store.load("shop")
    assert done is not None
    assert done.deferred_tool_requests is None
    assert len(done.messages) == 4
