"""Reads of messages: a history, one message, how many, a search."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sessions import validation
from sessions.core.calls import Calls
from sessions.core.identifiers import Identifier
from sessions.core.values import HistoryRange
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
        after: Identifier | None = None,
        since: datetime | None = None,
    ) -> list[ChatMessage]:
        """Return the messages of a session, oldest first; empty if the user has no such session.

        Args:
            user_id: Owner.
            session_id: The session.
            limit: At most so many: alone or with ``before`` the newest, with ``after`` or ``since`` the
                oldest. 0 returns none, None returns all.
            before: Only messages before the one with this id.
            after: Only messages after the one with this id, to page forwards.
            since: Only messages with this timestamp, timezone-aware, or a later one.

        Raises:
            InvalidInputError: Also if more than one of ``before``, ``after`` and ``since`` is given, or if
                the user has the session, and it has no message with the id ``before`` or ``after``.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        part = HistoryRange(
            *validation.check_history_range(limit, before, after, since, self._calls.check_id)
        )
        if part.limit == 0:
            return []
        work = self._calls.backend.history
        return await self._calls.run("get_session_history", work, session_id, user_id, part)

    async def get_session_payloads(
        self, user_id: str, session_id: Identifier, *, limit: int | None = None
    ) -> list[Any]:
        """Return the payloads of a session's messages, oldest first; of a message without one the message.

        For stores whose messages are all in their payloads: it takes about half as long as
        `get_session_history`, and less on Redis.

        Args:
            user_id: Owner.
            session_id: The session.
            limit: At most so many, the newest. 0 returns none, None returns all.

        Returns:
            For each message its payload, or a `ChatMessage` if it has none; empty if the user has no such
            session.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        limit, *_ = validation.check_history_range(limit, None, None, None, self._calls.check_id)
        if limit == 0:
            return []
        return await self._calls.read_payloads("get_session_payloads", session_id, user_id, limit)

    async def get_message(
        self, user_id: str, session_id: Identifier, message_id: Identifier
    ) -> ChatMessage | None:
        """Return one message, or None if the user's session has no such message."""
        session_id, user_id = self._calls.check_key(session_id, user_id)
        message_id = self._calls.check_id("message_id", message_id)
        work = self._calls.backend.get_message
        return await self._calls.run("get_message", work, session_id, user_id, message_id)

    async def count_messages(self, user_id: str, session_id: Identifier) -> int:
        """Return how many messages a session has; 0 if the user has no such session."""
        key = self._calls.check_key(session_id, user_id)
        return await self._calls.run("count_messages", self._calls.backend.count_messages, *key)
