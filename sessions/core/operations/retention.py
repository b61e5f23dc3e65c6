"""Deleting and exporting many sessions of one user."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from sessions import validation
from sessions.core.calls import Calls
from sessions.core.values import Position
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
        seen: set[str] = set()
        last: ChatSession | None = None
        work = self._calls.backend.export_sessions
        while found := await self._calls.run("export_user", work, user_id, last, self._calls.batch_size):
            for last in found:
                if last.session_id in seen:
                    continue
                seen.add(last.session_id)
                async for part in self._messages_of(last):
                    yield last, part

    async def _messages_of(self, chat_session: ChatSession) -> AsyncIterator[list[ChatMessage]]:
        work = self._calls.backend.export_messages
        key = chat_session.session_id, chat_session.user_id
        after: Position | None = None
        while True:
            part = await self._calls.run("export_user", work, *key, after, self._calls.batch_size)
            if part or after is None:
                yield [message for message, _ in part]
            if len(part) < self._calls.batch_size:
                return
            _, after = part[-1]
