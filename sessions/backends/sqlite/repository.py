"""Sessions in SQLite: one statement each, or a short transaction where SQLite has no single statement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sessions.backends.sql.base import check_version
from sessions.backends.sql.executing import Executor
from sessions.backends.sql.repository import SqlBackend
from sessions.backends.sql.rows import (
    MICROSECOND,
    canonical,
    decode_json,
    encode_json,
    new_row,
)
from sessions.backends.sqlite.administration import SqliteAdministration
from sessions.backends.sqlite.appending import append_together, insert_messages
from sessions.backends.sqlite.editing import SqliteMessages
from sessions.backends.sqlite.patterns import glob_pattern
from sessions.core.identifiers import utc_now
from sessions.core.values import Append, EarlierAttempts, MessageRow, NewSession, SessionChange
from sessions.models.records import stored_time
from sessions.queries import parameters
from sessions.resilience import SQLITE_RETRY_CONFIG

__all__ = ["SqliteBackend"]


class SqliteBackend(SqliteMessages, SqlBackend, SqliteAdministration):
    """Sessions in one SQLite file."""

    DEFAULT_RETRY = SQLITE_RETRY_CONFIG

    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        row = new_row(new)
        # Read first: readers do not wait for the writer, and mostly the session exists.
        found: Sequence[Any] = await self._fetch(self._statements.find_owner, row)
        if not found:

            def store(transaction: Executor) -> Sequence[Any] | None:
                if transaction.write(self._statements.ensure_session, row):
                    self._delete_leftovers(transaction, new)
                    return None
                return transaction.rows(self._statements.find_owner, row)

            stored = await self._write(store)
            if stored is None:
                return True
            found = stored
        [(owner, _)] = found
        return False if owner == new.user_id else None

    async def _create(self, new: NewSession, rows: list[MessageRow]) -> bool:
        if rows or not new.has_new_id:
            return await self._create_with_messages(new, rows)
        return await super()._create(new, rows)

    async def _create_with_messages(self, new: NewSession, rows: list[MessageRow]) -> bool:
        row = new_row(new, len(rows))

        def create(transaction: Executor) -> bool:
            if not transaction.write(self._statements.create_session, row):
                return False
            if not new.has_new_id:
                self._delete_leftovers(transaction, new)
            if rows:
                last = stored_time(row["p_updated_at"])
                insert_messages(transaction, self._statements, new.session_id, rows, last)
            return True

        return await self._write(create)

    def _delete_leftovers(self, transaction: Executor, new: NewSession) -> None:
        """Delete the messages of an earlier session with the id of a new one.

        Any program that opens the file enforces foreign keys only if it says so.
        """
        transaction.write(self._edits.clear_messages, parameters(session_id=new.session_id))

    async def _append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        owned = user_id is not None
        first = utc_now()
        now = first + (len(rows) - 1) * MICROSECOND
        key = parameters(session_id=session_id, user_id=user_id, expected_version=expected_version)
        complete = merge is not None or expected_version is not None
        touch = self._statements.touch_session[owned, complete]

        def append(transaction: Executor) -> bool:
            metadata = None
            if merge is not None:
                state = transaction.rows(self._statements.session_state[owned], key)
                if not state:
                    return False
                [(_, old, _)] = state
                metadata = encode_json(decode_json(old) | merge)
            values = key | parameters(first=first, now=now, steps=len(rows), metadata=metadata)
            touched = transaction.rows(touch, values)
            if not touched:
                return False
            [(last,)] = touched
            insert_messages(transaction, self._statements, session_id, rows, last)
            return True

        return await self._write(append)

    async def append_many(self, appends: Sequence[Append]) -> list[bool]:
        statements = self._statements
        for append in appends:
            # From now on the busy timeout bounds the wait. It may be cancelled until the file is locked.
            append.is_sent = True
        return await self._write(lambda transaction: append_together(transaction, statements, appends))

    async def _change(self, session_id: str, user_id: str | None, change: SessionChange) -> bool:
        if change.metadata is None and change.merge is None and not change.remove:
            return await super()._change(session_id, user_id, change)
        owned = user_id is not None
        key = parameters(session_id=session_id, user_id=user_id)
        statement = self._statements.update_session if owned else self._statements.update_any_session

        def update(transaction: Executor) -> bool:
            state = transaction.rows(self._statements.session_state[owned], key)
            if not state:
                return False
            [(title, old_text, version)] = state
            check_version(version, change.expected_version)
            if change.if_title not in (None, title):
                return False
            # In Python, whose numbers are exact: SQLite's own functions change some.
            old = decode_json(old_text)
            new = change.metadata
            if new is None:
                new = {name: value for name, value in old.items() if name not in change.remove}
                new |= change.merge or {}
            is_same = canonical(new) == canonical(old)
            if is_same and change.title in (None, title):
                return True
            values = key | parameters(
                title=change.title,
                metadata=None if is_same else encode_json(new),
                touch=change.touch,
                now=utc_now(),
            )
            transaction.write(statement, values)
            return True

        return await self._write(update)

    def _patterns(self, terms: Sequence[str]) -> dict[str, Any]:
        return parameters(patterns=json.dumps([glob_pattern(term) for term in terms]))
