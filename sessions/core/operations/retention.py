"""Deleting and exporting many sessions of one user."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sessions import validation
from sessions.core.calls import Calls
from sessions.core.exporting import message_parts, sessions_of_user
from sessions.models import ChatMessage, ChatSession

__all__ = ["RetentionOperations"]


class RetentionOperations:
    """Deletes and exports many sessions of one user."""

    _calls: Calls

    async def keep_latest_sessions(self, user_id: str, keep_last_n: int) -> int:
        """Delete a user's sessions except the newest ones, with their messages; return how many."""
        user_id = validation.check_user_id(user_id)
        keep_last_n = validation.check_count("keep_last_n", keep_last_n)
        work = self._calls.backend.delete_beyond
        return await self._calls.run_batches("keep_latest_sessions", work, user_id, keep_last_n)

    async def delete_user(self, user_id: str) -> int:
        """Delete all of a user's sessions with their messages; return how many sessions."""
        user_id = validation.check_user_id(user_id)
        return await self._calls.run_batches("delete_user", self._calls.backend.delete_user, user_id)

    async def export_user(self, user_id: str) -> AsyncGenerator[tuple[ChatSession, list[ChatMessage]], None]:
        """Yield every session of a user with its messages, oldest first, in constant memory.

        A session with more than 1000 messages is yielded in several consecutive parts of at most 1000
        messages. A session that is updated concurrently is yielded exactly once.

        Args:
            user_id: Owner.
        """
        user_id = validation.check_user_id(user_id)
        async for chat_session in sessions_of_user(self._calls, "export_user", user_id):
            async for part in message_parts(self._calls, "export_user", chat_session):
                yield chat_session, part
