"""The dataclasses take what they took before they had more fields."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from sessions import ChatMessage, ChatSession, NewMessage

NOW = datetime.now(UTC)
SESSION = {"session_id": "s", "title": "T", "user_id": "u", "created_at": NOW, "updated_at": NOW}
MESSAGE = {"message_id": "m", "session_id": "s", "role": "user", "content": "Hi", "timestamp": NOW}


def test_a_session_takes_the_documented_keywords_of_old() -> None:
    assert ChatSession(**SESSION, metadata={"a": 1}) == ChatSession("s", "T", "u", NOW, NOW, {"a": 1}, 0)  # type: ignore[arg-type]
    assert ChatSession("s", "T", "u", NOW, NOW).metadata == {}
    assert ChatSession("s", "T", "u", NOW, NOW).version == 0


def test_a_message_takes_the_documented_keywords_of_old() -> None:
    message = ChatMessage(**MESSAGE)  # type: ignore[arg-type]
    assert message == ChatMessage("m", "s", "user", "Hi", NOW)
    assert (message.metadata, message.payload) == ({}, None)
    assert message.metadata is not ChatMessage(**MESSAGE).metadata  # type: ignore[arg-type]


def test_new_fields_come_last() -> None:
    assert [each.name for each in dataclasses.fields(ChatSession)] == [*SESSION, "metadata", "version"]
    assert [each.name for each in dataclasses.fields(ChatMessage)] == [*MESSAGE, "metadata", "payload"]


def test_what_a_caller_appends_takes_its_role_and_content_by_place_and_the_rest_by_name() -> None:
    assert NewMessage("user") == NewMessage("user", "")
    with pytest.raises(TypeError):
        NewMessage("user", "Hi", "id")  # type: ignore[call-arg]
