"""Checks of texts: names, ids, roles and contents."""

from __future__ import annotations

import re
import uuid
from typing import get_args

from sessions.errors import InvalidInputError
from sessions.models import Role

__all__ = [
    "check_content",
    "check_id",
    "check_role",
    "check_text",
    "check_title",
    "check_user_id",
    "check_uuid",
    "no_such_message",
]

MAX_NAME_LENGTH = 255
ROLES = frozenset(get_args(Role))
_ROLE_REASON = "must be 'user', 'assistant', 'system', 'developer' or 'tool'"

# Only the canonical form: PostgreSQL would also take braces and missing hyphens, and then hand back
# another string than the caller's.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_is_lower_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


def check_text(argument: str, value: object) -> str:
    """Return any text without NUL and lone surrogates."""
    if type(value) is str and "\x00" not in value and value.isascii():  # As almost all are.
        return value
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
    text = check_text(argument, value)
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
    if type(value) is str and _is_lower_uuid(value):
        return value
    text = check_text(argument, _id_text(value))
    if not _UUID.fullmatch(text):
        raise InvalidInputError(argument, "must be a UUID like 123e4567-e89b-12d3-a456-426614174000")
    return text.lower()


def no_such_message(argument: str) -> InvalidInputError:
    """Return the error for the id of a message that the session does not have.

    The same whether another session has it or none: it may be a guess worth confirming.
    """
    return InvalidInputError(argument, "the session has no message with this id")


def check_role(value: object) -> str:
    """Return ``"user"``, ``"assistant"``, ``"system"``, ``"developer"`` or ``"tool"``."""
    if type(value) is str and value in ROLES:
        return value
    text = check_text("role", value)
    if text not in ROLES:
        raise InvalidInputError("role", _ROLE_REASON)
    return text


def check_content(value: object, argument: str = "content") -> str:
    """Return any text without NUL and lone surrogates; it may be empty."""
    return check_text(argument, value)
