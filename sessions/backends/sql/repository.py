"""What PostgreSQL and SQLite share: execute a statement, map the rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sessions.backends.sql.messages import SqlMessages
from sessions.backends.sql.rows import (
    in_order,
    list_parameters,
    to_hit,
    to_preview,
    to_session,
    to_sessions,
    where_parameters,
)
from sessions.backends.sql.writing import SqlWrites
from sessions.core.values import EarlierAttempts, Position, Where
from sessions.models import ChatSession, SearchHit, SessionPreview
from sessions.queries import parameters

__all__ = ["SqlBackend"]


class SqlBackend(SqlMessages, SqlWrites):
    """The operations that are the same statement in both dialects."""

    async def get(self, session_id: str, user_id: str) -> ChatSession | None:
        key = parameters(session_id=session_id, user_id=user_id)
        found = await self._fetch(self._statements.get_session, key)
        return to_session(found[0]) if found else None

    async def delete(
        self, session_id: str, user_id: str, expected_version: int | None, earlier: EarlierAttempts
    ) -> bool:
        key = parameters(session_id=session_id, user_id=user_id, expected_version=expected_version)
        if await self._execute(self._statements.delete_session, key):
            return True
        if expected_version is not None:
            await self._has_session(session_id, user_id, expected_version)
        return earlier.may_have_worked

    async def list_page(self, user_id: str, offset: int, limit: int) -> list[ChatSession]:
        page = parameters(user_id=user_id, offset=offset, limit=limit)
        return to_sessions(await self._fetch(self._statements.list_page, page))

    async def list_after(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[ChatSession]:
        statement = self._statements.list_where(after is not None, len(where or ()))
        found = await self._fetch(statement, list_parameters(user_id, after, limit, where))
        return in_order(to_sessions(found), newest_first=True)[:limit]

    async def list_previews(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[SessionPreview]:
        statement = self._statements.list_previews(after is not None, len(where or ()))
        rows = await self._fetch(statement, list_parameters(user_id, after, limit, where))
        previews = {preview.session.session_id: preview for preview in map(to_preview, rows)}
        found = in_order([preview.session for preview in previews.values()], newest_first=True)
        return [previews[chat_session.session_id] for chat_session in found[:limit]]

    async def count(self, user_id: str, where: Where | None) -> int:
        chosen = parameters(user_id=user_id) | where_parameters(where)
        [[count]] = await self._fetch(self._statements.count_where(len(where or ())), chosen)
        return int(count)

    async def search(
        self, user_id: str, terms: Sequence[str], session_id: str | None, after: Position | None, limit: int
    ) -> list[tuple[SearchHit, Position]]:
        statement = self._statements.search[session_id is not None, after is not None]
        part = parameters(user_id=user_id, session_id=session_id, limit=limit) | self._patterns(terms)
        if after is not None:
            timestamp, write_order, message_id = after
            part |= parameters(timestamp=timestamp, write_order=write_order, after_id=message_id)
        return [to_hit(row) for row in await self._fetch(statement, part)]

    @abstractmethod
    def _patterns(self, terms: Sequence[str]) -> dict[str, Any]:
        """Return the parameters that say what to search for."""

    async def delete_beyond(self, user_id: str, keep_last_n: int, limit: int) -> int:
        if keep_last_n == 0:  # Every session is deleted, however new.
            return await self.delete_user(user_id, limit)
        chosen = parameters(user_id=user_id, keep_last_n=keep_last_n, limit=limit)
        return await self._execute(self._statements.keep_latest, chosen)

    async def delete_older(
        self, cutoff: datetime, user_id: str | None, where: Where | None, limit: int
    ) -> int:
        statement = self._statements.delete_older_where(user_id is not None, len(where or ()))
        chosen = parameters(cutoff=cutoff, user_id=user_id, limit=limit) | where_parameters(where)
        return await self._execute(statement, chosen)

    async def delete_user(self, user_id: str, limit: int) -> int:
        chosen = parameters(user_id=user_id, limit=limit)
        return await self._execute(self._statements.delete_user, chosen)

    async def export_sessions(self, user_id: str, after: ChatSession | None, limit: int) -> list[ChatSession]:
        statement = self._statements.export_sessions[after is not None]
        part = parameters(user_id=user_id, limit=limit)
        if after is not None:
            part |= parameters(updated_at=after.updated_at, after_id=after.session_id)
        found = to_sessions(await self._fetch(statement, part))
        return in_order(found, newest_first=False)[:limit]
