"""One line of a file of conversations: a JSON object, checked before anything is stored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sessions import validation
from sessions.errors import InvalidInputError

__all__ = ["LINE", "Conversation", "parse_line"]

REQUIRED_KEYS = frozenset({"session_id", "user_id", "messages"})
KNOWN_KEYS = REQUIRED_KEYS | {"title", "metadata"}
MESSAGE_KEYS = frozenset({"role", "content"})

LINE = "line"
"""The argument that an error names if it is about the line as a whole."""


@dataclass(slots=True, frozen=True)
class Conversation:
    """One line of the file, checked as far as that needs no backend.

    Attributes:
        session_id: As in the file.
        user_id: Owner.
        session_data: ``title`` and ``metadata``, where the line has them.
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
            ``content``), and with ``title`` and ``metadata`` or without; UTF-8.

    Raises:
        InvalidInputError: It is something else; the text says what.
    """
    fields = _check_object(LINE, _decode(line), REQUIRED_KEYS, KNOWN_KEYS)
    if not isinstance(fields["messages"], list):
        raise InvalidInputError("messages", f"must be a list, not {_json_type(fields['messages'])}")
    messages = []
    for index, item in enumerate(fields["messages"]):
        message = _check_object(f"messages[{index}]", item, MESSAGE_KEYS, MESSAGE_KEYS)
        messages.append((message["role"], message["content"]))
    data: dict[str, Any] = {key: fields[key] for key in ("title", "metadata") if key in fields}
    # All of it before the session is created: a bad message must not leave an empty session behind.
    validation.check_session_data(data)
    return Conversation(
        session_id=validation.check_id("session_id", fields["session_id"]),
        user_id=validation.check_user_id(fields["user_id"]),
        session_data=data,
        messages=validation.check_messages(messages),
    )


def _decode(line: bytes) -> object:
    try:
        decoded: object = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise InvalidInputError(LINE, f"is not UTF-8 (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise InvalidInputError(LINE, f"is not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise InvalidInputError(LINE, "is nested too deeply") from None
    except ValueError:
        raise InvalidInputError(LINE, "is not JSON (a number is too long)") from None
    return decoded


def _check_object(
    what: str, value: object, required: frozenset[str], known: frozenset[str]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError(what, f"must be an object, not {_json_type(value)}")
    if missing := sorted(required - value.keys()):
        raise InvalidInputError(what, f"has no {', '.join(map(repr, missing))}")
    if unknown := sorted(value.keys() - known):
        raise InvalidInputError(what, f"has an unknown key {unknown[0][:50]!r}")
    return value


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
