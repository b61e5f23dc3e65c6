"""Sessions in SQLite: one statement each, or a short transaction where SQLite has no single statement."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.backends.sql.repository import SqlBackend
from sessions.backends.sql.rows import new_row
from sessions.backends.sql.transaction import SqlTransaction
from sessions.backends.sqlite.connection import SqliteConnectionManager
from sessions.backends.sqlite.patterns import glob_pattern
from sessions.core.identifiers import utc_now
from sessions.core.values import EarlierAttempts, MessageRow, NewSession
from sessions.queries import parameters
from sessions.resilience import SQLITE_RETRY_CONFIG

__all__ = ["SqliteBackend"]


class SqliteBackend(SqlBackend):
    """Sessions in one SQLite file."""

    DEFAULT_RETRY = SQLITE_RETRY_CONFIG

    def _write(self) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        # A transaction of its own, or the caller's.
        manager: SqliteConnectionManager | SqlTransaction = cast(Any, self.manager)
        return manager.write()

    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        row = new_row(new)
        # Read first: readers do not wait for the writer, and mostly the session exists.
        found: Sequence[Any] = await self._fetch(self._statements.find_owner, row)
        if not found:
            async with self._write() as connection:
                if (await connection.execute(self._statements.ensure_session, row)).rowcount:
                    return True
                found = (await connection.execute(self._statements.find_owner, row)).all()
        [(owner, _)] = found
        return False if owner == new.user_id else None

    async def _append(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        touch = self._statements.touch_session[user_id is not None]
        key = parameters(session_id=session_id, user_id=user_id, now=utc_now())
        async with self._write() as connection:
            touched = (await connection.execute(touch, key)).first()
            if touched is None:
                return False
            messages = [
                parameters(
                    message_id=row.message_id,
                    session_id=session_id,
                    role=row.role,
                    content=row.content,
                    timestamp=touched.updated_at,
                )
                for row in rows
            ]
            if messages:
                await connection.execute(self._statements.insert_message, messages)
            return True

    def _patterns(self, terms: Sequence[str]) -> dict[str, Any]:
        return parameters(patterns=json.dumps([glob_pattern(term) for term in terms]))
