"""One line of a file of conversations: a JSON object, checked before anything is stored."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from sessions import validation
from sessions.errors import InvalidInputError

__all__ = ["LINE", "Conversation", "check_object", "parse_line"]

REQUIRED_KEYS = frozenset({"session_id", "user_id", "messages"})
KNOWN_KEYS = REQUIRED_KEYS | {"title", "metadata"}
MESSAGE_KEYS = frozenset({"role", "content"})

# A line of fewer characters is decoded in one go; the messages of a larger one take less memory meanwhile.
SMALL = 2**20

LINE = "line"
"""The argument that an error names if it concerns the line as a whole."""


@dataclass(slots=True, frozen=True)
class Conversation:
    """One line of the file, after the checks that need no backend.

    Attributes:
        session_id: As in the file.
        user_id: Owner.
        session_data: ``title`` and ``metadata``, if the line has them.
        messages: ``(role, content)`` pairs, oldest first.
    """

    session_id: str
    user_id: str
    session_data: dict[str, Any]
    messages: list[tuple[str, str]]


def parse_line(line: bytes) -> Conversation:
    """Return the conversation on a line.

    Args:
        line: A JSON object with ``session_id``, ``user_id`` and ``messages`` (objects with ``role`` and
            ``content``), and optionally ``title`` and ``metadata``; UTF-8.

    Raises:
        InvalidInputError: The line is invalid; the text states the reason.
    """
    text = _decode(line)
    del line  # Each of its forms may need most of the memory, so only one is kept at a time.
    decoded = _parse(text)
    del text
    fields = check_object(LINE, decoded, REQUIRED_KEYS, KNOWN_KEYS)
    if not isinstance(fields["messages"], list):
        raise InvalidInputError("messages", f"must be a list, not {_json_type(fields['messages'])}")
    messages = fields["messages"]
    for index, item in enumerate(messages):
        if not isinstance(item, _Message):
            message = item
            if not isinstance(item, dict) or item.keys() != MESSAGE_KEYS:
                message = check_object(f"messages[{index}]", _as_written(item), MESSAGE_KEYS, MESSAGE_KEYS)
            messages[index] = (message["role"], message["content"])
    data: dict[str, Any] = {key: fields[key] for key in ("title", "metadata") if key in fields}
    # Check everything before the session is created: an invalid message must not leave an empty session.
    validation.check_session_data(data)
    return Conversation(
        session_id=validation.check_id("session_id", fields["session_id"]),
        user_id=validation.check_user_id(fields["user_id"]),
        session_data=data,
        messages=validation.check_messages(messages),
    )


class _Message(tuple[str, str]):
    """A message, in a quarter of the memory of its dict."""

    __slots__ = ()


def _message_or_object(pairs: list[tuple[str, Any]]) -> _Message | dict[str, Any]:
    fields = dict(pairs)
    if fields.keys() == MESSAGE_KEYS:
        role, content = fields["role"], fields["content"]
        if isinstance(role, str) and isinstance(content, str):
            return _Message((sys.intern(role), content))
    return fields


def _only_messages(decoded: Any) -> Any:
    """Return the decoded value, with messages only where messages belong."""
    if isinstance(decoded, dict) and isinstance(messages := decoded.get("messages"), list):
        return _as_written(decoded | {"messages": None}) | {"messages": messages}
    return _as_written(decoded)


def _as_written(value: Any) -> Any:
    """Return a value with plain objects in place of the messages in it."""
    if isinstance(value, _Message):
        return {"role": value[0], "content": value[1]}
    if isinstance(value, dict):
        return {key: _as_written(item) for key, item in value.items()}
    return [_as_written(item) for item in value] if isinstance(value, list) else value


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(LINE, f"is not UTF-8 (byte {error.start + 1})") from None


def _parse(text: str) -> object:
    try:
        if len(text) < SMALL:
            return json.loads(text)
        return _only_messages(json.loads(text, object_pairs_hook=_message_or_object))
    except json.JSONDecodeError as error:
        raise InvalidInputError(LINE, f"is not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise InvalidInputError(LINE, "is nested too deeply") from None
    except ValueError:
        raise InvalidInputError(LINE, "is not JSON (a number is too long)") from None


def check_object(what: str, value: object, required: frozenset[str], known: frozenset[str]) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        InvalidInputError: It is none, or it lacks a required key, or has one that is not known.
    """
    if not isinstance(value, dict):
        raise InvalidInputError(what, f"must be an object, not {_json_type(value)}")
    if value.keys() == known:
        return value
    if missing := sorted(required - value.keys()):
        raise InvalidInputError(what, f"has no {', '.join(map(repr, missing))}")
    if unknown := sorted(value.keys() - known):
        raise InvalidInputError(what, f"has an unknown key {unknown[0][:50]!r}")
    return value


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
