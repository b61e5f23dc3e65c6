"""Messages that are stored: reads and changes."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

from sessions.backends.redis.base import RedisOperations, key_in, key_of, version_of
from sessions.backends.redis.mapping import (
    encode_moment,
    given_ids,
    pairs,
    place,
    position_of,
    rows_of,
    tag_of,
    to_message,
    to_messages,
)
from sessions.core.values import HistoryRange, MessageChange, MessageRow, Position
from sessions.models import UNSET, ChatMessage, ChatSession

__all__ = ["RedisMessages"]

# Of many sessions.
MESSAGES_AT_ONCE = 20_000


class RedisMessages(RedisOperations):
    """Reads and changes messages."""

    async def history(self, session_id: str, user_id: str, part: HistoryRange) -> list[ChatMessage]:
        limit = -1 if part.limit is None else part.limit
        if part.before is not None:
            reading, value = "before", part.before
        elif part.after is not None:
            reading, value = "after", part.after
        elif part.since is not None:
            reading, value = "since", encode_moment(part.since)
        else:
            # The user is part of the key: that of another one does not exist.
            first = 0 if part.limit is None else -part.limit
            members = await self._read("ZRANGE", session_id, user_id, first, -1)
            return to_messages(session_id, members)
        arguments = (session_id, reading, value, str(limit))
        members = await self._change("history", user_id, *arguments, argument=reading) or []
        if reading == "before":
            members.reverse()
        return to_messages(session_id, members)

    async def _read(self, command: str, session_id: str, user_id: str, *arguments: str | int) -> list[str]:
        """Read the order of a session's messages with one command."""
        connection = await self.manager.connect()
        scope, key = key_of(connection, user_id, "o", session_id)
        members: list[str] = await connection.command(scope, command, key, *arguments)
        return members

    async def get_message(self, session_id: str, user_id: str, message_id: str) -> ChatMessage | None:
        found = await self._run_on("get_message", user_id, session_id, message_id)
        return to_message(session_id, found[0]) if found else None

    async def count_messages(self, session_id: str, user_id: str) -> int:
        connection = await self.manager.connect()
        scope, key = key_of(connection, user_id, "o", session_id)
        count: int = await connection.command(scope, "ZCARD", key)
        return count

    async def update_message(
        self, session_id: str, user_id: str, message_id: str, change: MessageChange
    ) -> bool:
        arguments = (
            *(session_id, message_id, version_of(change.expected_version)),
            "0" if change.content is None else f"1{change.content}",
            "0" if change.payload is UNSET else f"1{change.payload or ''}",
            "merge" if change.metadata is None else "replace",
            *pairs(change.merge if change.metadata is None else change.metadata),
        )
        return await self._change("update_message", user_id, *arguments) is not None

    async def pop_message(self, session_id: str, user_id: str) -> ChatMessage | None:
        found = await self._run_on("pop", user_id, session_id)
        return to_message(session_id, found[0]) if found else None

    async def delete_messages(self, session_id: str, user_id: str, message_ids: list[str]) -> int:
        count: int = await self._run_on("delete_messages", user_id, session_id, *message_ids)
        return count

    async def delete_messages_from(
        self, session_id: str, user_id: str, message_id: str, inclusive: bool
    ) -> int:
        arguments = (session_id, message_id, "1" if inclusive else "0")
        return await self._change("delete_from", user_id, *arguments) or 0

    async def clear_messages(self, session_id: str, user_id: str, expected_version: int | None) -> int:
        return await self._change("clear", user_id, session_id, version_of(expected_version)) or 0

    async def replace_messages(
        self, session_id: str, user_id: str, rows: list[MessageRow], expected_version: int | None
    ) -> bool:
        connection, tag = await self.manager.connect(), tag_of(user_id)
        scope, version = connection.scope(tag), version_of(expected_version)

        def store(_token: str, tokens: Mapping[str, str]) -> Awaitable[Any]:
            return connection.run(scope, "replace", tag, session_id, version, *rows_of(rows, tokens))

        if connection.claims is None:
            return self._result(await store("", {})) is not None
        reply = await connection.claims.store(tag, None, given_ids(rows), store)
        if reply[0] == "conflict" and not await connection.command(
            scope, "EXISTS", key_in(scope, tag, session_id)
        ):
            return False
        return self._result(reply) is not None

    async def export_many(self, sessions: list[ChatSession], limit: int) -> list[list[ChatMessage] | None]:
        if not sessions:
            return []
        connection = await self.manager.connect()
        part = max(1, min(limit, MESSAGES_AT_ONCE // len(sessions)))
        keys = [key_of(connection, found.user_id, "o", found.session_id) for found in sessions]
        commands = [(scope, ("ZRANGE", key, 0, part - 1)) for scope, key in keys]
        return [
            to_messages(found.session_id, members) if len(members) < part else None
            for found, members in zip(sessions, await connection.commands(commands), strict=True)
        ]

    async def export_messages(
        self, session_id: str, user_id: str, after_position: Position | None, limit: int
    ) -> list[tuple[ChatMessage, Position]]:
        # No id contains NUL, which follows it, so this comes after the message of the position.
        first = "-" if after_position is None else f"({place(after_position)}\x01"
        members = await self._read("ZRANGEBYLEX", session_id, user_id, first, "+", "LIMIT", 0, limit)
        return list(zip(to_messages(session_id, members), map(position_of, members), strict=True))
