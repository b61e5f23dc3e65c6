"""One turn of a conversation, as every backend returns it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = ["ChatMessage"]


@dataclass(slots=True)
class ChatMessage:
    """One message of a session.

    Attributes:
        message_id: Unique id; a UUIDv7 string for messages this package wrote.
        session_id: Session it belongs to.
        role: ``"user"`` or ``"assistant"``.
        content: Text, may be empty.
        timestamp: Timezone-aware, UTC. History is ordered by ``(timestamp, message_id)``.
    """

    message_id: str
    session_id: str
    role: str
    content: str
    timestamp: datetime
