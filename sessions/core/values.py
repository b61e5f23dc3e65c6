"""What the operations pass to a backend: checked values, made once, before the first attempt."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sessions.models import UNSET, Unset

__all__ = [
    "Append",
    "EarlierAttempts",
    "HistoryRange",
    "MessageChange",
    "MessageRow",
    "NewSession",
    "Position",
    "SessionChange",
    "StoredMessage",
    "Where",
]

Where = dict[str, tuple[str | int | float | bool | None, ...]]
"""The accepted values of each top-level key of metadata; None accepts an absent key and null."""

Position = tuple[datetime, int, str]
"""The place of a message in the order: its timestamp, its write order, its id."""


class MessageRow(NamedTuple):
    """A message to store.

    Attributes:
        message_id: Id, of the caller or generated; the same for each attempt of a call.
        role: Role.
        content: Content.
        timestamp: In UTC; None lets the backend assign one.
        metadata: A JSON object, may be empty; None for an empty one.
        payload: JSON text in ASCII; None for no payload.
        has_new_id: Whether the id was generated for this call: a UUIDv7, more than the earlier ones.
    """

    message_id: str
    role: str
    content: str
    timestamp: datetime | None = None
    metadata: dict[str, Any] | None = None
    payload: str | None = None
    has_new_id: bool = False


@dataclass(slots=True, eq=False)
class Append:
    """The messages of one call: an item of the queue of appends.

    Attributes:
        session_id: The session.
        user_id: Owner; None for the session of any user.
        rows: Messages in their order, at least one.
        count: How many they are.
        size: About how many bytes they are.
        key: Equal for calls that append the same messages to the same session; None if it got a new id.
        link: Ties the span of a batch to that of this call; None if nobody observes.
        is_sent: Whether a backend has begun to send it.
        is_cancelled: Whether the caller is cancelled. What is not sent yet is not sent then.
    """

    session_id: str
    user_id: str | None
    rows: list[MessageRow]
    count: int
    size: int
    key: Hashable | None = None
    link: Any = None
    is_sent: bool = False
    is_cancelled: bool = False

    def send(self) -> bool:
        """Note that the messages are sent from now on; return whether they are to be, or are cancelled."""
        self.is_sent = True
        return not self.is_cancelled


class StoredMessage(NamedTuple):
    """A message to restore; the first six fields are those of `MessageRow`.

    Attributes:
        message_id: Id.
        role: Role.
        content: Content.
        timestamp: In UTC.
        metadata: A JSON object, may be empty.
        payload: JSON text in ASCII; None for no payload.
        write_order: Its place among the messages with the same timestamp.
    """

    message_id: str
    role: str
    content: str
    timestamp: datetime
    metadata: dict[str, Any]
    payload: str | None
    write_order: int


@dataclass(slots=True, frozen=True)
class SessionChange:
    """What an update changes of a session.

    Attributes:
        title: New title; None keeps the old one.
        metadata: Replaces the metadata; None keeps the old one.
        merge: Top-level keys to set in the metadata, atomically.
        remove: Top-level keys to remove from the metadata, atomically; none of them is in ``merge``.
        touch: Whether ``updated_at`` becomes the time of the change.
        if_title: Change nothing unless the title is this one.
        expected_version: Change nothing, and report a conflict, unless the version is this one.
    """

    title: str | None = None
    metadata: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    remove: tuple[str, ...] = ()
    touch: bool = True
    if_title: str | None = None
    expected_version: int | None = None


@dataclass(slots=True, frozen=True)
class MessageChange:
    """What an update changes of a message.

    Attributes:
        content: New content; None keeps the old one.
        metadata: Replaces the metadata; None keeps the old one.
        merge: Top-level keys to set in the metadata, atomically.
        payload: JSON text of the new payload; None removes it, `UNSET` keeps it.
        expected_version: Change nothing, and report a conflict, unless the session's version is this one.
    """

    content: str | None = None
    metadata: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    payload: str | Unset | None = UNSET
    expected_version: int | None = None


class HistoryRange(NamedTuple):
    """The part of a history to read; at most one of ``before``, ``after`` and ``since`` is given.

    Attributes:
        limit: At most so many messages: with ``after`` or ``since`` the oldest, else the newest; None
            for all.
        before: Only messages before the one with this id.
        after: Only messages after the one with this id.
        since: Only messages with this timestamp, in UTC, or a later one.
    """

    limit: int | None = None
    before: str | None = None
    after: str | None = None
    since: datetime | None = None


class NewSession(NamedTuple):
    """A session to store; made once, before the first attempt.

    Attributes:
        session_id: Id, of the caller or generated.
        user_id: Owner.
        title: Title.
        metadata: A JSON object, may be empty.
        created_at: In UTC.
        key: Result of `Backend.new_key`: the same for each attempt of a call.
        has_new_id: Whether the id was generated for this call, so that nothing can be left under it.
    """

    session_id: str
    user_id: str
    title: str
    metadata: dict[str, Any]
    created_at: datetime
    key: Any = None
    has_new_id: bool = False


@dataclass(slots=True)
class EarlierAttempts:
    """The earlier attempts of the same call.

    Attributes:
        failed: Number of failed attempts.
        may_have_worked: Whether one of them may have taken effect, because its response was lost.
    """

    failed: int = 0
    may_have_worked: bool = False
