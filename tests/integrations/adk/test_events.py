"""Events of ADK: they come back equal, and what the repository shows of them."""

from __future__ import annotations

from typing import Any

from google.adk.auth.auth_tool import AuthConfig
from google.adk.events import Event, EventActions
from google.genai import types

from sessions.integrations.adk import SessionService
from sessions.integrations.common import derived_id
from sessions.testing.open_connections import count_checked_out


def of(author: str, *parts: types.Part, **fields: Any) -> Event:
    role = "user" if author == "user" else "model"
    return Event(author=author, content=types.Content(role=role, parts=list(parts)), **fields)


CALL = types.Part(function_call=types.FunctionCall(id="1", name="weather", args={"city": "Róma", "days": 2}))
ANSWER = types.Part(
    function_response=types.FunctionResponse(id="1", name="weather", response={"sky": "blue"})
)
IMAGE = types.Part(inline_data=types.Blob(data=b"\x00\xff\xfe", mime_type="image/png"))
USAGE = types.GenerateContentResponseUsageMetadata(
    prompt_token_count=7, candidates_token_count=5, thoughts_token_count=3, total_token_count=15
)

# An event, and its role, content and metadata in the repository.
EVENTS: dict[str, tuple[Event, str, str, dict[str, Any]]] = {
    "text": (of("user", types.Part(text="Hello \0 there")), "user", "Hello \ufffd there", {}),
    "pieces": (
        of("guide", types.Part(text="The Pan"), types.Part(text="theon.")),
        "assistant",
        "The Pantheon.",
        {"agent.name": "guide"},
    ),
    "thought": (
        of("guide", types.Part(text="Hm", thought=True, thought_signature=b"\xff"), types.Part(text="Yes")),
        "assistant",
        "Yes",
        {"agent.name": "guide"},
    ),
    "call": (
        of("guide", types.Part(text="I look."), CALL, model_version="gemini-x", usage_metadata=USAGE),
        "assistant",
        'I look.\nweather({"city": "Róma", "days": 2})',
        {
            "agent.name": "guide",
            "model": "gemini-x",
            "usage.input_tokens": 7,
            "usage.output_tokens": 8,
            "tool.name": "weather",
        },
    ),
    "answer": (
        of("guide", ANSWER),
        "tool",
        '{"sky": "blue"}',
        {"agent.name": "guide", "tool.name": "weather"},
    ),
    "image": (of("user", types.Part(text="This"), IMAGE), "user", "This\n[image/png]", {}),
    "code": (
        of(
            "guide",
            types.Part(executable_code=types.ExecutableCode(code="print(1)", language=types.Language.PYTHON)),
            types.Part(
                code_execution_result=types.CodeExecutionResult(output="1", outcome=types.Outcome.OUTCOME_OK)
            ),
        ),
        "assistant",
        "print(1)\n1",
        {"agent.name": "guide"},
    ),
    "heard": (
        Event(author="guide", output_transcription=types.Transcription(text="Spoken", finished=True)),
        "assistant",
        "Spoken",
        {"agent.name": "guide"},
    ),
    "error": (
        Event(author="guide", error_code="429", error_message="Too many"),
        "assistant",
        "Too many",
        {"agent.name": "guide"},
    ),
    "actions": (
        Event(
            author="guide",
            invocation_id="i",
            branch="a.b",
            actions=EventActions(
                state_delta={"a": 1, "app:b": None, "user:c": [2**80]},
                artifact_delta={"file": 3},
                transfer_to_agent="other",
                escalate=True,
                requested_auth_configs={},
            ),
            long_running_tool_ids={"b", "a"},
            partial=False,
            turn_complete=True,
            interrupted=False,
            custom_metadata={"key": [1.5, "\ud800"]},
            grounding_metadata=types.GroundingMetadata(web_search_queries=["q"]),
        ),
        "assistant",
        "",
        {"agent.name": "guide"},
    ),
}


async def test_events_come_back_equal_and_read_well(repository: Any) -> None:
    service = SessionService(repository)
    session = await service.create_session(app_name="app", user_id="alice", session_id="one")
    expected = []
    for event, *_ in EVENTS.values():
        # Made when this module was imported: in the order of their times.
        appended = event.model_copy(deep=True)
        expected.append(event)
        assert await service.append_event(session, appended) is appended
    found = await service.get_session(app_name="app", user_id="alice", session_id="one")
    assert found is not None
    assert found.events == session.events == expected
    assert found == session
    history = await repository.get_session_history("alice", derived_id("adk", "app", "alice", "one"))
    read = {
        name: (each.role, each.content, each.metadata) for name, each in zip(EVENTS, history, strict=True)
    }
    assert read == {name: tuple(facts) for name, (_, *facts) in EVENTS.items()}
    assert [each.payload["id"] for each in history] == [event.id for event in expected]


async def test_a_partial_event_is_not_stored(repository: Any) -> None:
    service = SessionService(repository)
    session = await service.create_session(app_name="app", user_id="alice", session_id="one")
    event = of("guide", types.Part(text="The"), partial=True, actions=EventActions(state_delta={"a": 1}))
    assert await service.append_event(session, event) is event
    assert (session.events, session.state) == ([], {})
    assert await service.get_session(app_name="app", user_id="alice", session_id="one") == session


async def test_an_equal_event_is_stored_once_and_another_one_with_its_id_too(repository: Any) -> None:
    service = SessionService(repository)
    session = await service.create_session(app_name="app", user_id="alice", session_id="one")
    event = of(
        "user", types.Part(text="Hello"), id="same", actions=EventActions(state_delta={"user:a": 1, "b": 2})
    )
    before = session.model_copy(deep=True)
    await service.append_event(session, event)
    # Again: the response was lost, and the caller has the session as it was.
    await service.append_event(before, event.model_copy(deep=True))
    await service.append_event(session, event)
    other = event.model_copy(deep=True)
    other.timestamp += 1
    await service.append_event(session, other)
    found = await service.get_session(app_name="app", user_id="alice", session_id="one")
    assert found is not None
    assert found.events == session.events == [event, other]
    assert count_checked_out(repository) == 0


async def test_a_tool_that_asks_for_credentials(repository: Any) -> None:
    service = SessionService(repository)
    session = await service.create_session(app_name="app", user_id="alice")
    scheme = {"type": "apiKey", "in": "header", "name": "key"}
    asks = EventActions(
        requested_auth_configs={
            "1": AuthConfig.model_validate({"authScheme": scheme, "credentialKey": "key"})
        }
    )
    await service.append_event(session, Event(author="guide", actions=asks))
    assert await service.get_session(app_name="app", user_id="alice", session_id=session.id) == session
