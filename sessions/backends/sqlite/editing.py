"""Changes of messages in SQLite: short transactions, each with the write lock from its beginning."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

from sessions import validation
from sessions.backends.sql.base import check_version
from sessions.backends.sql.executing import Executor
from sessions.backends.sql.messages import SqlMessages
from sessions.backends.sql.rows import (
    MICROSECOND,
    canonical,
    encode_json,
    new_row,
    to_messages,
)
from sessions.backends.sql.transaction import SqlTransaction
from sessions.backends.sqlite.appending import insert_messages
from sessions.backends.sqlite.connection import SqliteConnectionManager
from sessions.core.identifiers import utc_now
from sessions.core.values import MessageChange, MessageRow, NewSession
from sessions.errors import MessageConflictError, SessionConflictError
from sessions.models import UNSET, ChatMessage
from sessions.models.records import stored_time
from sessions.queries import parameters
from sessions.queries.edits import SqliteEdits

__all__ = ["SqliteMessages"]

R = TypeVar("R")


class _Change:
    """A transaction that changes messages of one session.

    Args:
        transaction: Has the write lock.
        key: Parameters of the session.
        updated_at: Of the session, before the change.
        edits: The statements.
    """

    def __init__(
        self, transaction: Executor, key: dict[str, Any], updated_at: datetime, edits: SqliteEdits
    ) -> None:
        self.transaction = transaction
        self.key = key
        self.edits = edits
        self._updated_at = updated_at

    def rows(self, statement: Any, **values: Any) -> Sequence[Any]:
        return self.transaction.rows(statement, self.key | parameters(**values))

    def write(self, statement: Any, **values: Any) -> int:
        return self.transaction.write(statement, self.key | parameters(**values))

    def write_session(self, rows: int = 1) -> datetime:
        """Raise the session's version, and return the time of the last of so many messages."""
        last = max(self._updated_at + MICROSECOND, utc_now()) + (rows - 1) * MICROSECOND
        self.write(self.edits.write_session, updated_at=last)
        return last


class SqliteMessages(SqlMessages):
    """Changes messages that are stored."""

    @property
    def _edits(self) -> SqliteEdits:
        return self._statements.sqlite_edits

    def _write(self, work: Callable[[Executor], R]) -> Awaitable[R]:
        # In a transaction of its own, or the caller's.
        manager: SqliteConnectionManager | SqlTransaction = cast(Any, self.manager)
        return manager.write(work)

    def _edit(
        self,
        session_id: str,
        user_id: str,
        work: Callable[[_Change], R],
        *,
        otherwise: R,
        expected_version: int | None = None,
    ) -> Awaitable[R]:
        """Change a session in a write transaction.

        Args:
            session_id: The session.
            user_id: Its owner.
            work: Changes it.
            otherwise: The result if the user has no such session.
            expected_version: The version that it must have; None for any.

        Raises:
            VersionConflictError: The session has another version than expected.
        """
        key = parameters(session_id=session_id, user_id=user_id)

        def edit(transaction: Executor) -> R:
            found = transaction.rows(self._edits.read_session, key)
            if not found:
                return otherwise
            [(version, updated_at)] = found
            check_version(version, expected_version)
            return work(_Change(transaction, key, updated_at, self._edits))

        return self._write(edit)

    async def update_message(
        self, session_id: str, user_id: str, message_id: str, change: MessageChange
    ) -> bool:
        def update(begun: _Change) -> bool:
            rows = begun.rows(self._statements.get_message, message_id=message_id)
            if not rows:
                return False
            [old] = to_messages(session_id, rows)
            old_payload = rows[0][-1]
            content = old.content if change.content is None else change.content
            payload = old_payload if change.payload is UNSET else change.payload
            metadata = (old.metadata if change.metadata is None else change.metadata) | (change.merge or {})
            is_same = (content, payload) == (old.content, old_payload)
            if is_same and canonical(metadata) == canonical(old.metadata):
                return True
            begun.write_session()
            begun.write(
                self._edits.update_message,
                message_id=message_id,
                content=content,
                metadata=encode_json(metadata),
                payload=payload,
            )
            return True

        return await self._edit(
            session_id, user_id, update, otherwise=False, expected_version=change.expected_version
        )

    async def pop_message(self, session_id: str, user_id: str) -> ChatMessage | None:
        def pop(begun: _Change) -> ChatMessage | None:
            newest = begun.rows(self._statements.history[True, False], limit=1)
            if not newest:
                return None
            [message] = to_messages(session_id, newest)
            begun.write_session()
            begun.write(self._edits.delete_messages, message_ids=[message.message_id])
            return message

        return await self._edit(session_id, user_id, pop, otherwise=None)

    async def delete_messages(self, session_id: str, user_id: str, message_ids: list[str]) -> int:
        if not message_ids:
            return 0

        def delete(begun: _Change) -> int:
            deleted = begun.write(self._edits.delete_messages, message_ids=message_ids)
            if deleted:
                begun.write_session()
            return deleted

        return await self._edit(session_id, user_id, delete, otherwise=0)

    async def delete_messages_from(
        self, session_id: str, user_id: str, message_id: str, inclusive: bool
    ) -> int:
        def delete(begun: _Change) -> int:
            place = begun.rows(self._edits.find_place, message_id=message_id)
            if not place:
                raise validation.no_such_message("message_id")
            [(timestamp, write_order)] = place
            deleted = begun.write(
                self._edits.delete_messages_from[inclusive],
                timestamp=timestamp,
                write_order=write_order,
                message_id=message_id,
            )
            if deleted:
                begun.write_session()
            return deleted

        return await self._edit(session_id, user_id, delete, otherwise=0)

    async def clear_messages(self, session_id: str, user_id: str, expected_version: int | None) -> int:
        def clear(begun: _Change) -> int:
            deleted = begun.write(self._edits.clear_messages)
            if deleted:
                begun.write_session()
            return deleted

        return await self._edit(session_id, user_id, clear, otherwise=0, expected_version=expected_version)

    async def replace_messages(
        self, session_id: str, user_id: str, rows: list[MessageRow], expected_version: int | None
    ) -> bool:
        ids = [row.message_id for row in rows]

        def replace(begun: _Change) -> bool:
            stored = begun.rows(self._statements.find_messages, message_ids=ids) if rows else ()
            # Checked first, so that a caller's transaction, which goes on, is as it was.
            if any(str(owner) != session_id for _, owner, *_ in stored):
                raise MessageConflictError("a message id is taken by a message of another session")
            deleted = begun.write(self._edits.clear_messages)
            if not (rows or deleted):
                return True
            last = begun.write_session(max(len(rows), 1))
            if rows:
                insert_messages(begun.transaction, self._statements, session_id, rows, stored_time(last))
            return True

        return await self._edit(
            session_id, user_id, replace, otherwise=False, expected_version=expected_version
        )

    async def fork(self, session_id: str, user_id: str, through: str | None, new: NewSession) -> bool:
        def fork(transaction: Executor) -> bool:
            stored = transaction.rows(self._statements.find_owner, parameters(session_id=new.session_id))
            if stored:  # By an earlier attempt.
                if tuple(stored[0]) != (new.user_id, new.created_at):
                    raise SessionConflictError("the session id is taken by another session")
                return True
            key = parameters(session_id=session_id, user_id=user_id, message_id=through)
            source = transaction.rows(self._edits.read_session, key)
            if not source:
                return False
            if through is not None and not transaction.rows(self._edits.find_place, key):
                raise validation.no_such_message("through")
            [(_, updated_at)] = source
            copy = new_row(new) | parameters(new_id=new.session_id, updated_at=updated_at + MICROSECOND)
            transaction.write(self._edits.insert_copy, copy)
            copied = key | parameters(new_id=new.session_id)
            transaction.write(self._edits.copy_messages[through is not None], copied)
            return True

        return await self._write(fork)
