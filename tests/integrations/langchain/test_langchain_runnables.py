"""`RunnableWithMessageHistory` on the history of a session, with LangChain's own models for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import ConfigurableFieldSpec, RunnableConfig, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from sessions.integrations.langchain import ChatMessageHistory

# LangChain's advice to use LangGraph.
pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")


def config_of(session_id: str = "trip") -> RunnableConfig:
    return {"configurable": {"session_id": session_id}}


def factory(repository: Any, **options: Any) -> Callable[[str], ChatMessageHistory]:
    return lambda session_id: ChatMessageHistory(
        session_id, repository=repository, user_id="alice", **options
    )


def texts(messages: list[BaseMessage]) -> list[tuple[str, str]]:
    return [(each.type, str(each.text)) for each in messages]


EXPECTED = [
    *(("human", "Where to?"), ("ai", "Rome")),
    *(("human", "And then?"), ("ai", "Milan")),
]


async def test_a_model_with_messages_as_input(repository: Any) -> None:
    chain = RunnableWithMessageHistory(FakeListChatModel(responses=["Rome", "Milan"]), factory(repository))
    await chain.ainvoke([HumanMessage("Where to?")], config_of())
    answer = chain.invoke([HumanMessage("And then?")], config_of())
    assert answer.content == "Milan"
    assert texts(await factory(repository)("trip").aget_messages()) == EXPECTED


async def test_a_prompt_with_a_place_for_the_history(repository: Any) -> None:
    seen = []

    def answer(prompt: Any) -> AIMessage:
        seen.append(texts(prompt.to_messages()))
        return AIMessage(["Rome", "Milan"][len(seen) - 1])

    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
    chain = RunnableWithMessageHistory(
        prompt | RunnableLambda(answer),
        factory(repository),
        input_messages_key="question",
        history_messages_key="history",
    )
    chain.invoke({"question": "Where to?"}, config_of())
    await asyncio.to_thread(chain.invoke, {"question": "And then?"}, config_of())
    assert seen == [EXPECTED[:1], EXPECTED[:3]]
    assert texts(await factory(repository)("trip").aget_messages()) == EXPECTED


async def test_streams_are_stored_as_one_message(repository: Any) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("Rome in spring"), AIMessage("Milan in fall")]))
    chain = RunnableWithMessageHistory(model, factory(repository))
    pieces = [piece.content async for piece in chain.astream([HumanMessage("Where to?")], config_of())]
    assert len(pieces) > 1
    assert len(list(chain.stream([HumanMessage("And then?")], config_of()))) > 1
    stored = await factory(repository)("trip").aget_messages()
    assert [text for _, text in texts(stored)] == [
        *("Where to?", "Rome in spring", "And then?", "Milan in fall"),
    ]


async def test_a_factory_with_two_keys_and_messages_in_a_dict(repository: Any) -> None:
    call: ToolCall = {"name": "weather", "args": {}, "id": "1", "type": "tool_call"}
    output = [
        AIMessage("", tool_calls=[call]),
        ToolMessage("18", tool_call_id="1", artifact={"t": 18}),
        AIMessage("It is warm."),
    ]

    def history_of(user_id: str, conversation_id: str) -> ChatMessageHistory:
        return ChatMessageHistory(conversation_id, repository=repository, user_id=user_id)

    def answer(_: dict[str, Any]) -> dict[str, Any]:
        return {"output": output}

    chain = RunnableWithMessageHistory(
        RunnableLambda(answer),
        history_of,
        input_messages_key="question",
        output_messages_key="output",
        history_messages_key="history",
        history_factory_config=[
            ConfigurableFieldSpec(id=name, annotation=str) for name in ("user_id", "conversation_id")
        ],
    )
    for user_id in ("alice", "bob"):
        await chain.ainvoke(
            {"question": f"I am {user_id}"},
            {"configurable": {"user_id": user_id, "conversation_id": "1"}},
        )
    for user_id in ("alice", "bob"):
        found = await history_of(user_id, "1").aget_messages()
        assert found == [HumanMessage(f"I am {user_id}"), *output]


async def test_a_run_that_fails_stores_nothing(repository: Any) -> None:
    def fail(_: Any) -> str:
        raise ArithmeticError

    chain = RunnableWithMessageHistory(RunnableLambda(fail), factory(repository))
    with pytest.raises(ArithmeticError):
        await chain.ainvoke([HumanMessage("Where to?")], config_of())
    assert await factory(repository)("trip").aget_messages() == []


async def test_a_limited_history_does_not_store_what_it_read_again(repository: Any) -> None:
    model = FakeListChatModel(responses=[str(number) for number in range(4)])
    chain = RunnableWithMessageHistory(model, factory(repository, history_size=3))
    for number in range(4):
        await chain.ainvoke([HumanMessage(f"question {number}")], config_of())
    stored = await factory(repository)("trip").aget_messages()
    assert [text for _, text in texts(stored)] == [
        text for number in range(4) for text in (f"question {number}", str(number))
    ]
