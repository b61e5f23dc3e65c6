"""What PostgreSQL and SQLite share: execute a statement, map the rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Executable

from sessions import validation
from sessions.backends.sql.engine import SqlConnectionManager
from sessions.backends.sql.rows import encode_json, in_order, new_row, to_hit, to_messages, to_session
from sessions.core.identifiers import utc_now
from sessions.core.port import Backend
from sessions.core.values import (
    EarlierAttempts,
    HistoryRange,
    MessageRow,
    NewSession,
    Position,
    SessionChange,
    Where,
    unfinished,
)
from sessions.errors import MessageConflictError, SessionConflictError
from sessions.models import ChatMessage, ChatSession, SearchHit
from sessions.queries import Statements, parameters, statements_for

__all__ = ["SqlBackend"]

# SQLite's limit is 32,766 parameters.
IDS_AT_ONCE = 1000


class SqlBackend(Backend):
    """The operations that are the same statement in both dialects."""

    manager: SqlConnectionManager

    @property
    def _statements(self) -> Statements:
        return statements_for(self.manager.dialect)

    async def _fetch(self, statement: Executable, row: Mapping[str, Any]) -> Sequence[Any]:
        return await self.manager.fetch(statement, row)

    async def _execute(self, statement: Executable, row: Mapping[str, Any]) -> int:
        return await self.manager.execute(statement, row)

    def check_id(self, argument: str, value: object) -> str:
        return validation.check_uuid(argument, value)

    async def create(self, new: NewSession, rows: list[MessageRow]) -> None:
        unfinished(rows)
        if await self._execute(self._statements.create_session, new_row(new)):
            return
        found = await self._fetch(self._statements.find_owner, parameters(session_id=new.session_id))
        # An earlier attempt may have stored it, and another caller may have deleted it since.
        if found and tuple(found[0]) != (new.user_id, new.created_at):
            raise SessionConflictError("the session id is taken by another session")

    async def get(self, session_id: str, user_id: str) -> ChatSession | None:
        key = parameters(session_id=session_id, user_id=user_id)
        found = await self._fetch(self._statements.get_session, key)
        return to_session(found[0]) if found else None

    async def update(self, session_id: str, user_id: str, change: SessionChange) -> bool:
        unfinished(change.merge, change.remove, not change.touch, change.if_title, change.expected_version)
        values = parameters(
            session_id=session_id,
            user_id=user_id,
            title=change.title,
            metadata=None if change.metadata is None else encode_json(change.metadata),
            now=utc_now(),
        )
        return await self._execute(self._statements.update_session, values) > 0

    async def delete(
        self, session_id: str, user_id: str, expected_version: int | None, earlier: EarlierAttempts
    ) -> bool:
        unfinished(expected_version)
        key = parameters(session_id=session_id, user_id=user_id)
        return await self._execute(self._statements.delete_session, key) > 0 or earlier.may_have_worked

    async def list_page(self, user_id: str, offset: int, limit: int) -> list[ChatSession]:
        page = parameters(user_id=user_id, offset=offset, limit=limit)
        return [to_session(row) for row in await self._fetch(self._statements.list_page, page)]

    async def list_after(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[ChatSession]:
        unfinished(where)
        page = parameters(user_id=user_id, limit=limit)
        statement = self._statements.list_first
        if after is not None:
            statement = self._statements.list_after
            page |= parameters(updated_at=after[0], after_id=after[1])
        found = [to_session(row) for row in await self._fetch(statement, page)]
        return in_order(found, newest_first=True)[:limit]

    async def count(self, user_id: str, where: Where | None) -> int:
        unfinished(where)
        [[count]] = await self._fetch(self._statements.count_sessions, parameters(user_id=user_id))
        return int(count)

    async def append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        unfinished(merge, expected_version, *(row[3:] for row in rows if any(row[3:])))
        missing = rows
        while True:
            try:
                return await self._append(session_id, user_id, missing)
            except Exception as error:
                if not self.manager.is_duplicate_key(error):
                    raise
            missing = await self._not_stored(session_id, rows)

    @abstractmethod
    async def _append(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        """Append messages that are not stored yet, all or none, and bump the session."""

    async def _not_stored(self, session_id: str, rows: list[MessageRow]) -> list[MessageRow]:
        """Return the messages that are not stored yet.

        Raises:
            MessageConflictError: Another message is stored under one of the ids.
        """
        if len({row.message_id for row in rows}) < len(rows):
            raise MessageConflictError("a message id occurs twice in one batch")
        stored: dict[str, tuple[str, str, str]] = {}
        for start in range(0, len(rows), IDS_AT_ONCE):
            ids = [row.message_id for row in rows[start : start + IDS_AT_ONCE]]
            found = await self._fetch(self._statements.find_messages, parameters(message_ids=ids))
            stored |= {str(message_id): (str(owner), *message) for message_id, owner, *message in found}
        for row in rows:
            if stored.get(row.message_id, same := (session_id, row.role, row.content)) != same:
                raise MessageConflictError(f"the message id {row.message_id} is taken by another message")
        return [row for row in rows if row.message_id not in stored]

    async def history(self, session_id: str, user_id: str, part: HistoryRange) -> list[ChatMessage]:
        unfinished(part.after, part.since)
        limit, before = part.limit, part.before
        statement = self._statements.history[limit is not None, before is not None]
        values = parameters(session_id=session_id, user_id=user_id, limit=limit, before=before)
        messages = to_messages(session_id, await self._fetch(statement, values))
        # Queried only if nothing was found: the message may also be the first one of its session.
        if before is not None and not messages and await self._fetch(self._statements.lacks_message, values):
            raise validation.no_such_message("before")
        if limit is not None:
            messages.reverse()
        return messages

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
        unfinished(where)
        statement = self._statements.delete_older[user_id is not None]
        chosen = parameters(cutoff=cutoff, user_id=user_id, limit=limit)
        return await self._execute(statement, chosen)

    async def delete_user(self, user_id: str, limit: int) -> int:
        chosen = parameters(user_id=user_id, limit=limit)
        return await self._execute(self._statements.delete_user, chosen)

    async def export_sessions(self, user_id: str, after: ChatSession | None, limit: int) -> list[ChatSession]:
        statement = self._statements.export_sessions[after is not None]
        part = parameters(user_id=user_id, limit=limit)
        if after is not None:
            part |= parameters(updated_at=after.updated_at, after_id=after.session_id)
        found = [to_session(row) for row in await self._fetch(statement, part)]
        return in_order(found, newest_first=False)[:limit]

    async def export_messages(
        self, session_id: str, user_id: str, after: Position | None, limit: int
    ) -> list[tuple[ChatMessage, Position]]:
        statement = self._statements.export_messages[after is not None]
        part = parameters(session_id=session_id, user_id=user_id, limit=limit)
        if after is not None:
            part |= parameters(timestamp=after[0], after_id=after[2])
        found = to_messages(session_id, await self._fetch(statement, part))
        return [(message, (message.timestamp, 0, message.message_id)) for message in found]
