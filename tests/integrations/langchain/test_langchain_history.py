"""`sessions.integrations.langchain.ChatMessageHistory`, by the protocol of `BaseChatMessageHistory`."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from typing import Any, get_args

import pytest
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)

from sessions import InvalidInputError, NewMessage, SessionConflictError
from sessions.integrations.common import session_id_for
from sessions.integrations.langchain import ChatMessageHistory
from sessions.integrations.langchain.messages import CLASSES as KNOWN_CLASSES
from sessions.integrations.langchain.messages import to_new_message
from tests.integrations.langchain.samples import BLOCKS, CLASSES, VALUES

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def history_of(repository: Any, session_id: str = "trip", user_id: str = "alice", **options: Any) -> Any:
    return ChatMessageHistory(session_id, repository=repository, user_id=user_id, **options)


def assert_same(found: list[BaseMessage], messages: list[BaseMessage]) -> None:
    """Compare messages that were read, without validation, with validated ones."""
    assert [type(each) for each in found] == [type(each) for each in messages]
    assert found == messages
    assert [each.model_dump() for each in found] == [each.model_dump() for each in messages]
    assert copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == messages
    assert [vars(each).keys() for each in found] == [vars(each).keys() for each in messages]
    assert [each.model_extra for each in found] == [each.model_extra for each in messages]


def kinds_of_blocks(message: BaseMessage) -> list[str]:
    return [block["type"] for block in message.content_blocks]


async def test_each_class_block_and_value_comes_back_equal(repository: Any) -> None:
    messages = [*CLASSES, *BLOCKS, *VALUES]
    await history_of(repository).aadd_messages(messages)
    assert_same(await history_of(repository).aget_messages(), messages)


async def test_each_is_what_langchain_reads_from_the_same_dict(repository: Any) -> None:
    await history_of(repository).aadd_messages(CLASSES + BLOCKS)
    found = await history_of(repository).aget_messages()
    validated = messages_from_dict([message_to_dict(each) for each in CLASSES + BLOCKS])
    assert_same(found, validated)
    assert [each.model_fields_set for each in found] == [each.model_fields_set for each in validated]
    # What is made of a message when it is used, not when it is created.
    assert list(map(kinds_of_blocks, found)) == list(map(kinds_of_blocks, CLASSES + BLOCKS))
    assert [each.pretty_repr() for each in found] == [each.pretty_repr() for each in CLASSES + BLOCKS]
    assert found[11] + found[11] == CLASSES[11] + CLASSES[11]


async def test_the_payload_is_the_dict_of_langchain_and_the_rest_is_readable(repository: Any) -> None:
    history = history_of(repository)
    await history.aadd_messages(CLASSES)
    [chat_session] = (await repository.list_sessions("alice", where={"framework": "langchain"})).sessions
    assert chat_session.title == "What is the weather in Rome?"
    assert chat_session.metadata == {"framework": "langchain", "framework_session_id": "trip"}
    stored = await repository.get_session_history("alice", chat_session.session_id)
    assert [each.payload for each in stored] == [message_to_dict(each) for each in CLASSES]
    assert [each.role for each in stored] == [
        *("system", "developer", "user", "assistant", "tool", "tool", "tool", "assistant"),
        *("assistant", "assistant", "system", "user", "assistant", "assistant", "system", "tool", "tool"),
        "user",
    ]
    assert [each.content for each in stored[:6]] == [
        *("Be brief.", "Be polite.", "What is the weather in Rome?"),
        'weather({"city": "Rome", "days": [1, 2.5, null]})\ng({"x": )',
        *("18 °C", "18 °Csunny"),
    ]
    assert stored[3].metadata == {
        "model": "gpt",
        "usage.input_tokens": 350,
        "usage.output_tokens": 240,
        "agent.name": "forecaster",
        "tool.name": "weather",
    }
    assert stored[4].metadata == {"tool.name": "weather"}
    assert stored[9].metadata["model"] == "claude"
    assert len((await repository.search_messages("alice", "sunny")).hits) == 2


async def test_what_the_backend_cannot_store_as_content_is_replaced_there_alone(repository: Any) -> None:
    history = history_of(repository)
    await history.aadd_messages(VALUES[:2])
    session_id = session_id_for("langchain", "alice", "trip")
    stored = await repository.get_session_history("alice", session_id)
    assert [each.content for each in stored] == ["a NUL \ufffd and the rest", "half of a pair \ufffd"]
    assert_same(await history.aget_messages(), VALUES[:2])


async def test_not_a_number_comes_back(repository: Any) -> None:
    history = history_of(repository)
    await history.aadd_messages([AIMessage("", response_metadata={"score": math.nan})])
    [found] = await history.aget_messages()
    assert math.isnan(found.response_metadata["score"])


async def test_ids_are_kept_and_the_same_message_twice_is_there_twice(repository: Any) -> None:
    history = history_of(repository)
    message = HumanMessage("Hello", id="run-1")
    await history.aadd_messages([message, message])
    history.add_message(message)
    assert [each.id for each in await history.aget_messages()] == ["run-1"] * 3


async def test_blocking_calls_work_while_a_loop_runs_and_in_threads(repository: Any) -> None:
    history = history_of(repository)
    assert history.messages == []
    history.add_user_message("Hello")
    history.add_user_message(HumanMessage("Rome?", id="1"))
    history.add_ai_message("Ciao")
    history.add_ai_message(AIMessage("Yes", id="2"))
    await asyncio.to_thread(history.add_message, SystemMessage("Be brief."))
    await asyncio.to_thread(history.add_messages, [HumanMessage("a"), AIMessage("b")])
    expected = [
        *(HumanMessage("Hello"), HumanMessage("Rome?", id="1"), AIMessage("Ciao"), AIMessage("Yes", id="2")),
        *(SystemMessage("Be brief."), HumanMessage("a"), AIMessage("b")),
    ]
    assert_same(history.messages, expected)
    assert_same(await history.aget_messages(), expected)
    assert_same(await asyncio.to_thread(lambda: history.messages), expected)
    assert str(history).startswith("Human: Hello\nHuman: Rome?\nAI: Ciao\n")
    history.clear()
    assert await history.aget_messages() == []


async def test_the_newest_messages_are_returned_if_a_size_is_given(repository: Any) -> None:
    texts = [str(number) for number in range(7)]
    await history_of(repository).aadd_messages([HumanMessage(text) for text in texts])
    for size in (0, 1, 3, 7, 1001, None):
        history = history_of(repository, history_size=size)
        expected = texts if size is None else texts[len(texts) - min(size, 7) :]
        assert [each.content for each in await history.aget_messages()] == expected
        assert [each.content for each in history.messages] == expected
    for wrong in (-1, True, "3", 1.5):
        with pytest.raises(InvalidInputError, match="history_size"):
            history_of(repository, history_size=wrong)


async def test_a_history_has_its_session_id_which_is_a_text(repository: Any) -> None:
    assert history_of(repository, "trip").session_id == "trip"
    wrong: Any
    for wrong in ("", None, 1):
        with pytest.raises(InvalidInputError, match="session_id"):
            history_of(repository, wrong)


async def test_users_with_the_same_session_id_never_meet(repository: Any) -> None:
    await history_of(repository, "1", "alice").aadd_messages([HumanMessage("of Alice")])
    await history_of(repository, "1", "bob").aadd_messages([HumanMessage("of Bob")])
    await history_of(repository, "1", "alice").aclear()
    assert await history_of(repository, "1", "alice").aget_messages() == []
    [message] = await history_of(repository, "1", "bob").aget_messages()
    assert message.content == "of Bob"


async def test_a_uuid_is_the_session_itself(repository: Any) -> None:
    await history_of(repository, UUID).aadd_messages([HumanMessage("Hello")])
    assert await repository.count_messages("alice", UUID) == 1
    assert await history_of(repository, UUID, "bob").aget_messages() == []
    with pytest.raises(SessionConflictError):
        await history_of(repository, UUID, "bob").aadd_messages([HumanMessage("mine")])
    await history_of(repository, UUID, "bob").aclear()
    assert await repository.count_messages("alice", UUID) == 1


async def test_messages_of_others_are_read_too(repository: Any) -> None:
    written = [
        *(("system", "Be brief."), ("user", "Hello"), ("assistant", "Ciao"), ("tool", "18")),
        NewMessage("developer", "Be polite.", payload={"role": "developer", "content": "Be polite."}),
    ]
    await repository.ensure_session_exists(UUID, "alice")
    ids = await repository.add_messages(UUID, written)
    found = await history_of(repository, UUID).aget_messages()
    assert_same(
        found,
        [
            SystemMessage("Be brief.", id=ids[0]),
            HumanMessage("Hello", id=ids[1]),
            AIMessage("Ciao", id=ids[2]),
            ToolMessage("18", tool_call_id=ids[3], id=ids[3]),
            SystemMessage("Be polite.", id=ids[4], additional_kwargs={"__openai_role__": "developer"}),
        ],
    )


async def test_the_session_exists_from_its_first_messages_on_and_stays(repository: Any) -> None:
    history = history_of(repository)
    await history.aadd_messages([])
    await history.aclear()
    assert await history.aget_messages() == []
    assert await repository.count_sessions("alice") == 0
    await history.aadd_messages([SystemMessage("Be brief.")])
    await history.aadd_messages([HumanMessage("What should I see first when I am in Rome?")])
    await history.aclear()
    [chat_session] = (await repository.list_sessions("alice")).sessions
    assert chat_session.title == "What should I see first when I am in Rome?"
    await repository.delete_session_async("alice", chat_session.session_id)
    await history.aadd_messages([HumanMessage("Anew")])
    assert [each.content for each in await history.aget_messages()] == ["Anew"]


async def test_what_cannot_be_read_back_is_refused_and_nothing_is_stored(repository: Any) -> None:
    class OwnMessage(BaseMessage):
        type: str = "own"

    class Own:
        def __repr__(self) -> str:
            return "a secret"

    history = history_of(repository)
    for wrong in (
        OwnMessage(content="x"),
        "Hello",
        ToolMessage("", tool_call_id="1", artifact={"a": [Own()]}),
    ):
        with pytest.raises(InvalidInputError, match="messages") as caught:
            await history.aadd_messages([HumanMessage("Hello"), wrong])
        assert "secret" not in str(caught.value)
    assert await history.aget_messages() == []


def test_all_classes_of_langchain_are_known() -> None:
    known = {cls for cls, _ in KNOWN_CLASSES.values()}
    union, *_ = get_args(AnyMessage)
    assert {get_args(each)[0] for each in get_args(union)} <= known
    for name, (cls, _) in KNOWN_CLASSES.items():
        assert cls.model_fields["type"].default == name


def test_it_is_a_history_of_langchain() -> None:
    assert issubclass(ChatMessageHistory, BaseChatMessageHistory)
    public = {name for name in vars(BaseChatMessageHistory) if not name.startswith("_")}
    assert public <= set(dir(ChatMessageHistory))


class _Unread(str):
    __slots__ = ()

    def __iter__(self) -> Any:
        raise AssertionError("each character is looked at")


def test_a_text_is_not_read_character_by_character() -> None:
    message = HumanMessage("")
    message.content = _Unread("What is the weather in Rome?")
    assert to_new_message(message).content == "What is the weather in Rome?"
