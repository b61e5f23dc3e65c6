"""A turn of `ChatService`: what the agent is told, what is stored, what the caller gets."""

from __future__ import annotations

import logging
import uuid
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sessions import (
    InvalidInputError,
    NewMessage,
    SessionConflictError,
    SessionNotFoundError,
    SessionRepositoryFactory,
)
from sessions.errors import ConfigurationError, MessageConflictError
from sessions.services import AgentContext, AgentResponse, ChatService
from sessions.testing.open_connections import count_checked_out
from tests.services.agents import Echo, Pieces, everything, texts

KEYS = [
    *("success", "message", "user_id", "session_id", "timestamp"),
    *("processing_time_ms", "tools_used", "errors", "metadata"),
]


async def test_a_turn_stores_the_message_and_its_answer_in_a_new_session(repository: Any) -> None:
    agent = Echo()
    service = ChatService(agent, repository=repository)
    result = await service.chat("What should I see first?", "alice", metadata={"device": "phone"})

    assert list(result) == KEYS
    assert (result["success"], result["errors"], result["tools_used"]) == (True, [], [])
    assert (result["message"], result["user_id"]) == ("What should I see first? after 0", "alice")
    assert datetime.fromisoformat(result["timestamp"]).tzinfo is not None
    assert result["processing_time_ms"] > 0
    question, answer = await repository.get_session_history("alice", result["session_id"])
    assert (question.role, question.content) == ("user", "What should I see first?")
    assert question.metadata == {"device": "phone"}
    assert (answer.role, answer.content) == ("assistant", result["message"])
    assert answer.metadata == {"status": "complete"}
    assert result["metadata"]["message_id"] == question.message_id
    assert result["metadata"]["answer_id"] == answer.message_id
    [(query, context)] = agent.asked
    assert query == "What should I see first?"
    assert (context.user_id, context.session_id, context.history) == ("alice", result["session_id"], [])
    assert context.metadata == {"device": "phone", "protocol": "rest"}

    again = await service.chat("And then?", "alice", result["session_id"], "websocket")
    assert again["session_id"] == result["session_id"]
    assert again["message"] == "And then? after 2"
    _, context = agent.asked[1]
    assert context.metadata == {"protocol": "websocket"}
    assert [message.content for message in context.history] == [question.content, answer.content]
    assert context.request_id != agent.asked[0][1].request_id
    found = await repository.get_session("alice", result["session_id"])
    assert (found.title, found.version) == ("What should I see first?", 1)


async def test_a_session_id_that_is_not_there_is_created_and_anothers_is_a_conflict(repository: Any) -> None:
    agent = Echo()
    service = ChatService(agent, repository=repository)
    session_id = str(uuid.uuid4())
    assert (await service.chat("Hi", "alice", session_id))["session_id"] == session_id
    with pytest.raises(SessionConflictError):
        await service.chat("Hi", "bob", session_id)
    with pytest.raises(SessionConflictError):
        await anext(service.stream("Hi", "bob", session_id))
    assert len(agent.asked) == 1
    assert await everything(repository, "bob") == []
    assert await texts(repository, "alice", session_id) == [("user", "Hi"), ("assistant", "Hi after 0")]


async def test_a_stream_yields_its_pieces_then_the_result(repository: Any) -> None:
    call = NewMessage("assistant", payload={"tool_calls": [{"function": {"name": "weather"}}]})
    told = NewMessage("tool", "14 °C", metadata={"tool_call_id": "1"})
    response = AgentResponse(
        metadata={"model": "small-1"},
        tool_messages=[call, told],
        usage={"input_tokens": 3},
        payload=[1, None],
    )
    service = ChatService(Pieces("It ", "rains.", response), repository=repository)
    *pieces, result = [item async for item in service.stream("Umbrella?", "alice")]
    assert pieces == ["It ", "rains."]
    assert isinstance(result, dict)
    assert list(result) == KEYS
    assert (result["success"], result["message"]) == (True, "It rains.")
    assert result["tools_used"] == ["weather"]
    assert result["metadata"]["usage.input_tokens"] == 3
    history = await repository.get_session_history("alice", result["session_id"])
    assert [message.role for message in history] == ["user", "assistant", "tool", "assistant"]
    assert history[1].payload == call.payload
    assert history[3].payload == [1, None]
    assert history[3].metadata == {
        "model": "small-1",
        "usage.input_tokens": 3,
        "status": "complete",
        "tools_used": ["weather"],
    }
    # An agent that only streams also answers `chat`.
    assert (await service.chat("And now?", "alice"))["message"] == "It rains."


FAILING = [
    (lambda *_: 1 / 0, "the agent raised ZeroDivisionError"),
    (Pieces(then=RuntimeError("secret words")), "the agent raised RuntimeError"),
    (Pieces(then="hang"), "the agent did not answer within 0.05 s"),
    (Pieces("", ""), "the agent returned nothing"),
    (lambda *_: None, "the agent returned nothing"),
    (lambda *_: 17, "the agent returned an answer of type int"),
    (lambda *_: AgentResponse("Sorry", success=False), "the agent reports that it failed"),
]


async def test_an_agent_that_fails_before_its_first_word_leaves_nothing(
    repository: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    session_id = await repository.create_session_async("alice")
    for agent, error in FAILING:
        limit = 0.05 if "0.05" in error else 30
        service = ChatService(agent, repository=repository, timeout=limit)  # type: ignore[arg-type]
        for chosen in (None, session_id, str(uuid.uuid4())):
            results = [item async for item in service.stream("My secret words", "alice", chosen)]
            results.append(await service.chat("My secret words", "alice", chosen))
            for result in results:
                assert isinstance(result, dict)
                assert (result["success"], result["errors"]) == (False, [error])
                assert (result["metadata"]["status"], result["metadata"]["answer_id"]) == ("failed", None)
    assert await everything(repository) == [[]]
    assert await repository.count_sessions("alice") == 1
    assert "secret" not in caplog.text


async def test_store_failed_stores_the_message_and_marks_its_answer(repository: Any) -> None:
    agent = Pieces(then=RuntimeError("no"))
    service = ChatService(agent, repository=repository, store_failed=True)
    result = await service.chat("Hi", "alice")
    assert (result["success"], result["message"]) == (False, "")
    assert await everything(repository) == [[("user", "Hi", None), ("assistant", "", "failed")]]
    agent.then = None
    agent.pieces = ("Hello",)
    await service.chat("Again", "alice", result["session_id"])
    # The empty answer is no part of what a model is told.
    assert [message.content for message in agent.contexts[1].history] == ["Hi"]


async def test_an_answer_that_fails_midway_is_stored_as_failed(repository: Any) -> None:
    service = ChatService(Pieces("Half an ", then=ValueError("secret words")), repository=repository)
    *pieces, result = [item async for item in service.stream("Hi", "alice")]
    assert pieces == ["Half an "]
    assert isinstance(result, dict)
    assert (result["success"], result["message"]) == (False, "Half an ")
    assert result["errors"] == ["the agent raised ValueError"]
    assert await everything(repository) == [[("user", "Hi", None), ("assistant", "Half an ", "failed")]]


async def test_regenerate_replaces_the_last_answer(repository: Any) -> None:
    agent = Pieces("one", AgentResponse(tool_messages=[("tool", "x")]))
    service = ChatService(agent, repository=repository)
    session_id = (await service.chat("First", "alice"))["session_id"]
    await service.chat("Second", "alice", session_id)
    before = await repository.get_session_history("alice", session_id)
    agent.pieces = ("two",)
    result = await service.regenerate("alice", session_id)
    assert (result["message"], result["session_id"]) == ("two", session_id)
    assert [message.content for message in agent.contexts[2].history] == ["First", "x", "one"]
    after = await repository.get_session_history("alice", session_id)
    assert after[:4] == before[:4]
    assert [(message.role, message.content) for message in after[4:]] == [("assistant", "two")]
    assert after[4].message_id == result["metadata"]["answer_id"] != before[5].message_id
    agent.pieces, agent.then = (), RuntimeError()
    assert (await service.regenerate("alice", session_id))["success"] is False
    assert await repository.get_session_history("alice", session_id) == after
    with pytest.raises(SessionNotFoundError):
        await service.regenerate("bob", session_id)
    with pytest.raises(InvalidInputError, match="no message of the user"):
        await service.regenerate("alice", await service.create_session("alice"))


async def test_what_is_answered_anew_streams_and_is_stored_as_far_as_it_came(repository: Any) -> None:
    agent = Pieces("one ", "two")
    service = ChatService(agent, repository=repository, store_failed=True)
    session_id = (await service.chat("First", "alice"))["session_id"]
    first = (await repository.get_session_history("alice", session_id))[0].message_id

    agent.pieces = ("three ", "four")
    *pieces, result = [item async for item in service.stream_regenerate("alice", session_id, "sse")]
    assert (pieces, result["message"]) == (["three ", "four"], "three four")
    assert agent.contexts[-1].metadata == {"protocol": "sse"}
    assert await texts(repository, "alice", session_id) == [("user", "First"), ("assistant", "three four")]

    # If the agent fails before its first word, there is no message to keep: the old answer stays.
    agent.pieces, agent.then = (), RuntimeError()
    [failed] = [item async for item in service.stream_regenerate("alice", session_id)]
    assert failed["success"] is False
    assert await texts(repository, "alice", session_id) == [("user", "First"), ("assistant", "three four")]

    agent.pieces, agent.then = ("five", " six"), "hang"
    for stream in (
        service.stream_regenerate("alice", session_id),
        service.stream_edit("alice", session_id, first, "Other", branch=True),
        service.stream_edit("alice", session_id, first, "Second"),
    ):
        assert await anext(stream) == "five"
        await stream.aclose()
        await service.aclose()
    half = [("assistant", "five", "partial")]
    assert sorted(await everything(repository)) == [
        [("user", "Other", None), *half],
        [("user", "Second", None), *half],
    ]

    with pytest.raises(InvalidInputError, match="session_id"):
        service.stream_regenerate("alice", {})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="message_id"):  # It was edited.
        await anext(service.stream_edit("alice", session_id, first, "Hi"))


async def test_edit_replaces_a_message_and_all_after_it_or_branches(repository: Any) -> None:
    agent = Echo()
    service = ChatService(agent, repository=repository)
    session_id = (await service.chat("First", "alice"))["session_id"]
    await service.chat("Second", "alice", session_id)
    await service.chat("Third", "alice", session_id)
    before = await repository.get_session_history("alice", session_id)

    branched = await service.edit("alice", session_id, before[2].message_id, "Other", branch=True)
    assert branched["session_id"] != session_id
    assert await repository.get_session_history("alice", session_id) == before
    assert await texts(repository, "alice", branched["session_id"]) == [
        *(("user", "First"), ("assistant", "First after 0")),
        *(("user", "Other"), ("assistant", "Other after 2")),
    ]
    copies = await repository.get_session_history("alice", branched["session_id"])
    assert [copy.timestamp for copy in copies[:2]] == [message.timestamp for message in before[:2]]
    assert agent.asked[-1][1].session_id == branched["session_id"]
    assert (await repository.get_session("alice", branched["session_id"])).title == "First"

    edited = await service.edit("alice", session_id, before[2].message_id, "Other")
    after = await repository.get_session_history("alice", session_id)
    assert (edited["session_id"], after[:2]) == (session_id, before[:2])
    assert [message.content for message in after[2:]] == ["Other", "Other after 2"]
    for foreign in (before[1].message_id, before[2].message_id, str(uuid.uuid4())):
        with pytest.raises(InvalidInputError, match="message_id"):
            await service.edit("alice", session_id, foreign, "Again")
    with pytest.raises(SessionNotFoundError):
        await service.edit("bob", session_id, after[0].message_id, "Mine")
    assert await repository.get_session_history("alice", session_id) == after


async def test_an_edit_of_the_first_message_leaves_nothing_before_it(repository: Any) -> None:
    service = ChatService(Echo(), repository=repository)
    result = await service.chat("First", "alice")
    first = result["metadata"]["message_id"]
    branched = await service.edit("alice", result["session_id"], first, "New", branch=True)
    assert await texts(repository, "alice", branched["session_id"]) == [
        ("user", "New"),
        ("assistant", "New after 0"),
    ]
    await service.edit("alice", result["session_id"], first, "New")
    assert await texts(repository, "alice", result["session_id"]) == [
        ("user", "New"),
        ("assistant", "New after 0"),
    ]


class Factory:
    """Creates agents as AgentHub's factory does."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    async def create_agent(
        self, agent_type: Any, framework: Any, llm_provider: Any, session_repository: Any, verbose: Any
    ) -> Any:
        self.options.append(
            {
                "agent_type": agent_type,
                "framework": framework,
                "llm_provider": llm_provider,
                "session_repository": session_repository,
                "verbose": verbose,
            }
        )

        async def execute(message: str, context: AgentContext) -> Any:
            assert context.metadata == {"protocol": "rest"}
            history = await session_repository.get_session_history(context.user_id, context.session_id)
            return SimpleNamespace(
                content=f"{message} after {len(history)}", metadata={"model": "m"}, tools_used=["search"]
            )

        return SimpleNamespace(execute=execute)


async def test_the_agent_of_a_factory_is_created_once(repository: Any) -> None:
    factory = Factory()
    service = ChatService(
        agent_factory=factory, repository=repository, agent_options={"agent_type": "chat", "verbose": True}
    )
    first = await service.chat("Hi", "alice")
    second = await service.chat("Bye", "alice", first["session_id"])
    assert (first["message"], second["message"]) == ("Hi after 0", "Bye after 2")
    assert (second["tools_used"], second["metadata"]["model"]) == (["search"], "m")
    assert factory.options == [
        {
            "agent_type": "chat",
            "framework": None,
            "llm_provider": None,
            "session_repository": repository,
            "verbose": True,
        }
    ]


async def test_a_factory_with_its_own_defaults_keeps_them_and_may_fail_once(sqlite_url: str) -> None:
    class Own:
        calls = 0

        async def create_agent(self, *, agent_type: str = "own", session_repository: Any) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise OSError("no network")
            return lambda message, context: agent_type

    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        service = ChatService(agent_factory=Own(), repository=repository)
        assert (await service.chat("Hi", "alice"))["errors"] == ["the agent raised OSError"]
        assert (await service.chat("Hi", "alice"))["message"] == "own"


async def test_an_answer_is_stored_as_every_backend_can(repository: Any) -> None:
    broken = Pieces("a\0b\ud83d", "\ude00 \udc00", AgentResponse(metadata={"x": object()}, payload={1}))  # type: ignore[dict-item]
    service = ChatService(broken, repository=repository)
    result = await service.chat("Hi", "alice")
    assert result["success"] is True
    assert result["message"] == "a\ufffdb\U0001f600 \ufffd"
    assert len(result["errors"]) == 2
    assert (await texts(repository, "alice", result["session_id"]))[1] == ("assistant", result["message"])


async def test_five_megabytes_are_an_answer(repository: Any) -> None:
    text = "Ünïcödé " * (5 * 2**20 // 11)
    service = ChatService(Pieces(*[text[: 2**16]] * 80), repository=repository)
    result = await service.chat("Tell me all", "alice")
    [_, answer] = await repository.get_session_history("alice", result["session_id"])
    assert len(answer.content.encode()) > 5 * 2**20
    assert answer.content == result["message"]


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("message", {"message": "a\0b"}),
        ("message", {"message": 1}),
        ("user_id", {"user_id": ""}),
        ("session_id", {"session_id": {"$ne": ""}}),
        ("protocol", {"protocol": None}),
        ("message_id", {"message_id": 7}),
        ("metadata", {"metadata": {"a": object()}}),
    ],
)
async def test_bad_input_is_refused_before_the_agent_is_asked(
    sqlite_url: str, argument: str, call: dict[str, Any]
) -> None:
    agent = Echo()
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        service = ChatService(agent, repository=repository)
        for way in (service.chat, service.stream):
            with pytest.raises(InvalidInputError) as caught:
                await way(**{"message": "Hi", "user_id": "alice", **call})  # type: ignore[misc]
            assert caught.value.argument.split(".")[0] == argument
        with pytest.raises(InvalidInputError, match="UUID"):
            await service.chat("Hi", "alice", message_id="no-uuid")
        assert await repository.count_sessions("alice") == 0
    assert agent.asked == []


async def test_a_message_id_of_another_message_is_a_conflict(repository: Any) -> None:
    service = ChatService(Echo(), repository=repository)
    first = await service.chat("Hi", "alice", message_id=uuid.uuid4())
    taken = first["metadata"]["message_id"]
    for session_id in (None, first["session_id"], str(uuid.uuid4())):
        with pytest.raises(MessageConflictError):
            await service.chat("Other", "alice", session_id, message_id=taken)
    assert len(await everything(repository)) == 1


def test_options_are_checked(sqlite_url: str) -> None:
    with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        for options in (
            {"on_conflict": "queue"},
            {"history_limit": -1},
            {"history_tokens": 10},
            {"timeout": 0},
            {"agent": Echo(), "agent_factory": Factory()},
            {"agent": Echo(), "agent_options": {"verbose": True}},
        ):
            with pytest.raises(InvalidInputError):
                ChatService(**{"repository": repository, **options})  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="agent"):
            ChatService(repository=repository).chat_sync("Hi", "alice")


def test_every_method_has_a_blocking_twin(sqlite_url: str) -> None:
    with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        agent = Pieces("one ", "two")
        with ChatService(agent, repository=repository) as service:
            session_id = service.create_session_sync("alice", "Mine")
            assert service.chat_sync("Hi", "alice", session_id)["message"] == "one two"
            *pieces, result = service.stream_sync("Hi", "alice", session_id)
            assert pieces == ["one ", "two"]
            assert isinstance(result, dict)
            assert service.regenerate_sync("alice", session_id)["success"]
            edited = service.edit_sync("alice", session_id, result["metadata"]["message_id"], "Ho")
            assert edited["success"]
            *pieces, result = service.stream_regenerate_sync("alice", session_id)
            assert pieces == ["one ", "two"]
            [*pieces, result] = service.stream_edit_sync(
                "alice", session_id, result["metadata"]["message_id"], "Ho"
            )
            assert pieces == ["one ", "two"]
            history = service.get_session_history_sync("alice", session_id)
            assert [message.content for message in history] == ["Hi", "one two", "Ho", "one two"]
            assert service.rename_session_sync("alice", session_id, "Other")
            [found] = service.list_sessions_sync("alice").sessions
            assert found.title == "Other"
            # Ended before its end, a stream stores what there is.
            stream = service.stream_sync("Stop", "alice", session_id)
            assert next(stream) == "one "
            stream.close()  # type: ignore[attr-defined]
            answer = service.get_session_history_sync("alice", session_id, limit=1)[0]
            assert (answer.content, answer.metadata["status"]) == ("one ", "partial")
            assert agent.closed == agent.asked
            assert service.delete_session_sync("alice", session_id)


async def test_without_a_repository_the_settings_choose_it(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "sqlite")
    monkeypatch.setenv("SQLITE_URL", sqlite_url)
    async with ChatService(Echo()) as service:
        session_id = (await service.chat("Hi", "alice"))["session_id"]
        assert len(await service.get_session_history("alice", session_id)) == 2
    assert count_checked_out(service.repository) == 0
    assert Path(sqlite_url.removeprefix("sqlite:///")).exists()
