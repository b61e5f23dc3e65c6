"""`sessions.integrations.llama_index.ChatStore`, by the protocol of `AsyncDBChatStore`."""

from __future__ import annotations

import asyncio
import copy
import inspect
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import AudioBlock, ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore

from sessions import InvalidInputError, NewMessage, SessionConflictError
from sessions.integrations.llama_index import ChatStore, by_status
from sessions.integrations.llama_index import store as store_module
from tests.integrations.llama_index.samples import MESSAGES, PIXEL, ROLES

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


@pytest.fixture
def store(repository: Any) -> ChatStore:
    return ChatStore(repository, user_id="alice")


def texts_to_messages(*texts: object) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=str(text)) for text in texts]


def text_message(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def texts(messages: list[ChatMessage]) -> str:
    return " ".join(str(each.content) for each in messages)


async def states(store: ChatStore, key: str = "trip") -> tuple[str, str, str]:
    """Return the texts of the archived messages, of the active ones, and of all."""
    found = [await store.get_messages(key, status) for status in (ARCHIVED, ACTIVE, None)]
    counts = [await store.count_messages(key, status) for status in (ARCHIVED, ACTIVE, None)]
    assert counts == [len(each) for each in found]
    archived, active, every = map(texts, found)
    return archived, active, every


def inner(message: ChatMessage) -> list[Any]:
    """Return what pydantic keeps of a message and its blocks beside the fields."""
    models = [message, *message.blocks]
    return [(each.model_extra, each.model_fields_set, each.__pydantic_private__) for each in models]


async def test_each_block_and_each_role_comes_back_equal(store: ChatStore) -> None:
    await store.add_messages("trip", MESSAGES + ROLES)
    found = await store.get_messages("trip")
    assert found == MESSAGES + ROLES
    assert [each.model_dump() for each in found] == [each.model_dump() for each in MESSAGES + ROLES]
    assert [type(block) for each in found for block in each.blocks] == [
        type(block) for each in MESSAGES + ROLES for block in each.blocks
    ]
    assert copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == MESSAGES + ROLES
    validated = [ChatMessage.model_validate(each.model_dump(mode="json")) for each in found]
    assert list(map(inner, found)) == list(map(inner, validated))
    await store.set_messages("copy", found)
    assert await store.get_messages("copy") == found


async def test_the_payload_is_what_the_framework_dumps_and_the_rest_is_readable(
    store: ChatStore, repository: Any
) -> None:
    await store.add_messages("trip", MESSAGES)
    [chat_session] = (await repository.list_sessions("alice", where={"framework": "llama-index"})).sessions
    assert chat_session.title == "What is it?"
    assert chat_session.metadata == {"framework": "llama-index", "framework_session_id": "trip"}
    stored = await repository.get_session_history("alice", chat_session.session_id)
    assert [each.payload for each in stored] == [each.model_dump(mode="json") for each in MESSAGES]
    assert [each.content for each in stored] == [
        *("Be brief.", "What is it?", "", ""),
        "Two lines\nof text \ufffd\nand more"
        + "\n[image]" * 2
        + "\n[audio]" * 2
        + "\n[video]" * 2
        + "\n[document]" * 2,
        'I look it up.\nweather({"city": "Rome", "n": [1]})\nweather({"city": "Rome"})',
        *("18 °C", "It is warm."),
    ]
    assert stored[5].metadata == stored[6].metadata == {"tool.name": "weather"}
    await store.add_messages("roles", ROLES)
    roles = dict.fromkeys(MessageRole, "assistant") | {
        MessageRole.SYSTEM: "system",
        MessageRole.DEVELOPER: "developer",
        MessageRole.USER: "user",
        MessageRole.FUNCTION: "tool",
        MessageRole.TOOL: "tool",
    }
    [session_id] = [
        each.session_id
        for each in (await repository.list_sessions("alice")).sessions
        if each.metadata["framework_session_id"] == "roles"
    ]
    stored = await repository.get_session_history("alice", session_id)
    assert [each.role for each in stored] == list(roles.values())


async def test_values_of_additional_kwargs_come_back_as_the_framework_dumps_them(store: ChatStore) -> None:
    values = {
        "score": math.inf,
        "text": "half \ud83d",
        "bytes": b"\0",
        "big": 10**30,
        "block": TextBlock(text="x"),
    }
    await store.add_message("trip", ChatMessage(content="x", additional_kwargs=values))
    [found] = await store.get_messages("trip")
    block = {"block_type": "text", "text": "x"}
    assert found.additional_kwargs == {**values, "bytes": "AA==", "block": block}

    class Own:
        def __repr__(self) -> str:
            return "a secret"

    with pytest.raises(InvalidInputError, match="messages") as caught:
        await store.add_message("trip", ChatMessage(content="x", additional_kwargs={"own": Own()}))
    assert "secret" not in str(caught.value)
    assert await store.count_messages("trip") == 1


async def test_a_block_whose_file_is_gone_does_not_hide_the_conversation(
    store: ChatStore, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(PIXEL)
    message = ChatMessage(blocks=[TextBlock(text="Look"), ImageBlock(path=picture), AudioBlock(audio=b"x")])
    await store.add_message("trip", message)
    assert await store.get_messages("trip") == [message]
    picture.unlink()
    assert await store.get_messages("trip") == [message]


async def test_limit_and_offset_count_from_the_oldest(store: ChatStore) -> None:
    await store.add_messages("trip", texts_to_messages(*range(8)))
    await store.archive_oldest_messages("trip", 2)
    for status, found in ((ACTIVE, "234567"), (ARCHIVED, "01"), (None, "01234567")):
        for limit in (None, 0, 1, 3, 8, 100):
            for offset in (None, 0, 1, 6, 100):
                end = None if limit is None else (offset or 0) + limit
                messages = await store.get_messages("trip", status=status, limit=limit, offset=offset)
                assert texts(messages).replace(" ", "") == found[offset or 0 : end]
    for wrong in list[dict[str, Any]]([{"limit": -1}, {"offset": -1}, {"limit": True}, {"limit": "1"}]):
        with pytest.raises(InvalidInputError):
            await store.get_messages("trip", **wrong)


async def test_set_replaces_all_whatever_their_status(store: ChatStore, repository: Any) -> None:
    await store.set_messages("trip", texts_to_messages("a", "b", "c"))
    await store.archive_oldest_messages("trip", 1)
    await store.set_messages("trip", texts_to_messages("d", "e"))
    assert await states(store) == ("", "d e", "d e")
    await store.set_messages("trip", texts_to_messages("f"), status=ARCHIVED)
    assert await states(store) == ("f", "", "f")
    await store.set_messages("trip", [])
    assert await states(store) == ("", "", "")
    assert await store.get_keys() == []
    await store.set_messages("none", [])
    assert await repository.count_sessions("alice") == 1


async def test_the_oldest_are_archived_and_deleted(store: ChatStore) -> None:
    await store.add_messages("trip", texts_to_messages(*"abcdefgh"))
    await store.add_message("trip", text_message("X"), status=ARCHIVED)
    assert await states(store) == ("X", "a b c d e f g h", "a b c d e f g h X")
    assert texts(await store.archive_oldest_messages("trip", 2)) == "a b"
    assert texts(await store.delete_oldest_messages("trip", 2)) == "c d"
    assert await states(store) == ("a b X", "e f g h", "a b e f g h X")
    assert await store.archive_oldest_messages("trip", 0) == []
    assert await store.delete_oldest_messages("trip", 0) == []
    assert texts(await store.archive_oldest_messages("trip", 1)) == "e"
    await store.add_messages("trip", texts_to_messages("i"))
    assert texts(await store.delete_oldest_messages("trip", 100)) == "f g h i"
    assert await states(store) == ("a b e X", "", "a b e X")
    assert await store.archive_oldest_messages("trip", 1) == []
    assert await store.delete_oldest_messages("trip", 1) == []
    assert await store.archive_oldest_messages("none", 1) == []
    assert await store.delete_oldest_messages("none", 1) == []
    for operation in (store.archive_oldest_messages, store.delete_oldest_messages):
        with pytest.raises(InvalidInputError):
            await operation("trip", -1)


async def test_messages_are_deleted_by_status(store: ChatStore) -> None:
    for status, expected in (
        (ACTIVE, ("a b", "", "a b")),
        (ARCHIVED, ("", "c d", "c d")),
        (None, ("", "", "")),
    ):
        await store.set_messages("trip", texts_to_messages(*"abcd"))
        await store.archive_oldest_messages("trip", 2)
        await store.delete_messages("trip", status)
        assert await states(store) == expected
    await store.delete_messages("none")
    await store.delete_messages("none", ACTIVE)
    await store.delete_messages("none", ARCHIVED)


async def test_one_active_message_is_deleted_by_its_place(store: ChatStore) -> None:
    await store.add_messages("trip", texts_to_messages(*"abcdef"))
    for place in (-1, 6):
        assert await store.delete_message("trip", place) is None
    assert await store.delete_message("none", 0) is None
    for wrong in list[Any](["1", 1.0, None, True]):
        with pytest.raises(InvalidInputError, match="idx"):
            await store.delete_message("trip", wrong)
    assert await states(store) == ("", "a b c d e f", "a b c d e f")
    await store.archive_oldest_messages("trip", 2)
    for place, text, expected in (
        (1, "d", ("a b", "c e f", "a b c e f")),
        (2, "f", ("a b", "c e", "a b c e")),
        (0, "c", ("a b", "e", "a b e")),
        (0, "e", ("a b", "", "a b")),
    ):
        [message] = (await store.get_messages("trip"))[place : place + 1]
        deleted = await store.delete_message("trip", place)
        assert deleted == message
        assert message.content == text
        assert await states(store) == expected
    # What is archived has no place among the active ones.
    assert await store.delete_message("trip", 0) is None


async def test_a_long_archive_and_a_long_queue(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_status, "FIRST_READ", 3)
    monkeypatch.setattr(by_status, "GROWTH", 2)
    await store.add_messages("trip", texts_to_messages(*range(20)))
    assert await store.count_messages("trip") == 20
    for count in (1, 1, 5, 9, 4, 1):
        before = await store.get_messages("trip")
        assert await store.archive_oldest_messages("trip", count) == before[:count]
        assert await store.get_messages("trip") == before[count:]
    assert await store.count_messages("trip", ARCHIVED) == 20


async def test_a_read_in_parts_begins_again_if_its_place_is_gone(
    store: ChatStore, repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_status, "FIRST_READ", 2)
    await store.add_messages("trip", texts_to_messages(*"abcde"))
    read, parts = repository.get_session_history, []

    async def replaced(*arguments: Any, **options: Any) -> Any:
        part = await read(*arguments, **options)
        if options["limit"] == 1:  # Of the newest message, which a replacement reads.
            return part
        parts.append(part)
        if len(parts) == 1:
            await store.set_messages("trip", texts_to_messages(*"fgh"))
        return part

    monkeypatch.setattr(repository, "get_session_history", replaced)
    assert texts(await store.get_messages("trip")) == "f g h"
    assert len(parts) == 3


async def test_keys_are_those_of_the_user_that_have_messages(store: ChatStore, repository: Any) -> None:
    assert await store.get_keys() == []
    for key in ("a", "b", UUID, "über uns", ""):
        await store.add_message(key, text_message("x"))
    await ChatStore(repository, user_id="bob").add_message("c", text_message("x"))
    await repository.create_session_async("alice", messages=[("user", "not of LlamaIndex")])
    assert await store.get_keys() == sorted(["a", "b", UUID, "über uns", ""])
    assert await repository.count_messages("alice", UUID) == 1
    await store.delete_messages("a")
    await store.delete_oldest_messages("b", 1)
    assert await store.get_keys() == sorted([UUID, "über uns", ""])
    await store.add_message("a", text_message("again"))
    assert "a" in await store.get_keys()


async def test_keys_are_read_in_pages(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KEYS_READ", 2)
    for number in range(5):
        await store.add_message(str(number), text_message("x"))
    assert await store.get_keys() == list("01234")


async def test_users_with_the_same_key_never_meet(store: ChatStore, repository: Any) -> None:
    other = ChatStore(repository, user_id="bob")
    await store.add_message("trip", text_message("of Alice"))
    await other.add_message("trip", text_message("of Bob"))
    await store.add_message(UUID, text_message("of Alice"))
    assert await other.get_messages(UUID) == []
    assert await other.delete_message(UUID, 0) is None
    assert await other.delete_oldest_messages(UUID, 1) == []
    await other.delete_messages(UUID)
    with pytest.raises(SessionConflictError):
        await other.add_message(UUID, text_message("of Bob"))
    with pytest.raises(SessionConflictError):
        await other.set_messages(UUID, texts_to_messages("of Bob"))
    assert texts(await store.get_messages(UUID)) == "of Alice"
    await other.delete_messages("trip")
    assert texts(await store.get_messages("trip")) == "of Alice"


async def test_messages_of_others_are_read_too(store: ChatStore, repository: Any) -> None:
    await repository.ensure_session_exists(UUID, "alice")
    openai = NewMessage("assistant", "Ciao", payload={"role": "assistant", "content": "Ciao"})
    await repository.add_messages(UUID, [("user", "Hello"), openai, ("tool", "18")])
    assert await store.get_messages(UUID) == [
        ChatMessage(role="user", content="Hello"),
        ChatMessage(role="assistant", content="Ciao"),
        ChatMessage(role="tool", content="18"),
    ]


async def test_an_empty_list_adds_nothing(store: ChatStore, repository: Any) -> None:
    await store.add_messages("trip", [])
    assert await repository.count_sessions("alice") == 0


async def test_it_does_what_the_store_of_llama_index_does(store: ChatStore) -> None:
    other = SQLAlchemyChatStore("messages", "sqlite+aiosqlite://")
    results: list[list[Any]] = []
    for each in (store, other):
        await each.add_messages("a", MESSAGES)
        await each.add_message("a", text_message("x"))
        done: list[Any] = [
            await each.archive_oldest_messages("a", 2),
            await each.delete_oldest_messages("a", 1),
            await each.delete_message("a", 99),
            await each.get_messages("a"),
            await each.get_messages("a", ARCHIVED),
            await each.get_messages("a", None, limit=3, offset=1),
            await each.count_messages("a"),
        ]
        await each.set_messages("a", texts_to_messages("p", "q"), ARCHIVED)
        done += [await each.get_messages("a", status=None), await each.get_keys()]
        await each.delete_messages("a", ARCHIVED)
        done += [await each.get_keys(), await each.get_messages("none")]
        results.append(done)
    assert other._async_engine is not None
    await other._async_engine.dispose()
    for mine, its in zip(*results, strict=True):
        assert mine == its


def test_its_signatures_are_those_of_the_protocol() -> None:
    for name, method in inspect.getmembers(AsyncDBChatStore, inspect.iscoroutinefunction):
        mine, its = (inspect.signature(each).parameters for each in (getattr(ChatStore, name), method))
        assert [(each.name, each.default) for each in mine.values()] == [
            (each.name, each.default) for each in its.values()
        ]
        assert inspect.iscoroutinefunction(getattr(ChatStore, name))


async def test_calls_on_a_loop_of_another_thread_leave_no_connections(store: ChatStore) -> None:
    await store.add_message("trip", text_message("a"))

    def on_a_loop_of_its_own() -> list[ChatMessage]:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(store.add_message("trip", text_message("b")))
            return loop.run_until_complete(store.get_messages("trip"))
        finally:
            loop.close()  # Not as asyncio.run does; connections on it would be warned of.

    assert texts(await asyncio.to_thread(on_a_loop_of_its_own)) == "a b"
