"""Any JSON value comes back equal as a payload, and any JSON object as metadata of a message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions import InvalidInputError, NewMessage
from sessions.testing.new_messages import same_payload
from sessions.testing.values import same_json
from tests.support.databases import Backend

# Of one size on each machine, and the same each time.
BUDGET = settings(max_examples=40, deadline=None, derandomize=True, database=None)
PER_BATCH = 5

# With surrogates, NUL, and what is not assigned; a surrogate pair is one character in JSON.
texts = st.text(st.characters(), max_size=8) | st.text(st.sampled_from('\0\ud800a\u2028"\\'), max_size=6)
numbers = (
    st.integers()
    | st.integers(-(10**200), 10**200)
    | st.floats()
    | st.sampled_from([2**63, -(2**63) - 1, 10**199, -0.0, 1e16, 1e22, 5e-324])
)
payloads = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(texts, part, max_size=4),
    max_leaves=20,
)
plain_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
keys = plain_texts | st.sampled_from(["$set", "a.b", "", "$", ".", "_id", "$ref", "$id", "$db", "e\u0301"])
objects = st.dictionaries(
    keys,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | plain_texts,
        lambda part: st.lists(part, max_size=3) | st.dictionaries(keys, part, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def test_any_payload_and_metadata_come_back_equal_however_they_are_stored(backend: Backend) -> None:
    with backend.repository() as repository:
        session_id = repository.create_session("user")

        @BUDGET
        @given(st.lists(st.tuples(payloads, objects), min_size=1, max_size=PER_BATCH))
        def round_trip(values: list[tuple[Any, dict[str, Any]]]) -> None:
            batch = [NewMessage("tool", metadata=metadata, payload=payload) for payload, metadata in values]
            ids = repository.add_messages_sync(session_id, batch)
            payload, metadata = values[0]
            ids.append(
                repository.add_message_sync(session_id, "tool", "", metadata=metadata, payload=payload)
            )
            assert repository.update_message_sync("user", session_id, ids[0], metadata={"a": 1}, payload=0)
            repository.update_message_sync("user", session_id, ids[0], metadata=metadata, payload=payload)
            history = repository.get_session_history_sync("user", session_id, limit=len(ids))
            assert [message.message_id for message in history] == ids
            for message, (payload, metadata) in zip(history, [*values, values[0]], strict=True):
                assert same_payload(payload, message.payload)
                assert same_json(metadata, message.metadata)
            assert repository.clear_messages_sync("user", session_id) == len(ids)

        round_trip()


@given(payloads)
@BUDGET
def test_a_payload_is_equal_to_what_json_itself_gives_back(payload: Any) -> None:
    assert same_payload(payload, json.loads(json.dumps(payload)))


@pytest.mark.parametrize("levels", [500, 501])
async def test_a_payload_is_nested_to_500_levels(repository: Any, levels: int) -> None:
    payload: Any = 1
    for _ in range(levels):
        payload = [payload]
    session_id = await repository.create_session_async("user")
    if levels > 500:
        with pytest.raises(InvalidInputError, match=r"^payload: "):
            await repository.add_message(session_id, "user", "Hi", payload=payload)
        return
    await repository.add_message(session_id, "user", "Hi", payload=payload)
    [message] = await repository.get_session_history("user", session_id)
    assert json.dumps(message.payload) == json.dumps(payload)
