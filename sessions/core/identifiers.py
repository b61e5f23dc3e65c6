"""Generates ids, and returns the timestamp of a UUIDv7."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import uuid_utils

__all__ = ["Identifier", "new_message_id", "new_session_id", "utc_now", "uuid7_time"]

Identifier = str | uuid.UUID
"""The id of a session or a message as an argument; returned ids are text."""


def new_session_id() -> str:
    """Return a random UUID."""
    return str(uuid.uuid4())


def new_message_id() -> str:
    """Return a UUIDv7 that sorts after every earlier one of this process, also within a millisecond."""
    return str(uuid_utils.uuid7())


def uuid7_time(message_id: str) -> datetime:
    """Return the timestamp of a UUIDv7, in UTC, to the millisecond."""
    milliseconds = int(message_id[:8] + message_id[9:13], 16)
    return datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
