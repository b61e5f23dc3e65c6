from __future__ import annotations

import enum
import functools
import math
import uuid
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from sessions import ChatMessage, NewMessage, validation
from sessions.validation import CheckedMessage, check_id, check_uuid
from tests.unit.test_validation import NOT_TEXT, SURROGATE, UUID, Role, Text, refused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOT_LISTS = [None, 5, "user", b"user", {"user": "a"}, object()]

check_new_messages = functools.partial(validation.check_new_messages, check_id=check_uuid)


def new(**changes: Any) -> NewMessage:
    return NewMessage(**{"role": "user", "content": "Hi"} | changes)


def test_pairs_and_new_messages_mix_and_keep_their_order() -> None:
    full = NewMessage(
        "tool", "out", message_id=UUID.upper(), timestamp=NOW, metadata={"a": 1}, payload={"b": [1]}
    )

    for messages in ([("user", "a"), full, ["system", ""]], (("user", "a"), full, ("system", ""))):
        for given in (messages, iter(messages)):
            assert check_new_messages(given) == [
                CheckedMessage("user", "a"),
                CheckedMessage("tool", "out", UUID, NOW, {"a": 1}, '{"b":[1]}'),
                CheckedMessage("system", ""),
            ]
    assert check_new_messages([]) == []


def test_what_is_not_given_is_none() -> None:
    [checked] = check_new_messages([new()])

    assert checked == ("user", "Hi", None, None, None, None)


def test_the_metadata_is_a_copy() -> None:
    message = new(metadata={"tags": ["a"]})

    [checked] = check_new_messages([message])
    (message.metadata or {})["tags"].append("b")

    assert checked.metadata == {"tags": ["a"]}


def test_subclasses_become_the_plain_values_they_hold() -> None:
    class Pair(tuple[str, str]):
        __slots__ = ()

    class Message(NewMessage):
        pass

    checked = check_new_messages([Pair((Role.USER, Text("held"))), Message(Role.USER, Text("held"))])  # type: ignore[arg-type]

    assert checked == [CheckedMessage("user", "held")] * 2
    assert {type(text) for message in checked for text in message[:2]} == {str}


@pytest.mark.parametrize("batch", NOT_LISTS)
def test_what_is_no_list_is_refused(batch: object) -> None:
    with refused("messages"):
        check_new_messages(batch)


@pytest.mark.parametrize(
    "item",
    [
        "ab",
        ("user",),
        ("user", "a", "b"),
        (),
        None,
        5,
        {"role": "user", "content": "a"},
        {"user", "a"},
        b"ab",
    ],
)
def test_what_is_no_message_is_refused_by_its_place(item: object) -> None:
    with refused("messages[1]"):
        check_new_messages([("user", "a"), item])


def test_a_message_that_was_read_is_none_to_append() -> None:
    with refused("messages[0]"):
        check_new_messages([ChatMessage("m", "s", "user", "Hi", NOW)])


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"role": "function"}, "role"),
        ({"role": None}, "role"),
        ({"content": None}, "content"),
        ({"content": "a\x00"}, "content"),
        ({"content": SURROGATE}, "content"),
        *(({"message_id": value}, "message_id") for value in NOT_TEXT if value is not None),
        ({"message_id": ""}, "message_id"),
        ({"message_id": "not a uuid"}, "message_id"),
        ({"timestamp": datetime(2026, 1, 1)}, "timestamp"),
        ({"timestamp": "2026-01-01"}, "timestamp"),
        ({"timestamp": 0}, "timestamp"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": [math.nan]}}, "metadata.a[0]"),
        ({"metadata": {"a": {"b": 2**63}}}, "metadata.a.b"),
        ({"payload": object()}, "payload"),
        ({"payload": {1: 2}}, "payload"),
    ],
)
def test_a_bad_value_is_refused_by_its_name_and_place(changes: dict[str, Any], argument: str) -> None:
    with refused(f"messages[2].{argument}"):
        check_new_messages([("user", "a"), new(), new(**changes)])
    with refused(argument):
        validation.check_new_message(new(**changes), check_uuid)


def test_a_pair_with_a_bad_value_is_refused_by_its_name_and_place() -> None:
    with refused("messages[1].role"):
        check_new_messages([("user", "a"), ("bot", "b")])
    with refused("messages[0].content"):
        check_new_messages([("user", None)])


def test_an_id_twice_in_a_batch_is_refused_whatever_else_the_messages_hold() -> None:
    for other in (UUID, UUID.upper(), uuid.UUID(UUID)):
        with refused("messages[2].message_id"):
            check_new_messages([new(message_id=UUID), new(), new(message_id=other)])
    assert len(check_new_messages([new(), new()])) == 2


def test_an_id_is_checked_by_the_backend() -> None:
    [checked] = validation.check_new_messages([new(message_id="any text")], check_id)

    assert checked.message_id == "any text"


# --- ids of messages -------------------------------------------------------------------------------


def test_message_ids_keep_their_order_and_come_once() -> None:
    other = str(uuid.uuid4())
    given = [other, UUID.upper(), uuid.UUID(other), UUID]

    for ids in (given, tuple(given), iter(given)):
        assert validation.check_message_ids(ids, check_uuid) == [other, UUID]
    assert validation.check_message_ids({UUID}, check_uuid) == [UUID]
    assert validation.check_message_ids([], check_uuid) == []


@pytest.mark.parametrize("ids", [*NOT_LISTS, UUID, uuid.UUID(UUID)])
def test_what_is_no_list_of_ids_is_refused(ids: object) -> None:
    with refused("message_ids"):
        validation.check_message_ids(ids, check_uuid)


@pytest.mark.parametrize("bad", ["", "x", SURROGATE, *NOT_TEXT])
def test_a_bad_id_is_refused_by_its_place(bad: object) -> None:
    with refused("message_ids[1]"):
        validation.check_message_ids([UUID, bad], check_uuid)


# --- points in time --------------------------------------------------------------------------------


class Lying(datetime):
    """A subclass whose methods say something else, as a mocked clock's may."""

    def utcoffset(self) -> timedelta | None:
        return None

    def astimezone(self, tz: tzinfo | None = None) -> Any:
        return "other"


@pytest.mark.parametrize(
    "value",
    [
        NOW,
        NOW.astimezone(timezone(timedelta(hours=5, minutes=30))),
        Lying(2026, 1, 1, tzinfo=UTC),
        Lying(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=3))),
    ],
)
def test_a_timestamp_becomes_a_plain_datetime_in_utc(value: datetime) -> None:
    for checked in (validation.check_timestamp("timestamp", value), validation.check_cutoff(value)):
        assert checked == NOW
        assert type(checked) is datetime
        assert checked.tzinfo is UTC
    assert validation.check_since(value) == NOW


def test_microseconds_are_kept() -> None:
    assert validation.check_timestamp("timestamp", NOW.replace(microsecond=123456)).microsecond == 123456


def test_a_timestamp_leaves_room_for_time_zones_and_later_ones() -> None:
    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)

    for moment in (first, last):
        checked = validation.check_timestamp("timestamp", moment)
        assert checked == moment
        for hours in (-14, 14):
            checked.astimezone(timezone(timedelta(hours=hours)))
    for moment in (first - timedelta(microseconds=1), last + timedelta(microseconds=1)):
        with refused("timestamp"):
            validation.check_timestamp("timestamp", moment)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 1),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        date(2026, 1, 1),
        "2026-01-01T00:00:00Z",
        0,
        1.5,
        True,
        math.inf,
    ],
)
def test_what_is_no_aware_datetime_in_range_is_refused(value: object) -> None:
    with refused("messages[1].timestamp"):
        validation.check_timestamp("messages[1].timestamp", value)
    with refused("since"):
        validation.check_since(value)


# --- a part of a history ---------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 1000, 1001, 10**6])
def test_a_history_may_be_limited_from_0_without_an_upper_bound(limit: int) -> None:
    assert validation.check_history_limit(limit) == limit


def test_a_limit_beyond_any_history_is_one_that_drivers_take() -> None:
    for limit in (2**31, 2**63, 10**5000):
        assert validation.check_history_limit(limit) == 2**31 - 1
    assert validation.check_history_limit(None) is None


class Number(int):
    """An integer that compares as it likes."""

    def __lt__(self, other: object) -> bool:
        return False

    __gt__ = __le__ = __ge__ = __lt__

    def __int__(self) -> int:
        return 7


def test_a_subclass_of_int_counts_as_what_it_holds() -> None:
    class Size(enum.IntEnum):
        SMALL = 3

    for checked in (validation.check_history_limit(Size.SMALL), validation.check_history_limit(Number(3))):
        assert checked == 3
        assert type(checked) is int
    with refused("limit"):
        validation.check_history_limit(Number(-1))
    with refused("expected_version"):
        validation.check_expected_version(Number(2**63))


@pytest.mark.parametrize(
    "value", [-1, -(10**5000), True, False, 1.0, "1", math.nan, [0]], ids=lambda value: str(type(value))
)
def test_a_bad_limit_of_a_history_or_a_bad_version_is_refused(value: object) -> None:
    with refused("limit"):
        validation.check_history_limit(value)
    with refused("expected_version"):
        validation.check_expected_version(value)


def test_a_version_passes_from_0() -> None:
    assert [validation.check_expected_version(value) for value in (None, 0, 1, 2**63 - 1)] == [
        None,
        0,
        1,
        2**63 - 1,
    ]


def test_a_part_of_a_history_has_one_bound_at_most() -> None:
    check = functools.partial(validation.check_history_range, check_id=check_uuid)

    assert check(None, None, None, None) == (None, None, None, None)
    assert check(5, UUID.upper(), None, None) == (5, UUID, None, None)
    assert check(0, None, UUID, None) == (0, None, UUID, None)
    assert check(5, None, None, NOW) == (5, None, None, NOW)
    with refused("after"):
        check(None, UUID, UUID, None)
    with refused("since"):
        check(None, UUID, None, NOW)
    with refused("since"):
        check(None, None, UUID, NOW)
    for place, argument in enumerate(("limit", "before", "after", "since")):
        given: list[Any] = [None] * 4
        given[place] = "bad"
        with refused(argument):
            check(*given)
