"""The cursors of pages, as opaque text: the position of a session in a list, and of a message in a search."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sessions.errors import InvalidInputError
from sessions.models import ChatSession

__all__ = ["decode_cursor", "decode_search_cursor", "encode_cursor", "encode_search_cursor"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# A cursor of a session begins with a number.
SEARCH = "message"
INT64 = range(-(2**63), 2**63)


def encode_cursor(chat_session: ChatSession) -> str:
    """Return the cursor of the page after this session."""
    return _encode(f"{_microseconds(chat_session.updated_at)}:{chat_session.session_id}")


def decode_cursor(cursor: object, check_session_id: Callable[[str, object], str]) -> tuple[datetime, str]:
    """Return the ``(updated_at, session_id)`` that a cursor stands for.

    Raises:
        InvalidInputError: It is not one that `encode_cursor` made.
    """
    text = _text(cursor)
    try:
        microseconds, _, session_id = _decode(text).partition(":")
        return _moment(microseconds), check_session_id("cursor", session_id)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError("cursor", "is not a next_cursor of a list of sessions") from error


def encode_search_cursor(timestamp: datetime, write_order: int, message_id: str) -> str:
    """Return the cursor of the page after this message."""
    return _encode(f"{SEARCH}:{_microseconds(timestamp)}:{write_order}:{message_id}")


def decode_search_cursor(
    cursor: object, check_message_id: Callable[[str, object], str]
) -> tuple[datetime, int, str]:
    """Return the ``(timestamp, write_order, message_id)`` that a cursor stands for.

    Raises:
        InvalidInputError: It is not one that `encode_search_cursor` made.
    """
    text = _text(cursor)
    try:
        kind, microseconds, write_order, message_id = _decode(text).split(":", 3)
        order = int(write_order)
        if kind != SEARCH or order not in INT64:
            raise ValueError("of another kind")
        return _moment(microseconds), order, check_message_id("cursor", message_id)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError("cursor", "is not a next_cursor of search_messages") from error


def _text(cursor: object) -> str:
    if not isinstance(cursor, str):
        raise InvalidInputError("cursor", f"must be str, not {type(cursor).__name__}")
    return str.__str__(cursor)


def _encode(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode()


def _decode(cursor: str) -> str:
    return base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode()


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def _moment(microseconds: str) -> datetime:
    return EPOCH + int(microseconds) * MICROSECOND
