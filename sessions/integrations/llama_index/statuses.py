"""The status of a message, in its metadata.

A message that is archived *through* is archived with all before it, so that one change of one message, which
is atomic, archives any number of them. One that is deleted is no longer shown, and about to be removed.
"""

from __future__ import annotations

from sessions.models import ChatMessage

__all__ = ["ARCHIVED", "ARCHIVED_THROUGH", "DELETED", "STATUS", "active_of"]

STATUS = "status"
ARCHIVED = "archived"
ARCHIVED_THROUGH = "archived_through"
DELETED = "deleted"


def active_of(messages: list[ChatMessage]) -> tuple[list[ChatMessage], bool]:
    """Return the active ones of messages that follow each other, and whether all before them are archived."""
    if not any(STATUS in each.metadata for each in messages):
        return messages, False
    active: list[ChatMessage] = []
    for message in reversed(messages):
        status = message.metadata.get(STATUS)
        if status == ARCHIVED_THROUGH:
            return active[::-1], True
        if status not in (ARCHIVED, DELETED):
            active.append(message)
    return active[::-1], False
