"""The collections of the current operation, and the sort orders of their indexes."""

from __future__ import annotations

from typing import Any

from beanie import SortDirection

from sessions.models.documents import ChatMessageDocument, ChatSessionDocument

__all__ = ["DOWN", "NEWEST_FIRST", "UP", "Filter", "chat_messages", "chat_sessions", "chat_unfinished"]

Filter = dict[str, Any]

UP, DOWN = SortDirection.ASCENDING, SortDirection.DESCENDING
NEWEST_FIRST = [("updated_at", DOWN), ("session_id", UP)]


def chat_sessions() -> Any:
    """Return the sessions' collection of the current operation."""
    return ChatSessionDocument.get_pymongo_collection()


def chat_messages() -> Any:
    """Return the messages' collection of the current operation."""
    return ChatMessageDocument.get_pymongo_collection()


def chat_unfinished() -> Any:
    """Return the collection of notes on operations of several writes; created on first use."""
    messages = chat_messages()
    options = {"codec_options": messages.codec_options, "write_concern": messages.write_concern}
    return messages.database.get_collection("chat_unfinished", **options)
