"""How a session of ADK tells which state of the stored one its caller knows."""

from __future__ import annotations

from typing import NamedTuple

from google.adk.errors import StaleSessionError
from google.adk.sessions import Session

from sessions.integrations.snapshots import last_message
from sessions.models import ChatSession

__all__ = ["DEFAULT_TITLE", "FIRST_VERSION", "Marker", "stale"]

DEFAULT_TITLE = "New Chat"
# Key of a session's metadata: the version that it began with, which tells it from a session that had its id.
FIRST_VERSION = "first_version"


class Marker(NamedTuple):
    """What a session carries of the stored one, to detect that another writer came first.

    Attributes:
        first: Version that the stored session began with.
        version: Its version, which a new title changes, too.
        is_titled: Whether it has a title.
        last: Id of the message with the event that was stored last; empty for none.
    """

    first: int
    version: int
    is_titled: bool
    last: str

    @classmethod
    def of(cls, chat_session: ChatSession) -> Marker:
        """Return the marker of a stored session."""
        first, is_titled = chat_session.metadata.get(FIRST_VERSION, 0), chat_session.title != DEFAULT_TITLE
        return cls(first, chat_session.version, is_titled, last_message(chat_session))

    def has_events_of(self, chat_session: ChatSession) -> bool:
        """Return whether no event was stored since, in this session."""
        found = Marker.of(chat_session)
        return (found.first, found.last) == (self.first, self.last)

    # ADK has this attribute for the purpose, and copies it with a session.

    @classmethod
    def on(cls, session: Session) -> Marker | None:
        """Return the marker of a session; None if it is not from a repository."""
        parts = (session._storage_update_marker or "").split("/")
        if len(parts) != len(cls._fields):
            return None
        first, version, titled, last = parts
        return cls(int(first), int(version), titled == "titled", last)

    def put_on(self, session: Session) -> None:
        """Let a session carry this marker."""
        titled = "titled" if self.is_titled else ""
        session._storage_update_marker = f"{self.first}/{self.version}/{titled}/{self.last}"


def stale() -> StaleSessionError:
    """Return the error for a session with a marker that is not of the stored one."""
    return StaleSessionError(
        "The session has been modified in storage since it was loaded. "
        "It is a stale session: get it again before you append more events."
    )
