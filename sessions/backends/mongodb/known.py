"""What is cached of sessions' documents, so that a hot operation need not look them up."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["KnownSession", "KnownSessions", "known_session"]

MAX_REMEMBERED_SESSIONS = 10_000


class KnownSession(NamedTuple):
    """A session's document, as an operation found it.

    Attributes:
        oid: Its ``_id``, which never changes.
        user_id: Owner, which never changes.
        wide: Token of the last edit of several messages, which an operation verifies; None for none.
    """

    oid: Any
    user_id: str
    wide: Any


def known_session(document: dict[str, Any]) -> KnownSession:
    """Return what is cached of a session's document."""
    return KnownSession(document["_id"], document["user_id"], (document.get("edit") or {}).get("wide"))


class KnownSessions:
    """A cache of sessions by their id.

    An entry of a deleted session matches no document in the operation that uses it.
    """

    def __init__(self) -> None:
        self._found: dict[str, KnownSession] = {}
        self._with_payloads: set[str] = set()

    def remember(self, session_id: str, known: KnownSession) -> None:
        """Cache a session."""
        if len(self._found) >= MAX_REMEMBERED_SESSIONS:
            self._found.clear()
        self._found[session_id] = known

    def recall(self, session_id: str, user_id: str | None) -> KnownSession | None:
        """Return a cached session; None if it is not cached, or if another user owns it."""
        known = self._found.get(session_id)
        return None if known is None or user_id not in (None, known.user_id) else known

    def forget(self, session_id: str) -> None:
        """Remove a session that was deleted or has changed."""
        self._found.pop(session_id, None)

    def clear(self) -> None:
        """Remove all sessions."""
        self._found.clear()
        self._with_payloads.clear()

    def had_payloads(self, session_id: str) -> bool:
        """Return whether each message of a session had a payload when its payloads were read last."""
        return session_id in self._with_payloads

    def note_payloads(self, session_id: str, *, all_have: bool) -> None:
        """Take note of whether each message that was read has a payload."""
        if not all_have:
            self._with_payloads.discard(session_id)
        elif session_id not in self._with_payloads:
            if len(self._with_payloads) >= MAX_REMEMBERED_SESSIONS:
                self._with_payloads.clear()
            self._with_payloads.add(session_id)
