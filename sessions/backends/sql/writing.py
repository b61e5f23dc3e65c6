"""Writes of sessions and new messages in SQL: all or none, each message once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from sessions.backends.sql.base import SqlOperations
from sessions.backends.sql.rows import encode_json, new_row
from sessions.core.identifiers import utc_now
from sessions.core.values import MessageRow, NewSession, SessionChange
from sessions.errors import MessageConflictError, SessionConflictError, VersionConflictError
from sessions.queries import parameters

__all__ = ["SqlWrites"]


class SqlWrites(SqlOperations):
    """Stores and changes sessions, and appends messages."""

    async def create(self, new: NewSession, rows: list[MessageRow]) -> None:
        is_taken = False
        try:
            if rows and self._is_borrowed:
                # A duplicate key would abort the caller's transaction.
                is_taken = bool(await self._stored(rows))
            if not is_taken and await self._create(new, rows):
                return
        except Exception as error:
            if not (rows and self.manager.is_duplicate_key(error)):
                raise
            is_taken = True
        # Outside of `except`, so that the driver's error, which may quote the row, is not its context.
        if is_taken:
            raise MessageConflictError("a message id is taken by another message")
        found = await self._fetch(self._statements.find_owner, parameters(session_id=new.session_id))
        # An earlier attempt may have stored it, and another caller may have deleted it since.
        if found and tuple(found[0]) != (new.user_id, new.created_at):
            raise SessionConflictError("the session id is taken by another session")

    async def _create(self, new: NewSession, rows: list[MessageRow]) -> bool:
        """Store a session with its messages; return whether it did, or else the id is taken."""
        if not rows:
            return await self._execute(self._statements.create_session, new_row(new)) > 0
        return await self._create_with_messages(new, rows)

    @abstractmethod
    async def _create_with_messages(self, new: NewSession, rows: list[MessageRow]) -> bool:
        """Do as `_create` does, with at least one message."""

    async def append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        if not rows:
            if merge is None:
                return await self._has_session(session_id, user_id, expected_version)
            change = SessionChange(merge=merge, expected_version=expected_version)
            return await self._change(session_id, user_id, change)
        missing: list[MessageRow] | None = rows
        if self._is_borrowed:
            # A duplicate key would abort the caller's transaction.
            missing = await self._not_stored(session_id, user_id, rows)
        while missing:
            is_duplicate = False
            try:
                if await self._append(session_id, user_id, missing, merge, expected_version):
                    return True
            except Exception as error:
                if not self.manager.is_duplicate_key(error):
                    raise
                is_duplicate = True
            if not is_duplicate and expected_version is None:
                return False
            missing = await self._not_stored(session_id, user_id, rows)
            if missing and not is_duplicate:
                raise VersionConflictError("the session has another version than expected")
        return missing is not None

    @abstractmethod
    async def _append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        """Append messages that are not stored yet, all or none, and bump the session.

        Returns whether the session exists, with the version that is expected, if any.
        """

    async def _not_stored(
        self, session_id: str, user_id: str | None, rows: list[MessageRow]
    ) -> list[MessageRow] | None:
        """Return the messages that are not stored yet; None if the session does not exist.

        Raises:
            MessageConflictError: Another message is stored under one of the ids.
        """
        if len({row.message_id for row in rows}) < len(rows):
            raise MessageConflictError("a message id occurs twice in one batch")
        ids = [row.message_id for row in rows]
        key = parameters(session_id=session_id, user_id=user_id, message_ids=ids)
        found = await self._fetch(self._statements.find_stored[user_id is not None], key)
        if not found:
            return None
        stored: dict[str, tuple[str, str, str]] = {
            str(message_id): (str(owner), *message)
            for _, message_id, owner, *message in found
            if message_id is not None
        }
        for row in rows:
            if stored.get(row.message_id, same := (session_id, row.role, row.content)) != same:
                raise MessageConflictError(f"the message id {row.message_id} is taken by another message")
        return [row for row in rows if row.message_id not in stored]

    async def _stored(self, rows: list[MessageRow]) -> list[Any]:
        """Return the messages that are stored under the ids, of any session."""
        ids = parameters(message_ids=[row.message_id for row in rows])
        return list(await self._fetch(self._statements.find_messages, ids))

    async def update(self, session_id: str, user_id: str, change: SessionChange) -> bool:
        return await self._change(session_id, user_id, change)

    async def _change(self, session_id: str, user_id: str | None, change: SessionChange) -> bool:
        """Do as `update` does, for the session of a user or of any.

        One statement, which sets what PostgreSQL changes by itself.
        """
        owned = user_id is not None
        statement = self._statements.update_session if owned else self._statements.update_any_session
        values = parameters(
            session_id=session_id,
            user_id=user_id,
            title=change.title,
            metadata=None if change.metadata is None else encode_json(change.metadata),
            merge=None if change.merge is None else encode_json(change.merge),
            remove=list(change.remove) or None,
            touch=change.touch,
            if_title=change.if_title,
            expected_version=change.expected_version,
            now=utc_now(),
        )
        if await self._execute(statement, values):
            return True
        # The session is absent, or has another version, or else another title.
        if change.expected_version is not None:
            await self._has_session(session_id, user_id, change.expected_version)
        return False
