"""Reads of sessions: one, a page of them, how many."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sessions import validation
from sessions.core.calls import Calls
from sessions.core.cursors import decode_cursor, encode_cursor
from sessions.core.identifiers import Identifier
from sessions.models import ChatSession, PreviewPage, SessionPage

__all__ = ["ListOperations"]


class ListOperations:
    """Reads of sessions."""

    _calls: Calls

    async def get_session(self, user_id: str, session_id: Identifier) -> ChatSession | None:
        """Return one session, or None if the user has no such session."""
        session_id, user_id = self._calls.check_key(session_id, user_id)
        return await self._calls.run("get_session", self._calls.backend.get, session_id, user_id)

    async def list_sessions(
        self,
        user_id: str,
        *,
        limit: int = 10,
        cursor: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> SessionPage:
        """Return a page of a user's sessions, newest first; a late page costs as much as the first.

        Under concurrent writes no session is repeated, and none is missed unless it is updated itself.

        Args:
            user_id: Owner.
            limit: Sessions on a page, 1 to 1000.
            cursor: ``next_cursor`` of the previous page; None for the first page.
            where: Only sessions whose metadata has these values: maps top-level keys to a value, or to a
                list of accepted values. None accepts an absent key and null.
        """
        user_id, limit = validation.check_user_id(user_id), validation.check_limit(limit)
        after, accepted = self._after(cursor), validation.check_where(where)
        work = self._calls.backend.list_after
        found = await self._calls.run("list_sessions", work, user_id, after, limit + 1, accepted)
        # One session more than the limit shows whether there is a next page.
        page = found[:limit]
        return SessionPage(page, encode_cursor(page[-1]) if len(found) > limit else None)

    async def list_session_previews(
        self,
        user_id: str,
        *,
        limit: int = 10,
        cursor: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> PreviewPage:
        """Return a page of a user's sessions, newest first, each with its newest message, in one round trip.

        Args:
            user_id: Owner.
            limit: Sessions on a page, 1 to 1000.
            cursor: ``next_cursor`` of the previous page, also of `list_sessions`; None for the first page.
            where: As in `list_sessions`.
        """
        user_id, limit = validation.check_user_id(user_id), validation.check_limit(limit)
        after, accepted = self._after(cursor), validation.check_where(where)
        work = self._calls.backend.list_previews
        found = await self._calls.run("list_session_previews", work, user_id, after, limit + 1, accepted)
        page = found[:limit]
        return PreviewPage(page, encode_cursor(page[-1].session) if len(found) > limit else None)

    async def count_sessions(self, user_id: str, *, where: Mapping[str, Any] | None = None) -> int:
        """Return how many sessions a user has.

        Args:
            user_id: Owner.
            where: As in `list_sessions`.
        """
        user_id, accepted = validation.check_user_id(user_id), validation.check_where(where)
        return await self._calls.run("count_sessions", self._calls.backend.count, user_id, accepted)

    def _after(self, cursor: str | None) -> tuple[datetime, str] | None:
        return None if cursor is None else decode_cursor(cursor, self._calls.check_id)
