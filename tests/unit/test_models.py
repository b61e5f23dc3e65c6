from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from sessions import (
    UNSET,
    ChatMessage,
    ChatSession,
    NewMessage,
    PreviewPage,
    SearchHit,
    SearchPage,
    SessionPage,
    SessionPreview,
    Unset,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_session_takes_the_arguments_of_old_with_defaults_for_the_new() -> None:
    by_place = ChatSession("id", "T", "alice", NOW, NOW, {"a": 1})
    by_name = ChatSession(
        session_id="id", title="T", user_id="alice", created_at=NOW, updated_at=NOW, metadata={"a": 1}
    )

    assert by_place == by_name
    assert by_place.version == 0
    assert ChatSession("id", "T", "alice", NOW, NOW).metadata == {}
    assert ChatSession("id", "T", "alice", NOW, NOW, {}, 7).version == 7


def test_a_message_takes_the_arguments_of_old_with_defaults_for_the_new() -> None:
    by_place = ChatMessage("m", "s", "user", "Hi", NOW)
    by_name = ChatMessage(message_id="m", session_id="s", role="user", content="Hi", timestamp=NOW)

    assert by_place == by_name
    assert (by_place.metadata, by_place.payload) == ({}, None)
    assert by_place.metadata is not by_name.metadata
    full = ChatMessage("m", "s", "user", "Hi", NOW, {"model": "m"}, [1])
    assert (full.metadata, full.payload) == ({"model": "m"}, [1])
    assert full != by_place


@pytest.mark.parametrize(
    "value",
    [
        ChatSession("id", "T", "alice", NOW, NOW, {"a": 1}, 3),
        ChatMessage("m", "s", "user", "Hi", NOW, {"a": 1}, {"b": [None]}),
        NewMessage("tool", "Hi", message_id="m", timestamp=NOW, metadata={"a": 1}, payload=[1]),
        SessionPage([], "next"),
        PreviewPage([SessionPreview(ChatSession("id", "T", "alice", NOW, NOW), None)], None),
        SearchPage(
            [SearchHit(ChatSession("i", "T", "a", NOW, NOW), ChatMessage("m", "i", "user", "", NOW))], None
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_is_equal_after_a_copy_or_a_pickle_and_has_slots(value: Any) -> None:
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value
    assert not hasattr(value, "__dict__")
    assert type(value).__name__ in repr(value)


def test_neither_can_be_ordered() -> None:
    with pytest.raises(TypeError):
        sorted([ChatMessage("m", "s", "user", "Hi", NOW), ChatMessage("n", "s", "user", "Hi", NOW)])  # type: ignore[type-var]


def test_a_new_message_takes_role_and_content_by_place_and_the_rest_by_name() -> None:
    message = NewMessage("assistant", "Hi")

    assert (message.role, message.content) == ("assistant", "Hi")
    assert (message.message_id, message.timestamp, message.metadata, message.payload) == (None,) * 4
    assert NewMessage("tool").content == ""
    with pytest.raises(TypeError):
        NewMessage("user", "Hi", "id")  # type: ignore[misc]


def test_unset_is_one_object_whatever_is_done_to_it() -> None:
    assert UNSET is Unset.UNSET
    assert repr(UNSET) == str(UNSET) == "UNSET"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(UNSET, protocol)) is UNSET
    assert copy.copy(UNSET) is copy.deepcopy(UNSET) is UNSET
    # It is never taken for a payload.
    with pytest.raises(TypeError):
        json.dumps(UNSET)
