"""Calls that the contract expects to be rejected, each with one invalid argument."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, cast

from sessions.models import UNSET, NewMessage
from sessions.testing.values import ASTRAL, USER, nested

__all__ = ["ADDED_CALLS", "BASE_CALLS", "BadCall", "bad_calls"]


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
_MESSAGE = "6f1c7c2a-95b1-4f0c-8a86-0d6b0a1f3c56"
_CHANGE = {"merge_metadata": None, "expected_version": None}
ADDED_CALLS: dict[str, dict[str, Any]] = {
    "create_session": {"user_id": USER, "session_data": None, "messages": [], "session_id": None},
    "ensure_session_exists": {"session_id": "", "user_id": USER, "session_data": {}},
    "get_session": {"user_id": USER, "session_id": ""},
    "update_session": {"user_id": USER, "session_id": "", "data": None, "remove_metadata": [], "touch": True}
    | _CHANGE
    | {"if_title": None},
    "delete_session": {"user_id": USER, "session_id": "", "expected_version": None},
    "list_sessions": {"user_id": USER, "limit": 10, "cursor": None, "where": None},
    "list_session_previews": {"user_id": USER, "limit": 10, "cursor": None, "where": None},
    "count_sessions": {"user_id": USER, "where": None},
    "add_message": {"session_id": "", "role": "user", "content": "Hi", "user_id": None, "message_id": None}
    | {"timestamp": None, "metadata": None, "payload": None, "expected_version": None},
    "add_messages": {"session_id": "", "messages": [], "user_id": None} | _CHANGE,
    "get_session_history": {"user_id": USER, "session_id": "", "limit": 10}
    | {"before": None, "after": None, "since": None},
    "get_message": {"user_id": USER, "session_id": "", "message_id": _MESSAGE},
    "count_messages": {"user_id": USER, "session_id": ""},
    "get_session_payloads": {"user_id": USER, "session_id": ""},
    "update_message": {"user_id": USER, "session_id": "", "message_id": _MESSAGE, "content": "New"}
    | {"metadata": None, "payload": UNSET}
    | _CHANGE,
    "pop_message": {"user_id": USER, "session_id": ""},
    "delete_messages": {"user_id": USER, "session_id": "", "message_ids": []},
    "delete_messages_from": {"user_id": USER, "session_id": "", "message_id": _MESSAGE, "inclusive": True},
    "clear_messages": {"user_id": USER, "session_id": "", "expected_version": None},
    "replace_messages": {"user_id": USER, "session_id": "", "messages": [], "expected_version": None},
    "fork_session": {"user_id": USER, "session_id": "", "through": None, "session_data": None},
    "search_messages": {"user_id": USER, "query": "text", "session_id": None, "limit": 20, "cursor": None},
    "keep_latest_sessions": {"user_id": USER, "keep_last_n": 1},
    "delete_sessions_older_than": {
        "cutoff": datetime(1970, 1, 2, tzinfo=UTC),
        "user_id": None,
        "where": None,
    },
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
_NOT_FLAGS: list[Any] = [0, 1, "true", None, {"$ne": ""}]
_BAD_IDS: list[Any] = [1, "", "x" * 256, {"$ne": ""}, b"x", "a\0", uuid.uuid4().bytes]
_BAD_LISTS_OF_IDS: list[Any] = [
    *("text", b"text", None, 1, {"a": 1}),
    *([_MESSAGE, value] for value in (None, "", "x" * 256, *_NOT_TEXT, *_UNSTORABLE)),
]
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
_BAD_MOMENTS: list[Any] = [
    *(datetime(2024, 1, 1), date(2024, 1, 1), "2024-01-01T00:00:00Z", 0, {"$gt": 0}),
    *(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
]
_deep: list[Any] = []
for _ in range(600):
    _deep = [_deep]
_BAD_PAYLOADS: list[Any] = [
    *(object(), {1}, b"x", 1j, datetime.now(UTC), uuid.uuid4(), NewMessage),
    *({"in": [value]} for value in (object(), {1}, b"x")),
    *({key: 1} for key in (1, None, True, b"x", ("a",))),
    # JSON text has one notation for a character and for the two surrogates of it.
    *("\ud83d\ude00", {"\ud83d\ude00": 1}),
    *(_deep, _cycle),
]
_BAD_REMOVALS: list[Any] = ["text", b"x", {"a": 1}, 1, None, [1], [None], [["a"]], ["a", "b\0"], ["\ud800"]]
_BAD_WHERE: list[Any] = [
    *([], "text", 1, True, [("a", 1)], {1: 1}, {None: 1}, {"a\0": 1}, {"\ud800": 1}),
    *({"a": value} for value in (object(), {"b": 1}, {"$ne": 1}, [[1]], [{}], math.nan, math.inf, 2**63)),
    *({"a": value} for value in ("\0", ["b", "\ud800"], b"x", [b"x"], datetime.now(UTC), uuid.uuid4(), 1j)),
    *({str(key): 1 for key in range(21)}, {"a": list(range(1001))}),
]
_BAD_MESSAGES: list[Any] = [
    *["user", b"user", None, 1, {"user": "Hi"}],
    *[["user"], [("user",)], [("user", "a", "b")], [None], [("user", "Hi"), "user"]],
    *[[("user", "Hi"), (role, "Hi")] for role in ("function", "", "User", None, 1)],
    *[[("user", "Hi"), ("user", content)] for content in (None, *_NOT_TEXT, *_UNSTORABLE)],
    *[[("user", "Hi"), NewMessage(role)] for role in ("function", "", "User", None, 1)],  # type: ignore[arg-type]
    *[[NewMessage("user", cast("Any", content))] for content in (None, *_NOT_TEXT, *_UNSTORABLE)],
    *[[NewMessage("user", message_id=value)] for value in _BAD_IDS],
    [NewMessage("user", message_id=_MESSAGE), NewMessage("user", message_id=uuid.UUID(_MESSAGE))],
    *[[NewMessage("user", timestamp=value)] for value in _BAD_MOMENTS],
    *[[NewMessage("user", metadata=value)] for value in _BAD_METADATA],
    *[[("user", "Hi"), NewMessage("user", payload=value)] for value in _BAD_PAYLOADS],
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
    bad_ids = [*_BAD_NAMES, uuid.uuid4().bytes, *(_NOT_UUIDS if takes_only_uuids else [])]
    values = {
        "user_id": _BAD_NAMES,
        **dict.fromkeys(("session_id", "message_id", "before", "after", "through"), bad_ids),
        "role": ["function", "", "User", "user ", *_NOT_TEXT, *_UNSTORABLE, None],
        "content": [*_NOT_TEXT, *_UNSTORABLE, None],
        "content of a change": [*_NOT_TEXT, *_UNSTORABLE],
        "messages": _BAD_MESSAGES,
        "message_ids": [
            *_BAD_LISTS_OF_IDS,
            *([[_MESSAGE, value] for value in _NOT_UUIDS] if takes_only_uuids else []),
        ],
        "timestamp": _BAD_MOMENTS,
        "since": _BAD_MOMENTS,
        "metadata": _BAD_METADATA,
        "merge_metadata": _BAD_METADATA,
        "remove_metadata": _BAD_REMOVALS,
        "payload": _BAD_PAYLOADS,
        "where": _BAD_WHERE,
        "touch": _NOT_FLAGS,
        "inclusive": _NOT_FLAGS,
        "if_title": _BAD_NAMES,
        "expected_version": [value for value in _NOT_COUNTS if value is not None],
        "query": ["", " \n", '""', "x" * 1001, *_NOT_TEXT, *_UNSTORABLE, None],
        "page": _NOT_COUNTS,
        "limit": [0, 1001, *[value for value in _NOT_COUNTS if value is not None]],
        # A history takes 0, and has no upper bound.
        "limit of messages": [value for value in _NOT_COUNTS if value not in (None, 2**63)],
        "keep_last_n": _NOT_COUNTS,
        "cutoff": [datetime(2024, 1, 1), date(2024, 1, 1), "2024-01-01T00:00:00Z", 0, None],
        "cursor": ["", "no cursor", "MTIz", "\xe9", *_NOT_TEXT, *_UNSTORABLE],
    }
    for value in values[argument]:
        yield value, argument.partition(" ")[0]
    if argument in ("user_id", "session_id", "message_id") and not optional:
        yield None, argument


# Arguments that take other values than those of their name.
_KINDS = {
    ("get_session_history", "limit"): "limit of messages",
    ("update_message", "content"): "content of a change",
}


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
        kind = _KINDS.get((operation, argument), argument)
        for bad, named in _bad_values(kind, value is None, takes_only_uuids):
            yield BadCall(operation, usable | {argument: bad}, named)
