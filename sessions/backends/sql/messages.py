"""Reads of messages in SQL, which are the same statement in both dialects."""

from __future__ import annotations

from typing import Any

from sessions import validation
from sessions.backends.sql.base import SqlOperations
from sessions.backends.sql.rows import to_messages, to_payloads
from sessions.core.values import HistoryRange, Position
from sessions.models import ChatMessage
from sessions.queries import parameters

__all__ = ["SqlMessages"]


class SqlMessages(SqlOperations):
    """Reads messages."""

    async def history(self, session_id: str, user_id: str, part: HistoryRange) -> list[ChatMessage]:
        limited = part.limit is not None
        values = parameters(session_id=session_id, user_id=user_id, limit=part.limit)
        if part.since is not None:
            statement = self._statements.history_since[limited]
            return to_messages(
                session_id, await self._fetch(statement, values | parameters(since=part.since))
            )
        if part.after is not None:
            statement = self._statements.history_after[limited]
            messages = to_messages(
                session_id, await self._fetch(statement, values | parameters(after=part.after))
            )
            await self._check_anchor(messages, "after", part.after, values)
            return messages
        statement = self._statements.history[limited, part.before is not None]
        messages = to_messages(
            session_id, await self._fetch(statement, values | parameters(before=part.before))
        )
        if part.before is not None:
            await self._check_anchor(messages, "before", part.before, values)
        if limited:
            messages.reverse()
        return messages

    async def payloads(self, session_id: str, user_id: str, limit: int | None) -> list[Any]:
        key = parameters(session_id=session_id, user_id=user_id, limit=limit)
        rows = await self._fetch(self._statements.payloads[limit is not None], key)
        payloads = to_payloads(session_id, rows)
        if None in payloads:  # Another program has stored a null.
            return await super().payloads(session_id, user_id, limit)
        return payloads if limit is None else payloads[::-1]

    async def _check_anchor(
        self, messages: list[ChatMessage], argument: str, message_id: str, values: dict[str, Any]
    ) -> None:
        # Queried only if nothing was found: the message may also be the first one or the last one.
        key = values | parameters(message_id=message_id)
        if not messages and await self._fetch(self._statements.lacks_message, key):
            raise validation.no_such_message(argument)

    async def get_message(self, session_id: str, user_id: str, message_id: str) -> ChatMessage | None:
        key = parameters(session_id=session_id, user_id=user_id, message_id=message_id)
        found = to_messages(session_id, await self._fetch(self._statements.get_message, key))
        return found[0] if found else None

    async def count_messages(self, session_id: str, user_id: str) -> int:
        key = parameters(session_id=session_id, user_id=user_id)
        [[count]] = await self._fetch(self._statements.count_messages, key)
        return int(count)

    async def export_messages(
        self, session_id: str, user_id: str, after_position: Position | None, limit: int
    ) -> list[tuple[ChatMessage, Position]]:
        statement = self._statements.export_messages[after_position is not None]
        part = parameters(session_id=session_id, user_id=user_id, limit=limit)
        if after_position is not None:
            timestamp, write_order, after_id = after_position
            part |= parameters(timestamp=timestamp, write_order=write_order, after_id=after_id)
        rows = await self._fetch(statement, part)
        messages = to_messages(session_id, (tuple(row)[:-1] for row in rows))
        return [
            (message, (message.timestamp, tuple(row)[-1], message.message_id))
            for message, row in zip(messages, rows, strict=True)
        ]
