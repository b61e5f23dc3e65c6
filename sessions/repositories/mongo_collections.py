"""MongoDB's two collections as the operation at hand sees them, and the orders of their indexes."""

from __future__ import annotations

from typing import Any

from beanie import SortDirection

from sessions.models.documents import ChatMessageDocument, ChatSessionDocument

__all__ = ["DOWN", "NEWEST_FIRST", "UP", "Filter", "chat_messages", "chat_sessions"]

Filter = dict[str, Any]

UP, DOWN = SortDirection.ASCENDING, SortDirection.DESCENDING
NEWEST_FIRST = [("updated_at", DOWN), ("session_id", UP)]


def chat_sessions() -> Any:
    """Return the sessions' collection of the operation at hand."""
    return ChatSessionDocument.get_pymongo_collection()


def chat_messages() -> Any:
    """Return the messages' collection of the operation at hand."""
    return ChatMessageDocument.get_pymongo_collection()
