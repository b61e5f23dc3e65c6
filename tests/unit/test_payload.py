from __future__ import annotations

import enum
import itertools
import json
import math
import sys
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions import UNSET, InvalidInputError, SessionsError
from sessions.validation import decode_payload, decode_payloads, encode_payload
from tests.unit.test_validation import Text, refused

texts = st.text(st.characters(codec=None)).filter(lambda text: not has_surrogate_pair(text))
payloads = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=30,
)


def has_surrogate_pair(text: str) -> bool:
    return any(
        "\ud800" <= high <= "\udbff" and "\udc00" <= low <= "\udfff" for high, low in itertools.pairwise(text)
    )


def stored(payload: object) -> Any:
    text = encode_payload(payload)
    # Any column of text takes it.
    assert text is None or (type(text) is str and text.isascii() and "\x00" not in text)
    return decode_payload(text)


def nested(levels: int) -> Any:
    value: Any = 0
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


@given(payloads)
def test_any_json_value_comes_back_equal_with_its_keys_in_order(payload: Any) -> None:
    again = stored(payload)

    assert again == payload
    assert json.dumps(again) == json.dumps(payload)


@pytest.mark.parametrize(
    "payload",
    [
        "",
        0,
        False,
        [],
        {},
        {"": None},
        2**63,
        -(10**400),
        1e300,
        5e-324,
        "\x00",
        ["\ud800", "\udfff", "\ude00\ud83d"],
        {"\x00": 1, "\ud83d": 2},
        "\u2028 \u202e \ufeff 😀 \x7f",
        {"z": 1, "a": {"y": 1, "b": 2}},
        [None, True, 1, 1.0, "1"],
        {"$ref": 1, "a.b": 2, "__proto__": 3},
    ],
)
def test_a_payload_comes_back_equal(payload: Any) -> None:
    again = stored(payload)

    assert again == payload
    assert json.dumps(again) == json.dumps(payload)


def test_numbers_that_json_itself_does_not_have_come_back() -> None:
    again = stored([math.nan, math.inf, -math.inf, -0.0])

    assert math.isnan(again[0])
    assert again[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, again[3]) == -1


def test_none_is_no_payload() -> None:
    assert encode_payload(None) is None
    assert decode_payload(None) is None


def test_tuples_come_back_as_lists_and_subclasses_as_plain_values() -> None:
    class Level(enum.IntEnum):
        HIGH = 3

    class Number(int):
        def __repr__(self) -> str:
            return "7"

        __str__ = __repr__

    class Ratio(float):
        def __repr__(self) -> str:
            return "7.5"

    point = namedtuple("point", "x y")

    assert stored((1, (2, point(3, 4)))) == [1, [2, [3, 4]]]
    assert stored([Text("held"), Level.HIGH, Number(5), Ratio(0.5)]) == ["held", 3, 5, 0.5]
    assert stored({Text("k"): 1}) == {"k": 1}
    ordered = OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    assert list(stored(ordered)) == ["b", "a"]


@pytest.mark.parametrize(
    "payload",
    [
        object(),
        b"conversation",
        {1, 2},
        1 + 2j,
        Decimal(1),
        UNSET,
        [{"a": object()}],
        {"a": {1: "conversation"}},
        {None: 1},
        {True: 1},
        {1.5: 1},
        {("a",): 1},
        {b"a": 1},
        "conversation \ud83d\ude00",
        {"\ud83d\ude00": 1},
        iter([1]),
        range(3),
    ],
)
def test_what_would_not_come_back_is_refused_without_showing_it(payload: Any) -> None:
    with refused("payload") as error:
        encode_payload(payload)
    with refused("messages[3].payload"):
        encode_payload(payload, "messages[3].payload")

    assert "conversation" not in str(error.info.value)
    assert error.info.value.__cause__ is None


def test_two_keys_that_hold_the_same_text_are_refused() -> None:
    class Other(str):
        __slots__ = ()
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    with refused("payload"):
        encode_payload([{"a": 1, Other("a"): 2}])


def test_a_payload_that_contains_itself_or_unfolds_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append({"a": endless})
    with refused("payload"):
        encode_payload(endless)
    value: Any = 0
    for _ in range(60):
        value = [value, value]
    with refused("payload"):
        encode_payload(value)


def test_the_depth_that_is_taken_does_not_depend_on_the_stack() -> None:
    def deep(frames: int, work: Callable[[], Any]) -> Any:
        return work() if frames == 0 else deep(frames - 1, work)

    payload = nested(500)
    text = encode_payload(payload)
    for frames in (0, 600):
        assert deep(frames, lambda: encode_payload(payload)) == text
        assert json.dumps(deep(frames, lambda: decode_payload(text))) == text.replace(":", ": ")  # type: ignore[union-attr]
    for levels in (501, 100_000):
        with refused("payload"):
            encode_payload(nested(levels))


@pytest.fixture
def digits() -> Iterator[Callable[[int], None]]:
    """Python's limit for the digits of an integer, as it was before afterwards."""
    before = sys.get_int_max_str_digits()
    yield sys.set_int_max_str_digits
    sys.set_int_max_str_digits(before)


def test_an_integer_that_was_stored_can_be_read_whatever_the_limit_of_digits(
    digits: Callable[[int], None],
) -> None:
    numbers = [10**4299, -(7**5000), 10**640, 10**639, -(10**640) + 1, 1.5]
    digits(0)
    text = encode_payload([*numbers, 3**40_000])
    for limit in (0, 4300, 640):
        digits(limit)
        assert decode_payload(text) == [*numbers, 3**40_000]


def test_an_integer_with_more_digits_than_the_limit_is_refused_when_it_is_written(
    digits: Callable[[int], None],
) -> None:
    digits(4300)
    assert stored(10**4299) == 10**4299
    with refused("payload"):
        encode_payload({"a": 10**4300})
    digits(640)
    with refused("payload"):
        encode_payload([10**640])


@pytest.mark.parametrize("text", ["", "{", "conversation", "{'a': 1}", "[1,]", "1 2", '"\x00"', "\ud800"])
def test_a_stored_text_that_is_not_json_is_an_error_without_the_text(text: str) -> None:
    with pytest.raises(SessionsError) as caught:
        decode_payload(text)

    assert not isinstance(caught.value, InvalidInputError)
    assert "conversation" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_payloads_are_decoded_together_and_alone() -> None:
    deep = "[" * 400 + "]" * 400
    for texts in ([], ["1"], ['{"a":"\\u0000"}', "NaN", deep, "[]", str(2**100)], ["[7]"] * 250):
        assert repr(decode_payloads(texts)) == repr([json.loads(text) for text in texts])
    for texts in (["1,2"], ["1],[2"], ["[1", "2]"], ["", "1"]):
        with pytest.raises(SessionsError):
            decode_payloads(texts)
