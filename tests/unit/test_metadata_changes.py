"""What may be merged into metadata, removed from it, and asked of it."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest

from sessions import validation
from tests.unit.test_validation import SURROGATE, Text, refused


class Status(str, enum.Enum):  # noqa: UP042
    OPEN = "open"


# --- merge and remove ------------------------------------------------------------------------------


def test_merged_keys_are_checked_as_metadata() -> None:
    assert validation.check_merge({"a": {"b": None}}) == {"a": {"b": None}}
    assert validation.check_merge(None) is None
    assert validation.check_merge({}) is None
    with refused("merge_metadata.a"):
        validation.check_merge({"a": math.nan})
    for bad in ("{}", [("a", 1)], 5, True):
        with refused("merge_metadata"):
            validation.check_merge(bad)


def test_an_error_about_a_whole_object_names_its_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions.validation.metadata.MAX_METADATA_VALUES", 1000)
    too_deep: dict[str, Any] = {}
    for _ in range(100):
        too_deep = {"below": too_deep}
    too_many: Any = 0
    for _ in range(60):
        too_many = [too_many, too_many]

    for bad in (too_deep, {"bomb": too_many}):
        with refused("merge_metadata"):
            validation.check_merge(bad)
        with refused("metadata"):
            validation.check_message_metadata(bad)


def test_removed_keys_come_once_in_their_order() -> None:
    for keys in (["b", "a", "b"], ("b", "a"), iter(["b", Text("a")])):
        checked = validation.check_remove(keys)
        assert checked == ("b", "a")
        assert {type(key) for key in checked} == {str}
    assert validation.check_remove({""}) == ("",)
    assert validation.check_remove(()) == ()


@pytest.mark.parametrize("keys", [None, "pinned", b"pinned", {"pinned": 1}, 5, object()])
def test_what_is_no_list_of_keys_is_refused(keys: object) -> None:
    with refused("remove_metadata"):
        validation.check_remove(keys)


@pytest.mark.parametrize("key", [None, 1, b"a", "a\x00", SURROGATE, ["a"]])
def test_a_bad_key_to_remove_is_refused_by_its_place(key: object) -> None:
    with refused("remove_metadata[1]"):
        validation.check_remove(["a", key])


def test_a_key_is_not_both_merged_and_removed() -> None:
    assert validation.check_metadata_change(None, {"a": 1}, ["b"]) == (None, {"a": 1}, ("b",))
    assert validation.check_metadata_change(None, None) == (None, None, ())
    with refused("remove_metadata"):
        validation.check_metadata_change(None, {"a": 1, "b": 2}, ["b"])


def test_what_replaces_the_metadata_is_merged_with_before_it_is_stored() -> None:
    metadata = {"a": 1, "b": 2}

    assert validation.check_metadata_change(metadata, {"b": 3, "c": 4}, ["a"]) == ({"b": 3, "c": 4}, None, ())
    assert validation.check_metadata_change(metadata, None, ["a", "z"]) == ({"b": 2}, None, ())
    assert validation.check_metadata_change({}, None) == ({}, None, ())
    assert metadata == {"a": 1, "b": 2}


def test_the_metadata_of_a_message_may_be_absent() -> None:
    assert validation.check_message_metadata(None) is None
    assert validation.check_message_metadata({}) == {}
    assert validation.check_message_metadata(OrderedDict(model="m")) == {"model": "m"}
    with refused("metadata"):
        validation.check_message_metadata([])


# --- where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "conditions"),
    [
        (None, None),
        ({}, None),
        ({"a": "x"}, {"a": ("x",)}),
        ({"a": None}, {"a": (None,)}),
        ({"a": []}, {"a": ()}),
        ({"a": ["x", 1, 1.5, True, None]}, {"a": ("x", 1, 1.5, True, None)}),
        ({"a": ("x", "y", "x")}, {"a": ("x", "y")}),
        ({"a": {"x"}, "b": frozenset({2})}, {"a": ("x",), "b": (2,)}),
        ({"$ne": "x", "a.b": "", "": 0}, {"$ne": ("x",), "a.b": ("",), "": (0,)}),
        ({"a": [2**63 - 1, -(2**63)]}, {"a": (2**63 - 1, -(2**63))}),
        (MappingProxyType({"a": "x"}), {"a": ("x",)}),
    ],
)
def test_each_key_has_its_accepted_values(where: object, conditions: object) -> None:
    assert validation.check_where(where) == conditions


def test_true_and_1_are_two_values() -> None:
    checked = validation.check_where({"a": [1, True, 0, False, True]})

    assert checked == {"a": (1, True, 0, False)}
    assert [type(value) for value in checked["a"]] == [int, bool, int, bool]


def test_subclasses_become_the_plain_values_they_hold() -> None:
    checked = validation.check_where({Text("a"): [Status.OPEN, Text("held")]})

    assert checked == {"a": ("open", "held")}
    assert {type(text) for text in (*checked, *checked["a"])} == {str}


@pytest.mark.parametrize("where", ["a", [("a", 1)], 5, True, {"a"}, {1: "x"}, {None: "x"}, {b"a": 1}])
def test_what_is_no_mapping_of_keys_is_refused(where: object) -> None:
    with refused("where"):
        validation.check_where(where)


@pytest.mark.parametrize(
    ("value", "argument"),
    [
        ({"$ne": None}, "where.a"),
        ({}, "where.a"),
        (["x", {"$gt": 1}], "where.a[1]"),
        ([["x"]], "where.a[0]"),
        (math.nan, "where.a"),
        ([math.inf], "where.a[0]"),
        (2**63, "where.a"),
        (b"x", "where.a"),
        (object(), "where.a"),
        (iter("x"), "where.a"),
        ("x\x00", "where.a"),
        ([SURROGATE], "where.a[0]"),
    ],
)
def test_a_bad_value_is_refused_by_its_key(value: object, argument: str) -> None:
    with refused(argument):
        validation.check_where({"a": value})


def test_a_bad_key_is_refused() -> None:
    for key in ("a\x00", SURROGATE):
        with refused("where key"):
            validation.check_where({key: 1})


def test_there_are_20_keys_and_1000_values_at_most() -> None:
    keys: dict[str, Any] = {str(number): number for number in range(20)}
    assert len(validation.check_where(keys) or {}) == 20
    values = [list(range(500)), list(range(500))]
    assert validation.check_where({"a": values[0], "b": values[1]})

    with refused("where"):
        validation.check_where(keys | {"more": 1})
    with refused("where"):
        validation.check_where({"a": values[0], "b": values[1], "c": None})
    with refused("where"):
        validation.check_where({"a": range(3), "b": list(range(10**6))} | {"a": []})
