"""The history provider of the Agent Framework, on each backend."""

from __future__ import annotations

import asyncio
import inspect
import math
import uuid
from typing import Any

import pytest
from agent_framework import (
    Agent,
    AgentSession,
    Content,
    FileHistoryProvider,
    InMemoryHistoryProvider,
    Message,
    _sessions,
)

from sessions import NewMessage, SessionConflictError
from sessions.integrations.agent_framework import HistoryProvider
from tests.integrations.agent_framework.clients import EchoClient
from tests.integrations.racing import ROUNDS, Race
from tests.support.databases import Backend


def provider(
    repository: Any, source_id: str | None = None, *, user_id: str = "alice", **options: Any
) -> HistoryProvider:
    return HistoryProvider(source_id, repository=repository, user_id=user_id, **options)


def texts(messages: list[Message]) -> list[str]:
    return [message.text for message in messages]


# -- Messages --------------------------------------------------------------------------------------

CONTENTS: list[Content | str] = [
    "Text with \0, \ud800 and é",
    Content.from_text_reasoning(text="Because", protected_data="sealed"),
    Content.from_function_call("1", "weather", arguments={"city": "Róma", "numbers": [math.inf, 2**80, 0.1]}),
    Content.from_function_call("2", "weather", arguments='{"half": '),
    Content.from_function_result("1", result=[{"sky": "blue"}, None]),
    Content.from_data(b"\x00\xff", "image/png"),
    Content.from_uri("https://example.com/a.pdf", media_type="application/pdf"),
    Content.from_error(message="Failed", error_code="7"),
    Content.from_usage({"input_token_count": 3}),
    Content.from_hosted_file("file-1"),
    Content.from_function_approval_request(
        "3", Content.from_function_call("3", "pay", arguments={"a": -math.inf})
    ),
]


async def test_messages_come_back_equal(repository: Any) -> None:
    history = provider(repository)
    assert await history.get_messages("one") == []
    messages = [
        Message("system", ["Be kind"]),
        Message(
            "user", ["Hello"], author_name="Alice", message_id="m1", additional_properties={"k": [1.5, None]}
        ),
        *(Message("assistant", [content], author_name="guide") for content in CONTENTS),
        Message("assistant", CONTENTS),
        Message("tool", [CONTENTS[4]]),
        Message("narrator", []),
        Message("user", ["One", "Two"], author_name="Alice", message_id="m2"),
        Message("developer", ["Go on"]),
    ]
    await history.save_messages("one", messages)
    found = await history.get_messages("one")
    assert [each.to_dict() for each in found] == [each.to_dict() for each in messages]
    assert [each.contents for each in found] == [each.contents for each in messages]
    # Each attribute, of which the framework may add more, is as its own reading sets it.
    for each, message in zip(found, messages, strict=True):
        own = Message.from_dict(message.to_dict())
        assert vars(each) | {"contents": None} == vars(own) | {"contents": None}
        assert [vars(content) for content in each.contents] == [vars(content) for content in own.contents]
    assert await history.get_messages("two") == []
    assert await provider(repository, user_id="bob").get_messages("one") == []
    assert await provider(repository, "audit").get_messages("one") == []
    await history.clear("one")
    assert await history.get_messages("one") == []
    await history.clear("two")


async def test_messages_share_nothing_that_can_be_changed(repository: Any) -> None:
    history = provider(repository)
    await history.save_messages("one", [Message("user", ["a"]), Message("assistant", ["b"])])
    first, second = await history.get_messages("one")
    first.additional_properties["x"] = first.contents[0].additional_properties["x"] = 1
    first.contents.append(first.contents[0])
    third, fourth = await history.get_messages("one")
    for each in (second, third, fourth):
        assert each.additional_properties == each.contents[0].additional_properties == {}
        assert len(each.contents) == 1


async def test_nan_comes_back(repository: Any) -> None:
    history = provider(repository)
    call = Content.from_function_call("1", "f", arguments={"x": math.nan, "y": [math.inf, -math.inf]})
    await history.save_messages("one", [Message("assistant", [call], additional_properties={"z": math.nan})])
    [found] = await history.get_messages("one")
    arguments = found.contents[0].arguments
    assert isinstance(arguments, dict)
    assert math.isnan(arguments["x"])
    assert arguments["y"] == [math.inf, -math.inf]
    assert math.isnan(found.additional_properties["z"])


async def test_what_json_gives_back_otherwise_is_stored_as_it_gives_it_back(repository: Any) -> None:
    history = provider(repository)
    call = Content.from_function_call("1", "f", arguments={1: {2: (3, 4)}})  # type: ignore[dict-item]
    for _ in range(2):
        turn = [Message("user", ["Hi \ud83d\ude00"]), Message("assistant", [call])]
        await history.save_messages("one", turn)
        user, assistant = await history.get_messages("one")
        assert user.text == "Hi \U0001f600"
        assert assistant.contents[0].arguments == {"1": {"2": [3, 4]}}
        await history.clear("one")


async def test_a_history_reads_well_in_the_repository(repository: Any) -> None:
    history = provider(repository)
    messages = [
        Message("system", ["Be kind"]),
        Message("user", ["What should I see?"]),
        Message("assistant", ["I look.", CONTENTS[2]], author_name="guide"),
        Message("tool", [CONTENTS[4]]),
        Message("assistant", [CONTENTS[5], CONTENTS[6], CONTENTS[7]]),
    ]
    await history.save_messages("trip", messages[:1])
    await history.save_messages("trip", messages[1:])
    [stored] = (await repository.list_sessions("alice", where={"framework": "agent-framework"})).sessions
    assert (stored.title, stored.metadata["framework_session_id"]) == ("What should I see?", "trip")
    assert stored.session_id == history.stored_session_id("trip")
    found = await repository.get_session_history("alice", stored.session_id)
    assert [(each.role, each.content, each.metadata) for each in found] == [
        ("system", "Be kind", {}),
        ("user", "What should I see?", {}),
        (
            "assistant",
            'I look.\nweather({"city": "Róma", "numbers": [Infinity, 1208925819614629174706176, 0.1]})',
            {"agent.name": "guide", "tool.name": "weather"},
        ),
        ("tool", "[{'sky': 'blue'}, None]", {}),
        ("assistant", "[image/png]\n[application/pdf]\nError 7: Failed", {}),
    ]
    assert found[1].payload == messages[1].to_dict()


async def test_ids_of_sessions(repository: Any) -> None:
    session_id = str(uuid.uuid4())
    history = provider(repository)
    assert history.source_id == HistoryProvider.DEFAULT_SOURCE_ID == "sessions"
    assert history.stored_session_id(session_id) == session_id
    ids = {
        each.stored_session_id(name)
        for each in (history, provider(repository, "audit"), provider(repository, user_id="bob"))
        for name in ("one", "two", None)
    }
    assert len(ids) == 9
    assert history.stored_session_id(None) == history.stored_session_id("default")
    await history.save_messages(None, [Message("user", ["Hello"])])
    assert texts(await history.get_messages(None)) == ["Hello"]
    # The UUID of another user's session.
    await history.save_messages(session_id, [Message("user", ["Hello"])])
    foreign = provider(repository, user_id="bob")
    assert await foreign.get_messages(session_id) == []
    with pytest.raises(SessionConflictError):
        await foreign.save_messages(session_id, [Message("user", ["Mine"])])


# Items of LangChain, LlamaIndex, the OpenAI Agents SDK and Pydantic AI.
FOREIGN: list[Any] = [
    {"type": "human", "data": {"content": "Hello", "type": "human"}},
    {"role": "user", "additional_kwargs": {}, "blocks": [{"block_type": "text", "text": "Hello"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
    {"kind": "request", "parts": [{"part_kind": "user-prompt", "content": "Hello"}]},
    *(["Hello"], "Hello"),
]


async def test_a_message_of_another_program_has_its_text(repository: Any) -> None:
    history = provider(repository)
    await history.save_messages("one", [Message("user", ["Begin"])])
    foreign = [NewMessage("assistant", "By hand"), *(NewMessage("user", "Hello", payload=f) for f in FOREIGN)]
    await repository.add_messages(history.stored_session_id("one"), foreign)
    await history.save_messages("one", [Message("user", ["More"])])
    assert [(each.role, each.text) for each in await history.get_messages("one")] == [
        ("user", "Begin"),
        ("assistant", "By hand"),
        *[("user", "Hello")] * len(FOREIGN),
        ("user", "More"),
    ]


async def test_excluded_messages_may_be_left_out(repository: Any) -> None:
    excluded = Message("user", ["Old"], additional_properties={"_excluded": True})
    await provider(repository).save_messages("one", [excluded, Message("user", ["New"])])
    assert texts(await provider(repository).get_messages("one")) == ["Old", "New"]
    assert texts(await provider(repository, skip_excluded=True).get_messages("one")) == ["New"]


# -- What is stored already ------------------------------------------------------------------------

TURN = [Message("user", ["Hi"]), Message("assistant", ["Hello"])]
SAVES: dict[str, list[list[Message]]] = {
    "nothing": [[]],
    "one after the other": [TURN[:1], TURN[1:]],
    "a transcript that grows": [
        TURN,
        [*TURN, Message("user", ["More"])],
        [*TURN, Message("user", ["More"]), TURN[1]],
    ],
    "the same turn twice": [TURN, TURN],
    "the same question twice": [TURN[:1], TURN[:1]],
    "an overlap": [TURN, [TURN[1], Message("user", ["Bye"])]],
    "ids": [[Message("user", ["Hi"], message_id="1")], [Message("user", ["Hi"], message_id="1"), TURN[1]]],
    "an id again, later": [
        [Message("user", ["Hi"], message_id="1")],
        TURN,
        [Message("user", ["Hi"], message_id="1")],
    ],
    "a long history": [
        [Message("user", [str(n)]) for n in range(30)],
        [Message("user", [str(n)]) for n in range(25, 33)],
    ],
    "all of a long one": [
        [Message("user", [str(n)]) for n in range(9)],
        [Message("user", [str(n)]) for n in range(12)],
    ],
    "all of it in the middle": [TURN, [Message("system", ["S"]), *TURN, Message("user", ["More"])]],
}


@pytest.mark.parametrize("name", SAVES)
async def test_what_is_stored_already_is_left_out_as_the_frameworks_own_stores_do(
    repository: Any, name: str
) -> None:
    ours, theirs, state = provider(repository), InMemoryHistoryProvider(), dict[str, Any]()
    for messages in SAVES[name]:
        await ours.save_messages("one", messages)
        await theirs.save_messages("one", messages, state=state)
    expected = await theirs.get_messages("one", state=state)
    assert texts(await ours.get_messages("one")) == texts(expected)


def test_the_rule_of_the_framework_is_where_it_was() -> None:
    assert list(inspect.signature(_sessions.filter_new_messages).parameters) == ["existing", "incoming"]


def test_the_options_are_those_of_the_frameworks_own_stores() -> None:
    own = inspect.signature(HistoryProvider.__init__).parameters
    for theirs in (InMemoryHistoryProvider, FileHistoryProvider):
        for name, parameter in inspect.signature(theirs.__init__).parameters.items():
            if name not in ("self", "source_id", "storage_path", "serialization_format", "dumps", "loads"):
                assert own[name].default == parameter.default, name


# -- Runs of an agent ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_remembers(repository: Any, stream: bool) -> None:
    client, history = EchoClient(), provider(repository)
    session = AgentSession()

    async def ask(question: str) -> str:
        # Another process has another agent.
        agent = Agent(client, name="guide", context_providers=[history])
        if not stream:
            return (await agent.run(question, session=session)).text
        running = agent.run(question, session=session, stream=True)
        pieces = [update.text async for update in running]
        assert len(pieces) > 3
        await running.get_final_response()
        return "".join(pieces)

    assert await ask("Hello") == "You said: Hello"
    assert await ask("And now?") == "You said: And now?"
    assert client.sent[1] == ["Hello", "You said: Hello", "And now?"]
    found = await repository.get_session_history("alice", session.session_id)
    # The pieces of an answer are one message, with one text.
    assert [(each.role, each.content) for each in found] == [
        ("user", "Hello"),
        ("assistant", "You said: Hello"),
        ("user", "And now?"),
        ("assistant", "You said: And now?"),
    ]
    assert [
        [part["type"] for part in each.payload["contents"] if part["type"] != "usage"] for each in found
    ] == [["text"]] * 4
    facts = {"agent.name": "guide", "model": "echo-1", "usage.input_tokens": 7, "usage.output_tokens": 5}
    assert {key: found[1].metadata[key] for key in facts} == facts
    assert [each.title for each in (await repository.list_sessions("alice")).sessions] == ["Hello"]


async def test_the_options_say_what_is_loaded_and_stored(repository: Any) -> None:
    client = EchoClient()
    only: dict[str, Any] = {"store_inputs": False, "load_messages": False}
    audit = provider(repository, "audit", store_context_messages=True, **only)
    questions = provider(repository, "questions", store_outputs=False, load_messages=False)
    agent = Agent(client, context_providers=[provider(repository), audit, questions])
    session = agent.create_session(session_id="one")
    for question in ("One", "Two"):
        await agent.run(question, session=session)
    assert client.sent == [["One"], ["One", "You said: One", "Two"]]
    assert texts(await questions.get_messages("one")) == ["One", "Two"]
    stored = texts(await audit.get_messages("one"))
    assert "You said: One" in stored
    assert "Two" not in stored


async def test_a_tool_call_and_its_result_are_stored(repository: Any) -> None:
    history = provider(repository)
    call = Content.from_function_call("1", "weather", arguments='{"city": "Rome"}')
    turn = [
        Message("user", ["How is it?"]),
        Message("assistant", [call]),
        Message("tool", [Content.from_function_result("1", result="Sunny")]),
        Message("assistant", ["It is sunny."]),
    ]
    await history.save_messages("one", turn)
    found = await repository.get_session_history("alice", history.stored_session_id("one"))
    assert [(each.role, each.content) for each in found] == [
        ("user", "How is it?"),
        ("assistant", 'weather({"city": "Rome"})'),
        ("tool", "Sunny"),
        ("assistant", "It is sunny."),
    ]


async def test_concurrent_runs_lose_nothing(repository: Any) -> None:
    history = provider(repository)
    await asyncio.gather(
        *(
            history.save_messages("one", [Message("user", [f"{n}"]), Message("assistant", [f"re {n}"])])
            for n in range(8)
        )
    )
    found = texts(await history.get_messages("one"))
    assert sorted(found[::2]) == [str(number) for number in range(8)]
    assert found[1::2] == [f"re {each}" for each in found[::2]]


# -- Two processes ---------------------------------------------------------------------------------


async def save(repository: Any, *, number: int, name: str) -> None:
    history = provider(repository)
    # The same transcript, which both send.
    transcript = [Message("user", [f"{n}"], message_id=f"{n}") for n in range(6)]
    await history.save_messages(f"same {number}", transcript)
    for part in range(4):
        turn = [Message("user", [f"{name} {part}"]), Message("assistant", [f"re {name} {part}"])]
        await history.save_messages(f"own {number}", turn)


@ROUNDS
async def test_two_processes_lose_nothing_and_store_nothing_twice(
    backend: Backend, race: Race, rounds: int
) -> None:
    race.run(backend, f"{__name__}:save", {"name": "a"}, {"name": "b"}, times=rounds)
    async with backend.repository() as repository:
        history = provider(repository)
        for number in range(rounds):
            found = texts(await history.get_messages(f"own {number}"))
            assert sorted(found[::2]) == [f"{name} {part}" for name in "ab" for part in range(4)]
            assert found[1::2] == [f"re {each}" for each in found[::2]]
            for name in "ab":
                assert [each for each in found[::2] if each[0] == name] == [
                    f"{name} {part}" for part in range(4)
                ]
            assert texts(await history.get_messages(f"same {number}")) == list("012345")
