"""Changes of messages in SQLite: short transactions, each with the write lock from its beginning."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from sessions import validation
from sessions.backends.sql.base import check_version
from sessions.backends.sql.messages import SqlMessages
from sessions.backends.sql.rows import (
    MICROSECOND,
    canonical,
    encode_json,
    message_rows,
    new_row,
    to_messages,
)
from sessions.backends.sql.transaction import SqlTransaction
from sessions.backends.sql.writing import IDS_AT_ONCE
from sessions.backends.sqlite.connection import SqliteConnectionManager
from sessions.core.identifiers import utc_now
from sessions.core.values import MessageChange, MessageRow, NewSession
from sessions.errors import MessageConflictError, SessionConflictError
from sessions.models import UNSET, ChatMessage
from sessions.queries import parameters
from sessions.queries.edits import SqliteEdits

__all__ = ["SqliteMessages"]


class _Change:
    """A transaction that changes messages of one session.

    Args:
        connection: In a transaction with the write lock.
        key: Parameters of the session.
        updated_at: Of the session, before the change.
        edits: The statements.
    """

    def __init__(
        self, connection: AsyncConnection, key: dict[str, Any], updated_at: datetime, edits: SqliteEdits
    ) -> None:
        self.connection = connection
        self.key = key
        self.edits = edits
        self._updated_at = updated_at

    async def execute(self, statement: Any, **values: Any) -> Any:
        return await self.connection.execute(statement, self.key | parameters(**values))

    async def write_session(self, rows: int = 1) -> datetime:
        """Raise the session's version, and return the time of the last of so many messages."""
        last = max(self._updated_at + MICROSECOND, utc_now()) + (rows - 1) * MICROSECOND
        await self.execute(self.edits.write_session, updated_at=last)
        return last


class SqliteMessages(SqlMessages):
    """Changes messages that are stored."""

    @property
    def _edits(self) -> SqliteEdits:
        return self._statements.sqlite_edits

    def _write(self) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        # A transaction of its own, or the caller's.
        manager: SqliteConnectionManager | SqlTransaction = cast(Any, self.manager)
        return manager.write()

    async def _begin(
        self,
        connection: AsyncConnection,
        session_id: str,
        user_id: str,
        expected_version: int | None = None,
    ) -> _Change | None:
        """Return the change of a session; None if the user has no such session.

        Raises:
            VersionConflictError: The session has another version than expected.
        """
        key = parameters(session_id=session_id, user_id=user_id)
        found = (await connection.execute(self._edits.read_session, key)).first()
        if found is None:
            return None
        check_version(found.version, expected_version)
        return _Change(connection, key, found.updated_at, self._edits)

    async def update_message(
        self, session_id: str, user_id: str, message_id: str, change: MessageChange
    ) -> bool:
        async with self._write() as connection:
            begun = await self._begin(connection, session_id, user_id, change.expected_version)
            if begun is None:
                return False
            rows = (await begun.execute(self._statements.get_message, message_id=message_id)).all()
            if not rows:
                return False
            [old] = to_messages(session_id, rows)
            old_payload = rows[0].payload
            content = old.content if change.content is None else change.content
            payload = old_payload if change.payload is UNSET else change.payload
            metadata = (old.metadata if change.metadata is None else change.metadata) | (change.merge or {})
            is_same = (content, payload) == (old.content, old_payload)
            if is_same and canonical(metadata) == canonical(old.metadata):
                return True
            await begun.write_session()
            await begun.execute(
                self._edits.update_message,
                message_id=message_id,
                content=content,
                metadata=encode_json(metadata),
                payload=payload,
            )
            return True

    async def pop_message(self, session_id: str, user_id: str) -> ChatMessage | None:
        async with self._write() as connection:
            begun = await self._begin(connection, session_id, user_id)
            if begun is None:
                return None
            newest = (await begun.execute(self._statements.history[True, False], limit=1)).all()
            if not newest:
                return None
            [message] = to_messages(session_id, newest)
            await begun.write_session()
            await begun.execute(self._edits.delete_messages, message_ids=[message.message_id])
            return message

    async def delete_messages(self, session_id: str, user_id: str, message_ids: list[str]) -> int:
        if not message_ids:
            return 0
        async with self._write() as connection:
            begun = await self._begin(connection, session_id, user_id)
            if begun is None:
                return 0
            deleted = 0
            for start in range(0, len(message_ids), IDS_AT_ONCE):
                ids = message_ids[start : start + IDS_AT_ONCE]
                deleted += (await begun.execute(self._edits.delete_messages, message_ids=ids)).rowcount
            if deleted:
                await begun.write_session()
            return deleted

    async def delete_messages_from(
        self, session_id: str, user_id: str, message_id: str, inclusive: bool
    ) -> int:
        async with self._write() as connection:
            begun = await self._begin(connection, session_id, user_id)
            if begun is None:
                return 0
            place = (await begun.execute(self._edits.find_place, message_id=message_id)).first()
            if place is None:
                raise validation.no_such_message("message_id")
            result = await begun.execute(
                self._edits.delete_messages_from[inclusive],
                timestamp=place.timestamp,
                write_order=place.write_order,
                message_id=message_id,
            )
            if result.rowcount:
                await begun.write_session()
            return int(result.rowcount)

    async def clear_messages(self, session_id: str, user_id: str, expected_version: int | None) -> int:
        async with self._write() as connection:
            begun = await self._begin(connection, session_id, user_id, expected_version)
            if begun is None:
                return 0
            deleted = int((await begun.execute(self._edits.clear_messages)).rowcount)
            if deleted:
                await begun.write_session()
            return deleted

    async def replace_messages(
        self, session_id: str, user_id: str, rows: list[MessageRow], expected_version: int | None
    ) -> bool:
        async with self._write() as connection:
            begun = await self._begin(connection, session_id, user_id, expected_version)
            if begun is None:
                return False
            for start in range(0, len(rows), IDS_AT_ONCE):
                ids = [row.message_id for row in rows[start : start + IDS_AT_ONCE]]
                stored = await begun.execute(self._statements.find_messages, message_ids=ids)
                # Checked first, so that a caller's transaction, which goes on, is as it was.
                if any(str(owner) != session_id for _, owner, *_ in stored):
                    raise MessageConflictError("a message id is taken by a message of another session")
            deleted = (await begun.execute(self._edits.clear_messages)).rowcount
            if not (rows or deleted):
                return True
            last = await begun.write_session(max(len(rows), 1))
            if rows:
                values = message_rows(session_id, rows, last, complete=True)
                await connection.execute(self._statements.insert_message[True], values)
            return True

    async def fork(self, session_id: str, user_id: str, through: str | None, new: NewSession) -> bool:
        async with self._write() as connection:
            key = parameters(session_id=new.session_id)
            stored = (await connection.execute(self._statements.find_owner, key)).first()
            if stored is not None:  # By an earlier attempt.
                if tuple(stored) != (new.user_id, new.created_at):
                    raise SessionConflictError("the session id is taken by another session")
                return True
            key = parameters(session_id=session_id, user_id=user_id, message_id=through)
            source = (await connection.execute(self._edits.read_session, key)).first()
            if source is None:
                return False
            if (
                through is not None
                and (await connection.execute(self._edits.find_place, key)).first() is None
            ):
                raise validation.no_such_message("through")
            copy = new_row(new) | parameters(
                new_id=new.session_id, updated_at=source.updated_at + MICROSECOND
            )
            await connection.execute(self._edits.insert_copy, copy)
            copied = key | parameters(new_id=new.session_id)
            await connection.execute(self._edits.copy_messages[through is not None], copied)
            return True
