"""Changes of messages in PostgreSQL: one statement each, and a second one if another writer came first."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Executable

from sessions import validation
from sessions.backends.sql.base import check_version
from sessions.backends.sql.messages import SqlMessages
from sessions.backends.sql.rows import MICROSECOND, encode_json, new_row, to_messages
from sessions.core.identifiers import utc_now
from sessions.core.values import MessageChange, MessageRow, NewSession
from sessions.errors import MessageConflictError, SessionConflictError
from sessions.models import UNSET, ChatMessage
from sessions.queries import parameters
from sessions.queries.edits import PostgresEdits

__all__ = ["PostgresMessages"]


class PostgresMessages(SqlMessages):
    """Changes messages that are stored; see `sessions.queries.editing`."""

    manager: Any

    @property
    def _edits(self) -> PostgresEdits:
        return self._statements.postgres_edits

    async def _edit(
        self,
        statement: Executable,
        session_id: str,
        user_id: str,
        expected_version: int | None = None,
        *,
        steps: int = 1,
        **values: Any,
    ) -> tuple[Any, ...] | None:
        """Return a statement's columns after the first three; None if the user has no such session.

        Raises:
            VersionConflictError: The session has another version than expected; nothing is changed.
        """
        row = parameters(
            session_id=session_id,
            user_id=user_id,
            expected_version=expected_version,
            now=utc_now() + (steps - 1) * MICROSECOND,
            **values,
        )
        found = await self.manager.fetch(statement, row)
        if found and _is_outdated(found[0], expected_version):
            # Not repeated without the lock: behind a queue of writers it might never be first.
            found = await self.manager.fetch_locked(self._edits.lock_session, statement, row)
        if not found:
            return None
        version, _, _, *columns = found[0]
        check_version(version, expected_version)
        return tuple(columns)

    async def update_message(
        self, session_id: str, user_id: str, message_id: str, change: MessageChange
    ) -> bool:
        found = await self._edit(
            self._edits.update_message,
            session_id,
            user_id,
            change.expected_version,
            message_id=message_id,
            content=change.content,
            metadata=None if change.metadata is None else encode_json(change.metadata),
            merge=None if change.merge is None else encode_json(change.merge),
            set_payload=change.payload is not UNSET,
            payload=None if change.payload is UNSET else change.payload,
        )
        return found is not None and bool(found[0])

    async def pop_message(self, session_id: str, user_id: str) -> ChatMessage | None:
        found = await self._edit(self._edits.pop_message, session_id, user_id)
        if found is None or found[0] is None:
            return None
        [message] = to_messages(session_id, [found])
        return message

    async def delete_messages(self, session_id: str, user_id: str, message_ids: list[str]) -> int:
        if not message_ids:
            return 0
        found = await self._edit(self._edits.delete_messages, session_id, user_id, message_ids=message_ids)
        return 0 if found is None else int(found[0])

    async def delete_messages_from(
        self, session_id: str, user_id: str, message_id: str, inclusive: bool
    ) -> int:
        statement = self._edits.delete_messages_from[inclusive]
        found = await self._edit(statement, session_id, user_id, message_id=message_id)
        if found is None:
            return 0
        deleted, has_message = found
        if not has_message:
            raise validation.no_such_message("message_id")
        return int(deleted)

    async def clear_messages(self, session_id: str, user_id: str, expected_version: int | None) -> int:
        found = await self._edit(self._edits.clear_messages, session_id, user_id, expected_version)
        return 0 if found is None else int(found[0])

    async def replace_messages(
        self, session_id: str, user_id: str, rows: list[MessageRow], expected_version: int | None
    ) -> bool:
        found: Any = None
        try:
            found = await self._edit(
                self._edits.replace_messages,
                session_id,
                user_id,
                expected_version,
                steps=max(len(rows), 1),
                message_ids=[row.message_id for row in rows],
                roles=[row.role for row in rows],
                contents=[row.content for row in rows],
                timestamps=[None if row.timestamp is None else row.timestamp.isoformat() for row in rows],
                metadata=[encode_json(row.metadata or {}) for row in rows],
                payloads=[row.payload for row in rows],
            )
        except Exception as error:
            if not self.manager.is_duplicate_key(error):
                raise
            is_taken = True
        else:
            is_taken = found is not None and found[0]
        # Outside of `except`: the driver's error quotes the row.
        if is_taken:
            raise MessageConflictError("a message id is taken by a message of another session")
        return found is not None

    async def fork(self, session_id: str, user_id: str, through: str | None, new: NewSession) -> bool:
        statement = self._edits.fork_session[through is not None]
        values = new_row(new) | parameters(session_id=session_id, new_id=new.session_id, message_id=through)
        found = await self.manager.fetch(statement, values)
        if found and found[0][1]:
            return True
        # An earlier attempt may have stored it, and the other session may have been deleted since.
        key = parameters(session_id=new.session_id)
        stored = await self.manager.fetch(self._statements.find_owner, key)
        if stored:
            if tuple(stored[0]) != (new.user_id, new.created_at):
                raise SessionConflictError("the session id is taken by another session")
            return True
        if found:
            raise validation.no_such_message("through")
        return False


def _is_outdated(row: Any, expected_version: int | None) -> bool:
    """Return whether messages were chosen, and another writer changed the session before they were locked."""
    version, is_chosen, is_written, *_ = row
    return is_chosen and not is_written and expected_version in (None, version)
