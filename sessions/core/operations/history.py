"""Reads of messages."""

from __future__ import annotations

from sessions import validation
from sessions.core.calls import Calls
from sessions.core.identifiers import Identifier
from sessions.models import ChatMessage

__all__ = ["HistoryOperations"]


class HistoryOperations:
    """Reads of messages."""

    _calls: Calls

    async def get_session_history(
        self,
        user_id: str,
        session_id: Identifier,
        *,
        limit: int | None = None,
        before: Identifier | None = None,
    ) -> list[ChatMessage]:
        """Return the messages of a session, oldest first; empty if the user has no such session.

        Args:
            user_id: Owner.
            session_id: The session.
            limit: Only the newest so many, 1 to 1000; None for all.
            before: Only messages before the one with this id.

        Raises:
            InvalidInputError: Also if the user has the session, and it has no message with the id ``before``.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        limit = None if limit is None else validation.check_limit(limit)
        before = None if before is None else self._calls.check_id("before", before)
        work = self._calls.backend.history
        return await self._calls.run("get_session_history", work, session_id, user_id, limit, before)
