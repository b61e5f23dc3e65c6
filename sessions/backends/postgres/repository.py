"""Sessions in PostgreSQL: every operation is one statement in autocommit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable

from sessions.backends.postgres.administration import PostgresAdministration
from sessions.backends.postgres.editing import PostgresMessages
from sessions.backends.postgres.grouped import grouped_texts
from sessions.backends.postgres.patterns import patterns_of
from sessions.backends.sql.repository import SqlBackend
from sessions.backends.sql.rows import (
    MICROSECOND,
    are_complete,
    encode_json,
    message_arrays,
    new_row,
)
from sessions.core.identifiers import utc_now
from sessions.core.values import Append, EarlierAttempts, MessageRow, NewSession
from sessions.queries import parameters
from sessions.resilience import POSTGRES_RETRY_CONFIG

__all__ = ["PostgresBackend"]

# How long a batch waits for the lock of a session. Then its appends are sent one by one.
LOCK_TIMEOUT = "100ms"


class PostgresBackend(PostgresMessages, SqlBackend, PostgresAdministration):
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

    async def _create_with_messages(self, new: NewSession, rows: list[MessageRow]) -> bool:
        values = new_row(new, len(rows)) | message_arrays(rows, complete=True)
        return bool(await self._fetch(self._statements.create_session_with_messages, values))

    async def _append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        owned = user_id is not None
        # The last message is written at this time.
        now = utc_now() + (len(rows) - 1) * MICROSECOND
        values = parameters(session_id=session_id, user_id=user_id, now=now)
        if merge is not None or expected_version is not None or are_complete(rows):
            statement = self._statements.add_complete_messages[owned]
            values |= message_arrays(rows, complete=True) | parameters(
                metadata=None,
                merge=None if merge is None else encode_json(merge),
                remove=None,
                expected_version=expected_version,
            )
        elif len(rows) == 1:
            [row] = rows
            statement = self._statements.add_message[owned]
            values |= parameters(message_id=row.message_id, role=row.role, content=row.content)
        else:
            statement = self._statements.add_messages[owned]
            values |= message_arrays(rows, complete=False)
        return bool(await self._fetch(statement, values))

    async def append_many(self, appends: Sequence[Append]) -> list[bool]:
        places: list[int | None] = []

        def statement() -> tuple[Executable, dict[str, Any]]:
            # Not before there is a connection: until then calls may be cancelled.
            values, places[:] = grouped_texts(appends)
            values |= parameters(now=utc_now(), lock_timeout=LOCK_TIMEOUT)
            return self._statements.append_to_many["p_timestamps" in values], values

        found = {place for (place,) in await self.manager.fetch_made(statement)}
        return [place in found for place in places]

    def _patterns(self, terms: Sequence[str]) -> dict[str, Any]:
        likes, expressions = patterns_of(terms)
        return parameters(likes=likes, expressions=expressions)
