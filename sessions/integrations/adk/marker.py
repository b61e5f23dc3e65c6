"""How a session of ADK tells which state of the stored one its caller knows."""

from __future__ import annotations

from typing import NamedTuple

from google.adk.sessions import Session

from sessions.integrations.snapshots import last_message
from sessions.models import ChatSession

__all__ = ["DEFAULT_TITLE", "Marker"]

DEFAULT_TITLE = "New Chat"


class Marker(NamedTuple):
    """What a session carries of the stored one, to detect that another writer came first.

    Attributes:
        version: Version of the stored session, which a new title changes, too.
        is_titled: Whether it has a title.
        last: Id of the message with the event that was stored last; empty for none.
    """

    version: int
    is_titled: bool
    last: str

    @classmethod
    def of(cls, chat_session: ChatSession) -> Marker:
        """Return the marker of a stored session."""
        return cls(chat_session.version, chat_session.title != DEFAULT_TITLE, last_message(chat_session))

    # ADK has this attribute for the purpose, and copies it with a session.

    @classmethod
    def on(cls, session: Session) -> Marker | None:
        """Return the marker of a session; None if it is not from a repository."""
        version, *rest = (session._storage_update_marker or "").split("/")
        return cls(int(version), rest[0] == "titled", rest[1]) if len(rest) == 2 else None

    def put_on(self, session: Session) -> None:
        """Let a session carry this marker."""
        session._storage_update_marker = f"{self.version}/{'titled' if self.is_titled else ''}/{self.last}"
