"""Reads of sessions: one, a page of them, how many."""

from __future__ import annotations

from sessions import validation
from sessions.core.calls import Calls
from sessions.core.cursors import decode_cursor, encode_cursor
from sessions.core.identifiers import Identifier
from sessions.models import ChatSession, SessionPage

__all__ = ["ListOperations"]


class ListOperations:
    """Reads of sessions."""

    _calls: Calls

    async def get_session(self, user_id: str, session_id: Identifier) -> ChatSession | None:
        """Return one session, or None if the user has no such session."""
        session_id, user_id = self._calls.check_key(session_id, user_id)
        return await self._calls.run("get_session", self._calls.backend.get, session_id, user_id)

    async def list_sessions(self, user_id: str, *, limit: int = 10, cursor: str | None = None) -> SessionPage:
        """Return the next page of a user's sessions, newest first, as cheaply for any page.

        While others write, no session comes twice, and none is missed that was not itself changed.

        Args:
            user_id: Owner.
            limit: Sessions on a page, 1 to 1000.
            cursor: ``next_cursor`` of the page before; None for the first.
        """
        user_id, limit = validation.check_user_id(user_id), validation.check_limit(limit)
        after = None if cursor is None else decode_cursor(cursor, self._calls.check_id)
        work = self._calls.backend.list_after
        found = await self._calls.run("list_sessions", work, user_id, after, limit + 1)
        # One more than asked for tells whether there is a next page.
        page = found[:limit]
        return SessionPage(page, encode_cursor(page[-1]) if len(found) > limit else None)

    async def count_sessions(self, user_id: str) -> int:
        """Return how many sessions a user has."""
        user_id = validation.check_user_id(user_id)
        return await self._calls.run("count_sessions", self._calls.backend.count, user_id)
