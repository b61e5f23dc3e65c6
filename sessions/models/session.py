"""The conversation, as every backend returns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from typing_extensions import TypedDict

__all__ = ["ChatSession", "SessionData", "SessionPage"]


@dataclass(slots=True)
class ChatSession:
    """One conversation of one user.

    Attributes:
        session_id: Unique id; a UUID string unless a MongoDB service chose another.
        title: 1 to 255 characters.
        user_id: Owner, 1 to 255 characters.
        created_at: Timezone-aware, UTC.
        updated_at: Timezone-aware, UTC; the last change of the session or its newest message.
        metadata: A JSON object, never None.
        version: 0 at creation, and one more for each write that changed the session or its messages.
    """

    session_id: str
    title: str
    user_id: str
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, Any] = field(default_factory=dict)
    version: int = 0


@dataclass(slots=True, frozen=True)
class SessionPage:
    """One page of a user's sessions, newest first.

    Attributes:
        sessions: At most ``limit`` sessions.
        next_cursor: Pass it to the next call; None on the last page.
    """

    sessions: list[ChatSession]
    next_cursor: str | None


class SessionData(TypedDict, total=False):
    """Values of a session to create or update.

    Attributes:
        title: 1 to 255 characters.
        metadata: A JSON object.
    """

    title: str | None
    metadata: dict[str, Any] | None
