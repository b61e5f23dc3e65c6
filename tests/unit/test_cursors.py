from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions import ChatSession, InvalidInputError
from sessions.core.cursors import (
    decode_cursor,
    decode_search_cursor,
    encode_cursor,
    encode_search_cursor,
)
from sessions.validation import check_id, check_uuid

UUID = "123e4567-e89b-12d3-a456-426614174000"


def chat_session(session_id: str, updated_at: datetime) -> ChatSession:
    return ChatSession(session_id, "T", "u", updated_at, updated_at)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@given(
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=255),
    st.datetimes(timezones=st.just(UTC)),
)
def test_a_cursor_round_trips_the_exact_position(session_id: str, updated_at: datetime) -> None:
    cursor = encode_cursor(chat_session(session_id, updated_at))

    assert decode_cursor(cursor, check_id) == (updated_at, session_id)
    assert decode_cursor(cursor, check_id)[0].tzinfo is UTC


def test_equal_times_in_different_zones_are_one_position() -> None:
    here = datetime(2026, 1, 1, tzinfo=UTC)
    there = here.astimezone(timezone(timedelta(hours=9)))

    assert encode_cursor(chat_session(UUID, here)) == encode_cursor(chat_session(UUID, there))


def test_a_cursor_can_stand_in_a_url_unquoted_but_for_its_padding() -> None:
    cursor = encode_cursor(chat_session("?>ÿ~" * 20, datetime(2026, 1, 1, tzinfo=UTC)))

    assert set(cursor.rstrip("=")) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "abc",
        "%%%%",
        "é",
        "\ud800",
        encoded(""),
        encoded("no colon"),
        encoded(f"x:{UUID}"),
        encoded(f"1.5:{UUID}"),
        encoded(f"{10**30}:{UUID}"),
        encoded(f"-{10**30}:{UUID}"),
        encoded(f"{'9' * 5000}:{UUID}"),
        encoded("5:"),
        encoded("5:not-a-uuid"),
        encoded("5:" + "x" * 256),
        base64.urlsafe_b64encode(b"5:\xff\xfe").decode(),
        encoded(f"5:{UUID}") + "\n",
        encoded(f"5:{UUID}")[:-3],
    ],
)
def test_what_list_sessions_did_not_make_is_bad_input(cursor: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_cursor(cursor, check_uuid)

    assert caught.value.argument == "cursor"


@pytest.mark.parametrize("cursor", [5, b"abc", ["a"], {"$gt": ""}, object()])
def test_a_cursor_that_is_no_text_is_bad_input(cursor: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_cursor(cursor, check_id)

    assert caught.value.argument == "cursor"


@given(st.text())
def test_no_text_at_all_raises_anything_else(cursor: str) -> None:
    try:
        updated_at, session_id = decode_cursor(cursor, check_uuid)
    except InvalidInputError:
        return
    assert updated_at.tzinfo is UTC
    assert check_uuid("cursor", session_id) == session_id


# --- of a search -----------------------------------------------------------------------------------


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=255),
)
def test_a_cursor_of_a_search_gives_back_the_exact_place(
    timestamp: datetime, write_order: int, message_id: str
) -> None:
    cursor = encode_search_cursor(timestamp, write_order, message_id)

    assert decode_search_cursor(cursor, check_id) == (timestamp, write_order, message_id)


def test_a_cursor_of_one_kind_is_none_of_the_other() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for session_id in (UUID, f"7:{UUID}", f"message:7:{UUID}"):
        with pytest.raises(InvalidInputError):
            decode_search_cursor(encode_cursor(chat_session(session_id, moment)), check_id)
    with pytest.raises(InvalidInputError):
        decode_cursor(encode_search_cursor(moment, 7, UUID), check_id)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "abc",
        "%%%%",
        "é",
        "\ud800",
        encoded(""),
        encoded(f"5:7:{UUID}"),
        encoded(f"message:5:{UUID}"),
        encoded(f"message:x:7:{UUID}"),
        encoded(f"message:5:x:{UUID}"),
        encoded(f"message:5:1.5:{UUID}"),
        encoded(f"message:5:{2**63}:{UUID}"),
        encoded(f"message:5:{-(2**63) - 1}:{UUID}"),
        encoded(f"message:{10**30}:7:{UUID}"),
        encoded(f"message:5:{'9' * 5000}:{UUID}"),
        encoded("message:5:7:"),
        encoded("message:5:7:not-a-uuid"),
        base64.urlsafe_b64encode(b"message:5:7:\xff\xfe").decode(),
        encoded(f"message:5:7:{UUID}") + "\n",
        encoded(f"message:5:7:{UUID}")[:-3],
        5,
        b"abc",
        {"$gt": ""},
        None,
    ],
)
def test_what_search_messages_did_not_make_is_bad_input(cursor: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_search_cursor(cursor, check_uuid)

    assert caught.value.argument == "cursor"
