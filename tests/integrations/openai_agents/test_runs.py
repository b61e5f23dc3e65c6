"""Runs of the OpenAI Agents SDK with a session: its own test model answers, and there is no network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, function_tool, set_tracing_disabled
from agents.memory import SessionSettings, SQLiteSession
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage

from sessions.integrations.openai_agents import AgentSession


@pytest.fixture(autouse=True)
def _without_tracing() -> Iterator[None]:
    set_tracing_disabled(True)
    yield
    set_tracing_disabled(False)


@pytest.fixture
def session(repository: Any) -> AgentSession:
    return AgentSession("trip", repository=repository, user_id="alice")


@function_tool
def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"Sunny in {city}"


def shapes(items: Any) -> list[tuple[str, str]]:
    return [(item.get("type", "message"), item.get("role", "")) for item in items]


async def test_a_run_sees_the_items_of_the_runs_before(repository: Any, session: AgentSession) -> None:
    used = Usage(requests=1, input_tokens=5, output_tokens=2, total_tokens=7)
    steps = [
        ModelStep(output=[function_call("weather", {"city": "Rome"}, call_id="1")], usage=used),
        ModelStep(output=[assistant_message("Sunny.")], usage=used),
        ModelStep(output=[assistant_message("Go by train.")], usage=used),
    ]
    model = ScriptedModel(steps)
    agent = Agent("Guide", model=model, tools=[weather])
    await Runner.run(agent, "How is Rome?", session=session)
    again = AgentSession("trip", repository=repository, user_id="alice")
    result = await Runner.run(agent, "How do I get there?", session=again)
    assert result.final_output == "Go by train."
    assert len(model.calls) == 3
    stored = await again.get_items()
    assert shapes(stored) == [
        ("message", "user"),
        ("function_call", ""),
        ("function_call_output", ""),
        ("message", "assistant"),
        ("message", "user"),
        ("message", "assistant"),
    ]
    # As the SDK itself passes them on to the model.
    assert len(model.calls[2].input) == 5
    assert stored == result.to_input_list()
    history = await repository.get_session_history("alice", session.stored_session_id)
    assert [message.content for message in history[:4]] == [
        "How is Rome?",
        'weather({"city":"Rome"})',
        "Sunny in Rome",
        "Sunny.",
    ]
    assert [message.metadata.get("tool.name") for message in history[:3]] == [None, "weather", "weather"]
    for key, expected in (("usage.input_tokens", 15), ("usage.output_tokens", 6)):
        assert sum(message.metadata.get(key, 0) for message in history) == expected


async def test_a_handoff_is_stored(session: AgentSession) -> None:
    guide = Agent("Guide", model=ScriptedModel([ModelStep(output=[assistant_message("I know Rome.")])]))
    handoff = ModelStep(output=[function_call("transfer_to_guide", "{}", call_id="1")])
    desk = Agent("Desk", model=ScriptedModel([handoff]), handoffs=[guide])
    result = await Runner.run(desk, "Who knows Rome?", session=session)
    assert (result.last_agent.name, result.final_output) == ("Guide", "I know Rome.")
    stored = await session.get_items()
    assert [kind for kind, _ in shapes(stored)] == [
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert stored == result.to_input_list()


async def test_a_streamed_run_is_stored_once(session: AgentSession) -> None:
    steps = [
        ModelStep(output=[function_call("weather", {"city": "Rome"}, call_id="1")]),
        ModelStep(output=[assistant_message("Sunny.")]),
    ]
    agent = Agent("Guide", model=ScriptedModel(steps), tools=[weather])
    result = Runner.run_streamed(agent, "How is Rome?", session=session)
    kinds = [event.type async for event in result.stream_events()]
    assert "raw_response_event" in kinds
    assert await session.get_items() == result.to_input_list()
    assert len(await session.get_items()) == 4


@pytest.mark.parametrize("mode", ["immediate", "after_turn"])
async def test_a_streamed_run_that_is_cancelled_leaves_what_it_leaves_in_the_sdks_own_store(
    session: AgentSession, mode: Any
) -> None:
    async def left_in(store: Any) -> Any:
        steps = [
            ModelStep(output=[function_call("weather", {"city": "Rome"}, call_id="1")]),
            ModelStep(output=[assistant_message("Sunny.")]),
        ]
        agent = Agent("Guide", model=ScriptedModel(steps), tools=[weather])
        await store.add_items([{"role": "user", "content": "Hi"}])
        result = Runner.run_streamed(agent, "How is Rome?", session=store)
        async for event in result.stream_events():
            if event.type == "run_item_stream_event":
                result.cancel(mode=mode)
        return await store.get_items()

    theirs = SQLiteSession("trip")
    left = await left_in(session)
    assert left == await left_in(theirs)
    assert len(left) >= (4 if mode == "after_turn" else 1)
    theirs.close()


async def test_a_run_that_fails_may_be_repeated(session: AgentSession) -> None:
    steps = [ModelStep.raise_error(ConnectionError("lost")), ModelStep(output=[assistant_message("Sunny.")])]
    agent = Agent("Guide", model=ScriptedModel(steps))
    with pytest.raises(ConnectionError):
        await Runner.run(agent, "How is Rome?", session=session)
    result = await Runner.run(agent, "And now?", session=session)
    assert result.final_output == "Sunny."
    stored = await session.get_items()
    assert stored == result.to_input_list()
    assert stored[-2:] == result.to_input_list()[-2:]


async def test_a_run_that_is_cancelled_leaves_whole_batches(session: AgentSession) -> None:
    asked = asyncio.Event()

    async def never(_call: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    agent = Agent("Guide", model=ScriptedModel([ModelStep.respond(never)]))
    running = asyncio.create_task(Runner.run(agent, "How is Rome?", session=session))
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    stored: list[Any] = await session.get_items()
    assert stored in ([], [{"content": "How is Rome?", "role": "user"}])


async def test_a_limit_of_the_run_applies(session: AgentSession) -> None:
    await session.add_items([{"role": "user", "content": f"Message {number}"} for number in range(5)])
    model = ScriptedModel([ModelStep(output=[assistant_message("Yes.")])])
    config = RunConfig(session_settings=SessionSettings(limit=2))
    await Runner.run(Agent("Guide", model=model), "Really?", session=session, run_config=config)
    assert [item["content"] for item in model.calls[0].input] == ["Message 3", "Message 4", "Really?"]
