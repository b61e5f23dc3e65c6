"""Pages of lists and searches, and their entries."""

from __future__ import annotations

from dataclasses import dataclass

from sessions.models.message import ChatMessage
from sessions.models.session import ChatSession

__all__ = ["PreviewPage", "SearchHit", "SearchPage", "SessionPreview"]


@dataclass(slots=True, frozen=True)
class SessionPreview:
    """A session with its newest message.

    Attributes:
        session: The session.
        last_message: Its newest message; None if it has none.
    """

    session: ChatSession
    last_message: ChatMessage | None


@dataclass(slots=True, frozen=True)
class PreviewPage:
    """One page of a user's sessions with their newest messages, newest session first.

    Attributes:
        previews: At most ``limit`` previews.
        next_cursor: Pass it to the next call; None on the last page.
    """

    previews: list[SessionPreview]
    next_cursor: str | None


@dataclass(slots=True, frozen=True)
class SearchHit:
    """A message that a search found.

    Attributes:
        session: The session that the message belongs to.
        message: The message.
    """

    session: ChatSession
    message: ChatMessage


@dataclass(slots=True, frozen=True)
class SearchPage:
    """One page of the messages that a search found, newest first.

    Attributes:
        hits: At most ``limit`` hits.
        next_cursor: Pass it to the next call; None on the last page.
    """

    hits: list[SearchHit]
    next_cursor: str | None
