"""What a caller may pass. Every backend checks here before any I/O, so all of them refuse the same things.

Each function returns the value in the plain form that is stored (an exact ``str``, a fresh ``dict``),
or raises `InvalidInputError` naming the argument.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sessions.errors import InvalidInputError

__all__ = [
    "DEFAULT_TITLE",
    "MAX_LIMIT",
    "check_content",
    "check_count",
    "check_cutoff",
    "check_id",
    "check_limit",
    "check_messages",
    "check_metadata",
    "check_page",
    "check_role",
    "check_session_data",
    "check_title",
    "check_update",
    "check_user_id",
    "check_uuid",
    "no_such_message",
]

DEFAULT_TITLE = "New Chat"
MAX_LIMIT = 1000
ROLES = ("user", "assistant")
MAX_NAME_LENGTH = 255
MAX_DEPTH = 100
MAX_METADATA_VALUES = 1_000_000
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
# OFFSET and skip are signed 64-bit in both databases.
MAX_PAGE = MAX_INTEGER // MAX_LIMIT

# Only the canonical form: PostgreSQL would also take braces and missing hyphens, and then hand back
# another string than the caller's.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _check_text(argument: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidInputError(argument, f"must be str, not {type(value).__name__}")
    # Enum members and other subclasses are stored as the text they hold, whatever their __str__ says.
    text = str.__str__(value)
    if "\x00" in text:
        raise InvalidInputError(argument, "must not contain NUL (U+0000)")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # No "from": the driver-like cause would carry the whole text, which may be a message.
            raise InvalidInputError(argument, "must not contain lone surrogates") from None
    return text


def _check_name(argument: str, value: object) -> str:
    text = _check_text(argument, value)
    if not 1 <= len(text) <= MAX_NAME_LENGTH:
        raise InvalidInputError(argument, f"must have 1 to {MAX_NAME_LENGTH} characters, not {len(text)}")
    return text


def _id_text(value: object) -> object:
    # Of a subclass too, such as asyncpg's, whatever its __str__ says.
    return uuid.UUID.__str__(value) if isinstance(value, uuid.UUID) else value


def check_user_id(value: object) -> str:
    """Return a user id of 1 to 255 characters."""
    return _check_name("user_id", value)


def check_title(value: object, argument: str = "title") -> str:
    """Return a title of 1 to 255 characters."""
    return _check_name(argument, value)


def check_id(argument: str, value: object) -> str:
    """Return an id of 1 to 255 characters, as MongoDB takes it; a ``uuid.UUID`` as its text."""
    return _check_name(argument, _id_text(value))


def check_uuid(argument: str, value: object) -> str:
    """Return a UUID in lower case, as the SQL backends store it; it may be text or a ``uuid.UUID``."""
    text = _check_text(argument, _id_text(value))
    if not _UUID.fullmatch(text):
        raise InvalidInputError(argument, "must be a UUID like 123e4567-e89b-12d3-a456-426614174000")
    return text.lower()


def no_such_message(argument: str) -> InvalidInputError:
    """Return the error for the id of a message that the session does not have.

    The same whether another session has it or none: it may be a guess worth confirming.
    """
    return InvalidInputError(argument, "the session has no message with this id")


def check_role(value: object) -> str:
    """Return ``"user"`` or ``"assistant"``."""
    text = _check_text("role", value)
    if text not in ROLES:
        raise InvalidInputError("role", "must be 'user' or 'assistant'")
    return text


def check_content(value: object) -> str:
    """Return any text without NUL and lone surrogates; it may be empty."""
    return _check_text("content", value)


def check_messages(value: object) -> list[tuple[str, str]]:
    """Return the ``(role, content)`` pairs of a batch in their order."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidInputError("messages", "must be a list of (role, content) pairs")
    pairs = []
    for index, item in enumerate(value):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise InvalidInputError(f"messages[{index}]", "must be a (role, content) pair")
        role, content = item
        try:
            pairs.append((check_role(role), check_content(content)))
        except InvalidInputError as error:
            raise InvalidInputError(f"messages[{index}].{error.argument}", error.reason) from None
    return pairs


def _check_integer(argument: str, value: object, minimum: int, maximum: int) -> int:
    # bool is an int to Python; as a page number it is a mistake.
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(argument, f"must be int, not {type(value).__name__}")
    if not minimum <= value <= maximum:
        raise InvalidInputError(argument, f"must be from {minimum} to {maximum}")
    return int(value)


def check_page(value: object) -> int:
    """Return a page number from 0."""
    return _check_integer("page", value, 0, MAX_PAGE)


def check_limit(value: object) -> int:
    """Return a page size from 1 to 1000."""
    return _check_integer("limit", value, 1, MAX_LIMIT)


def check_count(argument: str, value: object, minimum: int = 0) -> int:
    """Return a count that fits 64 bits."""
    return _check_integer(argument, value, minimum, MAX_INTEGER)


def check_cutoff(value: object) -> datetime:
    """Return a point in time in UTC; a naive one is rejected, as it is ambiguous."""
    if not isinstance(value, datetime):
        raise InvalidInputError("cutoff", f"must be datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidInputError("cutoff", "must be timezone-aware")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError("cutoff", "is out of range in UTC") from None


class _MetadataCopier:
    """Copies a JSON object into plain Python values, refusing what no backend could give back."""

    def __init__(self) -> None:
        self._values = 0

    def copy(self, path: str, value: object, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_METADATA_VALUES:
            # A small graph that shares its parts can unfold without end.
            raise InvalidInputError("metadata", f"must not hold more than {MAX_METADATA_VALUES} values")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _check_text(path, value)
        if isinstance(value, int):
            return _check_integer(path, value, MIN_INTEGER, MAX_INTEGER)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidInputError(path, "must be a finite number")
            return float(value)
        if isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise InvalidInputError("metadata", f"must not be nested deeper than {MAX_DEPTH} levels")
            if isinstance(value, dict):
                return self._copy_object(path, value, depth)
            return [self.copy(f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        raise InvalidInputError(path, f"must be JSON, not {type(value).__name__}")

    def _copy_object(self, path: str, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        copy = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidInputError(path, f"keys must be str, not {type(key).__name__}")
            name = _check_text(f"{path} key", key)
            copy[name] = self.copy(f"{path}.{name[:50]}", item, depth + 1)
        if len(copy) != len(value):
            raise InvalidInputError(path, "two keys hold the same text")
        return copy


def check_metadata(value: object, argument: str = "metadata") -> dict[str, Any]:
    """Return a JSON object as a fresh dict of plain values.

    Finite numbers, integers of 64 bits, string keys, at most 100 levels of objects and lists (the
    object itself is the first) and a million values in all.
    """
    if not isinstance(value, dict):
        raise InvalidInputError(argument, f"must be dict, not {type(value).__name__}")
    copied: dict[str, Any] = _MetadataCopier().copy(argument, value, 1)
    return copied


def _check_fields(argument: str, value: object) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(argument, f"must be a mapping, not {type(value).__name__}")
    for key in value:
        if key not in ("title", "metadata"):
            shown = repr(key)[:60] if isinstance(key, str) else type(key).__name__
            raise InvalidInputError(argument, f"unknown key {shown}; known keys are 'title' and 'metadata'")
    return value


def check_session_data(value: object) -> tuple[str, dict[str, Any]]:
    """Return title and metadata of a new session, with the defaults where they are absent or None."""
    if value is None:
        return DEFAULT_TITLE, {}
    fields = _check_fields("session_data", value)
    title, metadata = fields.get("title"), fields.get("metadata")
    return (
        DEFAULT_TITLE if title is None else check_title(title),
        {} if metadata is None else check_metadata(metadata),
    )


def check_update(value: object) -> tuple[str | None, dict[str, Any] | None]:
    """Return the title and metadata to set; None keeps the old value."""
    fields = _check_fields("data", value)
    title, metadata = fields.get("title"), fields.get("metadata")
    return (
        None if title is None else check_title(title),
        None if metadata is None else check_metadata(metadata),
    )
