"""Sessions in PostgreSQL: every operation is one statement in autocommit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sessions.backends.postgres.patterns import patterns_of
from sessions.backends.sql.repository import SqlBackend
from sessions.backends.sql.rows import new_row
from sessions.core.identifiers import utc_now
from sessions.core.values import EarlierAttempts, MessageRow, NewSession
from sessions.queries import parameters
from sessions.resilience import POSTGRES_RETRY_CONFIG

__all__ = ["PostgresBackend"]


class PostgresBackend(SqlBackend):
    """Sessions in PostgreSQL."""

    DEFAULT_RETRY = POSTGRES_RETRY_CONFIG

    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        while True:
            found = await self._fetch(self._statements.ensure_session, new_row(new))
            # No row: another caller's insert won the race after this statement's snapshot was taken.
            if found:
                break
        user_id, created_at, is_new = found[0]
        if user_id != new.user_id:
            return None
        return is_new or (earlier.failed > 0 and created_at == new.created_at)

    async def _append(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        values = parameters(session_id=session_id, user_id=user_id, now=utc_now())
        if len(rows) == 1:
            [row] = rows
            values |= parameters(message_id=row.message_id, role=row.role, content=row.content)
            return bool(await self._fetch(self._statements.add_message[user_id is not None], values))
        values |= parameters(
            message_ids=[row.message_id for row in rows],
            roles=[row.role for row in rows],
            contents=[row.content for row in rows],
        )
        return bool(await self._fetch(self._statements.add_messages[user_id is not None], values))

    def _patterns(self, terms: Sequence[str]) -> dict[str, Any]:
        likes, expressions = patterns_of(terms)
        return parameters(likes=likes, expressions=expressions)
