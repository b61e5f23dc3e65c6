from __future__ import annotations

import enum
import math
import uuid
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions import InvalidInputError, validation

UUID = "123e4567-e89b-12d3-a456-426614174000"
SURROGATE = "a\ud800b"
NOT_TEXT = [None, 1, 1.5, True, b"bytes", ["a"], {"$ne": ""}, object()]


class Text(str):
    """A subclass that lies about itself."""

    def __str__(self) -> str:
        return "other"


class Role(str, enum.Enum):  # noqa: UP042  (older services have these)
    USER = "user"


def refused(argument: str) -> Any:
    """Expect the error that names exactly this argument."""

    class Expectation:
        def __enter__(self) -> Expectation:
            self._raises = pytest.raises(InvalidInputError)
            self.info = self._raises.__enter__()
            return self

        def __exit__(self, *exc: Any) -> Any:
            outcome = self._raises.__exit__(*exc)
            assert self.info.value.argument == argument
            assert str(self.info.value) == f"{argument}: {self.info.value.reason}"
            return outcome

    return Expectation()


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"k": value}
    return value


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "argument"),
    [
        (validation.check_user_id, "user_id"),
        (validation.check_title, "title"),
        (lambda value: validation.check_id("session_id", value), "session_id"),
    ],
)
class TestNames:
    @pytest.mark.parametrize("text", ["a", "x" * 255, "😀" * 255, " ", "O'Brien; --", "$ne", "\n"])
    def test_one_to_255_characters_pass_unchanged(self, check: Any, argument: str, text: str) -> None:
        assert check(text) == text

    @pytest.mark.parametrize("text", ["", "x" * 256, "😀" * 256])
    def test_other_lengths_are_refused(self, check: Any, argument: str, text: str) -> None:
        with refused(argument):
            check(text)

    @pytest.mark.parametrize("text", ["\x00", "a\x00b", SURROGATE, "\udfff"])
    def test_what_postgresql_cannot_store_is_refused(self, check: Any, argument: str, text: str) -> None:
        with refused(argument):
            check(text)

    @pytest.mark.parametrize("value", NOT_TEXT)
    def test_what_is_no_text_is_refused(self, check: Any, argument: str, value: object) -> None:
        with refused(argument):
            check(value)

    def test_a_subclass_is_stored_as_the_plain_text_it_holds(self, check: Any, argument: str) -> None:
        checked = check(Text("held"))

        assert checked == "held"
        assert type(checked) is str


@pytest.mark.parametrize("text", [UUID, UUID.upper(), "01890A5D-ac96-774B-bcce-b302099a8057"])
def test_a_uuid_is_returned_in_lower_case(text: str) -> None:
    assert validation.check_uuid("session_id", text) == text.lower()


class LoudUuid(uuid.UUID):
    """As a driver has its own."""

    def __str__(self) -> str:
        return super().__str__().upper()


@pytest.mark.parametrize("value", [uuid.UUID(UUID), LoudUuid(UUID)])
def test_an_id_may_be_a_uuid_object_and_is_returned_as_text(value: uuid.UUID) -> None:
    for checked in (validation.check_uuid("session_id", value), validation.check_id("before", value)):
        assert checked == UUID.lower()
        assert type(checked) is str
    with refused("user_id"):
        validation.check_user_id(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        UUID.replace("-", ""),
        f"{{{UUID}}}",
        f"urn:uuid:{UUID}",
        f" {UUID}",
        f"{UUID}\n",
        UUID[:-1] + "g",
        UUID[:-1] + "\uff11",
        UUID + "\x00",
        SURROGATE,
        *NOT_TEXT,
    ],
)
def test_anything_but_a_canonical_uuid_is_refused(text: object) -> None:
    with refused("before"):
        validation.check_uuid("before", text)


# --- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer", "tool"])
def test_the_five_roles_pass(role: str) -> None:
    assert validation.check_role(role) == role


def test_a_role_of_an_enum_is_stored_as_its_value() -> None:
    checked = validation.check_role(Role.USER)

    assert checked == "user"
    assert type(checked) is str


@pytest.mark.parametrize("role", ["", "function", "User", "user ", "tools", *NOT_TEXT])
def test_every_other_role_is_refused(role: object) -> None:
    with refused("role"):
        validation.check_role(role)


@pytest.mark.parametrize(
    "content", ["", "x" * 1_000_000, "😀", "\x01\x7f\u2028", "a\r\nb", "\u202e", "\ufeff"]
)
def test_content_passes_unchanged(content: str) -> None:
    assert validation.check_content(content) == content


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_any_text_without_nul_and_surrogates_is_content(content: str) -> None:
    assert validation.check_content(content) == content


@pytest.mark.parametrize("content", ["\x00", "x" * 5000 + "\x00", SURROGATE, "\ud83d", *NOT_TEXT])
def test_content_that_cannot_be_stored_is_refused(content: object) -> None:
    with refused("content"):
        validation.check_content(content)


@pytest.mark.parametrize("content", ["conversation\x00", "conversation\ud800"])
def test_the_refusal_of_content_carries_none_of_it(content: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        validation.check_content(content)

    assert "conversation" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_batch_keeps_its_order_whatever_holds_it() -> None:
    pairs = [("user", "a"), ("assistant", "b"), ("user", "")]

    assert validation.check_messages(pairs) == pairs
    assert validation.check_messages(tuple(pairs)) == pairs
    assert validation.check_messages(list(pair) for pair in pairs) == pairs
    assert validation.check_messages([]) == []


@pytest.mark.parametrize("batch", [None, 5, "user", b"user", {"user": "a"}, object()])
def test_what_is_no_list_of_messages_is_refused(batch: object) -> None:
    with refused("messages"):
        validation.check_messages(batch)


@pytest.mark.parametrize(
    "item", ["ab", ("user",), ("user", "a", "b"), None, {"role": "user", "content": "a"}]
)
def test_a_message_that_is_no_pair_is_refused_by_its_place(item: object) -> None:
    with refused("messages[1]"):
        validation.check_messages([("user", "a"), item])


def test_a_bad_role_or_content_in_a_batch_is_refused_by_its_place() -> None:
    with refused("messages[1].role"):
        validation.check_messages([("user", "a"), ("function", "b")])
    with refused("messages[2].content"):
        validation.check_messages([("user", "a"), ("user", "b"), ("user", None)])


# --- numbers and times -----------------------------------------------------------------------------


def test_page_and_limit_pass_within_their_bounds() -> None:
    assert [validation.check_page(page) for page in (0, 1, validation.MAX_PAGE)] == [
        0,
        1,
        validation.MAX_PAGE,
    ]
    assert [validation.check_limit(limit) for limit in (1, 1000)] == [1, 1000]
    assert validation.check_count("keep_last_n", 0) == 0
    assert validation.check_count("keep_last_n", 2**63 - 1) == 2**63 - 1


def test_the_last_page_still_has_an_offset_that_databases_take() -> None:
    assert validation.MAX_PAGE * validation.MAX_LIMIT < 2**63


@pytest.mark.parametrize(
    "value", [-1, -(2**70), 2**63, pytest.param(10**5000, id="huge"), True, 1.0, "1", None, math.nan, [0]]
)
def test_a_bad_page_limit_or_count_is_refused(value: object) -> None:
    with refused("page"):
        validation.check_page(value)
    with refused("limit"):
        validation.check_limit(value)
    with refused("keep_last_n"):
        validation.check_count("keep_last_n", value)


@pytest.mark.parametrize("value", [0, 1001])
def test_a_limit_outside_1_to_1000_is_refused(value: int) -> None:
    with refused("limit"):
        validation.check_limit(value)


def test_a_cutoff_is_returned_in_utc() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))

    checked = validation.check_cutoff(datetime(2026, 1, 1, tzinfo=zone))

    assert checked == datetime(2025, 12, 31, 18, 30, tzinfo=UTC)
    assert checked.tzinfo is UTC


@pytest.mark.parametrize(
    "cutoff",
    [
        datetime(2026, 1, 1),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime(2026, 1, 1, tzinfo=UTC).date(),
        "2026-01-01T00:00:00Z",
        0,
        None,
    ],
)
def test_a_cutoff_that_is_naive_or_out_of_range_or_no_datetime_is_refused(cutoff: object) -> None:
    with refused("cutoff"):
        validation.check_cutoff(cutoff)


# --- metadata --------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("a$._ é", max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text("a$._ é", max_size=5), JSON, max_size=5))
def test_any_json_object_passes_equal_and_as_a_fresh_copy(metadata: dict[str, Any]) -> None:
    checked = validation.check_metadata(metadata)

    assert checked == metadata
    assert checked is not metadata
    assert all(checked[key] is not value for key, value in metadata.items() if isinstance(value, dict | list))


def test_a_later_change_of_the_callers_object_does_not_reach_the_copy() -> None:
    metadata: dict[str, Any] = {"tags": ["a"], "deep": {"x": 1}}

    checked = validation.check_metadata(metadata)
    metadata["tags"].append("b")
    metadata["deep"]["x"] = 2

    assert checked == {"tags": ["a"], "deep": {"x": 1}}


def test_subclasses_become_the_plain_values_they_hold() -> None:
    class Level(enum.IntEnum):
        HIGH = 3

    class Ratio(float):
        pass

    checked = validation.check_metadata(
        OrderedDict([(Text("k"), Text("v")), ("level", Level.HIGH), ("ratio", Ratio(0.5)), ("yes", True)])
    )

    assert checked == {"k": "v", "level": 3, "ratio": 0.5, "yes": True}
    assert [type(value) for value in checked.values()] == [str, int, float, bool]
    assert {type(key) for key in checked} == {str}
    assert type(checked) is dict


@pytest.mark.parametrize(
    ("metadata", "argument"),
    [
        ({"a": math.nan}, "metadata.a"),
        ({"a": [0, math.inf]}, "metadata.a[1]"),
        ({"a": {"b": -math.inf}}, "metadata.a.b"),
        ({"a": 2**63}, "metadata.a"),
        ({"a": -(2**63) - 1}, "metadata.a"),
        pytest.param({"a": 10**5000}, "metadata.a", id="huge"),
        ({"a": "x\x00"}, "metadata.a"),
        ({"a": [["x", "\ud800"]]}, "metadata.a[0][1]"),
        ({"a\x00": 1}, "metadata key"),
        ({"a": {"\ud800": 1}}, "metadata.a key"),
        ({1: "a"}, "metadata"),
        ({"a": {None: 1}}, "metadata.a"),
        ({"a": (1, 2)}, "metadata.a"),
        ({"a": {1, 2}}, "metadata.a"),
        ({"a": b"x"}, "metadata.a"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "metadata.a"),
        ({"a": 1 + 2j}, "metadata.a"),
        ({"k" * 80: math.nan}, "metadata." + "k" * 50),
    ],
)
def test_what_json_does_not_have_is_refused_by_its_path(metadata: dict[Any, Any], argument: str) -> None:
    with refused(argument):
        validation.check_metadata(metadata)


@pytest.mark.parametrize("metadata", [None, "{}", [], [("a", 1)], 5, object()])
def test_metadata_that_is_no_object_is_refused(metadata: object) -> None:
    with refused("metadata"):
        validation.check_metadata(metadata)


def test_metadata_may_be_nested_to_100_levels() -> None:
    assert validation.check_metadata(nested(100)) == nested(100)
    lists: list[Any] = []
    for _ in range(98):
        lists = [lists]
    assert validation.check_metadata({"k": lists}) == {"k": lists}

    with refused("metadata"):
        validation.check_metadata(nested(101))
    with refused("metadata"):
        validation.check_metadata({"k": [lists]})


def test_metadata_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless

    with refused("metadata"):
        validation.check_metadata(endless)


def test_metadata_whose_shared_parts_unfold_without_end_is_refused() -> None:
    value: Any = 0
    for _ in range(60):
        value = [value, value]

    with refused("metadata"):
        validation.check_metadata({"bomb": value})


def test_two_keys_that_hold_the_same_text_are_refused() -> None:
    class Other(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            return self is other

    with refused("metadata"):
        validation.check_metadata({"a": 1, Other("a"): 2})


# --- session_data and update -----------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, {}, {"title": None}, {"metadata": None, "title": None}])
def test_a_new_session_without_title_and_metadata_takes_the_defaults(data: object) -> None:
    assert validation.check_session_data(data) == ("New Chat", {})


def test_each_new_session_gets_its_own_empty_metadata() -> None:
    assert validation.check_session_data(None)[1] is not validation.check_session_data(None)[1]


def test_title_and_metadata_of_a_new_session_are_returned() -> None:
    assert validation.check_session_data({"title": "T", "metadata": {"a": 1}}) == ("T", {"a": 1})


@pytest.mark.parametrize("data", [{}, {"title": None}, {"title": None, "metadata": None}])
def test_an_update_without_values_keeps_both(data: object) -> None:
    assert validation.check_update(data) == (None, None)


def test_an_update_tells_empty_metadata_from_none() -> None:
    assert validation.check_update({"metadata": {}}) == (None, {})
    assert validation.check_update({"title": "T"}) == ("T", None)


@pytest.mark.parametrize("key", ["titel", "session_id", "user_id", "updated_at", "$set", "", 5, None])
def test_an_unknown_key_is_refused(key: object) -> None:
    with refused("session_data") as create:
        validation.check_session_data({key: "x"})
    with refused("data"):
        validation.check_update({"title": "T", key: "x"})

    assert "'title' and 'metadata'" in create.info.value.reason


@pytest.mark.parametrize("data", ["title", [("title", "T")], 5])
def test_data_that_is_no_dict_is_refused(data: object) -> None:
    with refused("session_data"):
        validation.check_session_data(data)
    with refused("data"):
        validation.check_update(data)


def test_an_update_without_data_keeps_both() -> None:
    assert validation.check_update(None) == (None, None)


def test_a_bad_title_or_bad_metadata_is_refused_by_its_own_name() -> None:
    for check in (validation.check_session_data, validation.check_update):
        with refused("title"):
            check({"title": ""})
        with refused("metadata.a"):
            check({"metadata": {"a": object()}})
