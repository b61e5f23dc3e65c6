"""The cursor of `list_sessions`: the position of a session in the list, as opaque text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sessions.errors import InvalidInputError
from sessions.models import ChatSession

__all__ = ["decode_cursor", "encode_cursor"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def encode_cursor(chat_session: ChatSession) -> str:
    """Return the cursor of the page after this session."""
    place = f"{(chat_session.updated_at - EPOCH) // MICROSECOND}:{chat_session.session_id}"
    return base64.urlsafe_b64encode(place.encode()).decode()


def decode_cursor(cursor: object, check_session_id: Callable[[str, object], str]) -> tuple[datetime, str]:
    """Return the ``(updated_at, session_id)`` that a cursor stands for.

    Raises:
        InvalidInputError: It is not one that `encode_cursor` made.
    """
    if not isinstance(cursor, str):
        raise InvalidInputError("cursor", f"must be str, not {type(cursor).__name__}")
    try:
        place = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True).decode()
        microseconds, _, session_id = place.partition(":")
        updated_at = EPOCH + int(microseconds) * MICROSECOND
        return updated_at, check_session_id("cursor", session_id)
    except (ValueError, binascii.Error, OverflowError) as error:
        raise InvalidInputError("cursor", "is not a next_cursor of list_sessions") from error
