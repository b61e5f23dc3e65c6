"""How much a database holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = ["Statistics"]


@dataclass(slots=True, frozen=True)
class Statistics:
    """How much a database holds.

    Attributes:
        users: Number of users with at least one session.
        sessions: Number of sessions.
        messages: Number of messages.
        oldest: The earliest ``created_at`` of a session, in UTC; None without sessions.
        newest: The latest ``updated_at`` of a session, in UTC; None without sessions.
    """

    users: int
    sessions: int
    messages: int
    oldest: datetime | None
    newest: datetime | None
