"""Values that the contract stores, and values that it expects to be rejected."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

__all__ = [
    "ADDED_CALLS",
    "ASTRAL",
    "BASE_CALLS",
    "METADATA",
    "OTHER",
    "TEXTS",
    "USER",
    "BadCall",
    "all_characters",
    "bad_calls",
    "nested",
    "same_json",
]

USER, OTHER = "user-1", "user-2"

# One character outside of the Basic Multilingual Plane: two UTF-16 units, four bytes of UTF-8.
ASTRAL = "\N{GRINNING FACE}"

TEXTS = [
    "plain",
    " leading and trailing \t\n",
    "\r\n\v\f\x01\x1b\x7f\x85\u2028\ufeff",
    "\xe9 and e\u0301, \u212b and \xc5",  # Unicode forms that must not be unified
    "\ufdd0\ufffe\uffff\U0001ffff\U0010ffff",  # noncharacters
    f"{ASTRAL}\u200d\u202e\u0301",
    "'; DROP TABLE chat_sessions; -- \\ \" ` %s :name $1 {0} \\u0000 \\x00",
    '{"$ne": ""}',
]


def all_characters() -> str:
    """Return a text with every character but NUL and the surrogates."""
    return "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)]))


def nested(levels: int) -> dict[str, Any]:
    """Return an object with the given number of levels, alternating objects and lists."""
    value: Any = 1
    for level in range(levels - 1):
        value = [value] if level % 2 else {"in": value}
    return {"in": value}


METADATA: dict[str, dict[str, Any]] = {
    "empty": {},
    "usual": {"source": "web", "category": "billing", "priority": "high", "tags": ["urgent", "payment"]},
    "simple": {"null": None, "true": True, "false": False, "zero": 0, "one": 1, "text": ""},
    "operators": {"$set": {"$ne": ""}, "$": 1, "$where": "1", "_id": 1, "$$ROOT": [{"$gt": 0}]},
    "dots": {"a.b": {"c.d": 1}, ".": 2, "a.": 3, ".a": 4, "..": 5, "a": {"b": 6}, "0": 7},
    "empty key": {"": {"": [{"": 1}]}},
    "reference": {"$ref": "x", "$id": "y"},
    "reference and more": {"in": [{"$ref": "x", "$id": "y", "$db": "z", "more": {"$ref": "a", "$id": 1}}]},
    "extended JSON": {"a": {"$oid": "0" * 24}, "b": {"$numberLong": "1"}, "c": {"$date": "2024-01-01"}},
    "integers": {"least": -(2**63), "greatest": 2**63 - 1, "beyond double": 2**53 + 1, "32 bits": 2**31},
    "floats": {
        "great": 1e300,
        "greatest": 1.7976931348623157e308,
        "tiny": 5e-324,
        "half": 1.5,
        "tenth": 0.1,
        "minus zero": -0.0,
        "whole": 1e16,
        "whole and rounded when written": 1.2345678901234568e18,
        "beyond 64 bits": 2.0**63,
        "list": [-1e22, 123456789012345.6, 3.0],
    },
    "empty parts": {"object": {}, "list": [], "both": [[], {}, [[{}]]]},
    "texts": dict(zip(TEXTS, TEXTS, strict=True)),
    "written numbers": {"texts": ["1e+16", "1.2345678901234568e+18", '"1e+20', "NaN", "null"]},
    "long": {"k" * 3000: "v" * 100_000, "list": list(range(3000))},
    "deep": nested(100),
}

_PLAIN = (dict, list, str, int, float, bool, type(None))


def same_json(stored: Any, returned: Any) -> bool:
    """Return whether a value came back equal and of plain types; a whole float may come back as an int."""
    if type(returned) not in _PLAIN:
        return False
    if isinstance(stored, dict):
        return (
            type(returned) is dict
            and stored.keys() == returned.keys()
            and all(type(key) is str for key in returned)
            and all(same_json(item, returned[key]) for key, item in stored.items())
        )
    if isinstance(stored, list):
        return (
            type(returned) is list and len(stored) == len(returned) and all(map(same_json, stored, returned))
        )
    if isinstance(stored, float):
        return type(returned) in (int, float) and bool(stored == returned)
    return type(stored) is type(returned) and bool(stored == returned)


@dataclass(frozen=True)
class BadCall:
    """An invalid call.

    Attributes:
        operation: Name without suffix.
        arguments: Keyword arguments, one of them invalid.
        named: The argument that the error must name.
    """

    operation: str
    arguments: dict[str, Any]
    named: str

    def __str__(self) -> str:
        # ASCII and short: the values are lone surrogates, NUL, or a thousand characters long.
        return f"{self.operation}({', '.join(f'{k}={ascii(v)[:60]}' for k, v in self.arguments.items())})"


# Valid arguments of the operations of `BaseSessionRepository`, and of the additional ones.
BASE_CALLS: dict[str, dict[str, Any]] = {
    "create_session": {"user_id": USER, "session_data": {}},
    "get_session_history": {"user_id": USER, "session_id": ""},
    "update_session": {"user_id": USER, "session_id": "", "data": {}},
    "list_paginated_sessions": {"user_id": USER, "page": 0, "limit": 10},
    "delete_session": {"user_id": USER, "session_id": ""},
    "add_message": {"session_id": "", "role": "user", "content": "Hi"},
}
ADDED_CALLS: dict[str, dict[str, Any]] = {
    "get_session_history": {"user_id": USER, "session_id": "", "limit": 10, "before": None},
    "add_message": {"session_id": "", "role": "user", "content": "Hi", "user_id": None},
    "ensure_session_exists": {"session_id": "", "user_id": USER, "session_data": {}},
    "get_session": {"user_id": USER, "session_id": ""},
    "add_messages": {"session_id": "", "messages": [], "user_id": None},
    "list_sessions": {"user_id": USER, "limit": 10, "cursor": None},
    "count_sessions": {"user_id": USER},
    "search_messages": {
        "user_id": USER,
        "query": "text",
        "session_id": None,
        "limit": 20,
        "cursor": None,
    },
    "keep_latest_sessions": {"user_id": USER, "keep_last_n": 1},
    "delete_sessions_older_than": {"cutoff": datetime(1970, 1, 2, tzinfo=UTC), "user_id": None},
    "delete_user": {"user_id": USER},
    "export_user": {"user_id": USER},
}

_NOT_TEXT: list[Any] = [1, b"text", {"$ne": ""}, ["text"], object()]
_UNSTORABLE: list[Any] = ["a\0b", "\ud800", "a\udfffb"]
_BAD_NAMES = ["", "x" * 256, ASTRAL * 256, *_NOT_TEXT, *_UNSTORABLE]
_NOT_UUIDS = [
    "no-uuid",
    "{6f1c7c2a-95b1-4f0c-8a86-0d6b0a1f3c55}",
    "6f1c7c2a95b14f0c8a860d6b0a1f3c55",
    "6f1c7c2a-95b1-4f0c-8a86-0d6b0a1f3c55\n",
    " 6f1c7c2a-95b1-4f0c-8a86-0d6b0a1f3c55",
    "\uff16f1c7c2a-95b1-4f0c-8a86-0d6b0a1f3c55",
    "urn:uuid:6f1c7c2a-95b1-4f0c-8a86-0d6b0a1f3c55",
]
_NOT_COUNTS: list[Any] = [-1, "1", 1.0, True, {"$gt": 0}, 2**63, None]
_cycle: dict[str, Any] = {}
_cycle["in"] = _cycle
_BAD_METADATA: list[Any] = [
    *[[], "text", 1, True],
    *[{"in": [value]} for value in (math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1)],
    *[{"in": value} for value in (object(), {1}, (1,), b"x", datetime.now(UTC), uuid.uuid4(), 1j)],
    *[{key: 1} for key in (1, None, True, b"x", ("a",))],
    *[{"in": {text: 1}} for text in _UNSTORABLE],
    *[{"in": [text]} for text in _UNSTORABLE],
    nested(101),
    _cycle,
]
_BAD_MESSAGES: list[Any] = [
    *["user", b"user", None, 1, {"user": "Hi"}],
    *[["user"], [("user",)], [("user", "a", "b")], [None], [("user", "Hi"), "user"]],
    *[[("user", "Hi"), (role, "Hi")] for role in ("function", "", "User", None, 1)],
    *[[("user", "Hi"), ("user", content)] for content in (None, *_NOT_TEXT, *_UNSTORABLE)],
]


def _bad_fields(argument: str) -> Iterator[tuple[Any, str]]:
    for value in ("text", [], 1, [("title", "text")]):
        yield value, argument
    for key in ("user_id", "session_id", "Title", "updated_at", "$set", 1, None):
        yield {key: "text", "title": "text"}, argument
    for title in _BAD_NAMES:
        yield {"title": title}, "title"
        yield {"title": title, "metadata": {}}, "title"
    for metadata in _BAD_METADATA:
        yield {"title": "text", "metadata": metadata}, "metadata"


def _bad_values(argument: str, optional: bool, takes_only_uuids: bool) -> Iterator[tuple[Any, str]]:
    """Yield invalid values, with the name that the error must give."""
    if argument in ("session_data", "data"):
        yield from _bad_fields(argument)
        return
    values = {
        "user_id": _BAD_NAMES,
        "session_id": [*_BAD_NAMES, uuid.uuid4().bytes] + (_NOT_UUIDS if takes_only_uuids else []),
        "role": ["function", "", "User", "user ", *_NOT_TEXT, *_UNSTORABLE, None],
        "content": [*_NOT_TEXT, *_UNSTORABLE, None],
        "messages": _BAD_MESSAGES,
        "query": ["", " \n", '""', "x" * 1001, *_NOT_TEXT, *_UNSTORABLE, None],
        "page": _NOT_COUNTS,
        "limit": [0, 1001, *[value for value in _NOT_COUNTS if value is not None]],
        # A history takes 0, and has no upper bound.
        "limit of messages": [value for value in _NOT_COUNTS if value not in (None, 2**63)],
        "keep_last_n": _NOT_COUNTS,
        "cutoff": [datetime(2024, 1, 1), date(2024, 1, 1), "2024-01-01T00:00:00Z", 0, None],
        "cursor": ["", "no cursor", "MTIz", "\xe9", *_NOT_TEXT, *_UNSTORABLE],
        "before": _BAD_NAMES,
    }
    for value in values[argument]:
        yield value, argument.partition(" ")[0]
    if argument in ("user_id", "session_id") and not optional:
        yield None, argument


def bad_calls(
    calls: dict[str, dict[str, Any]], operation: str, session_id: str, takes_only_uuids: bool
) -> Iterator[BadCall]:
    """Yield the calls of one operation that have one invalid argument.

    Args:
        calls: `BASE_CALLS` or `ADDED_CALLS`.
        operation: One of them.
        session_id: The session in the valid arguments; user `USER` owns it.
        takes_only_uuids: Whether an id that is not a UUID is invalid, too.
    """
    good = calls[operation]
    usable = {name: session_id if name == "session_id" else value for name, value in good.items()}
    for argument, value in good.items():
        kind = "limit of messages" if (operation, argument) == ("get_session_history", "limit") else argument
        for bad, named in _bad_values(kind, value is None, takes_only_uuids):
            yield BadCall(operation, usable | {argument: bad}, named)
