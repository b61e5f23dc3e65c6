"""What looks across users."""

from __future__ import annotations

import re

from sessions.backends.redis.base import RedisOperations
from sessions.backends.redis.mapping import (
    encode_moment,
    pairs,
    stored_row,
    tag_of,
    to_session,
    user_of,
)
from sessions.core.values import StoredMessage
from sessions.models import ChatSession

__all__ = ["RedisAdministration"]

# Keys of one call.
KEYS = 1000
# After the prefix.
OF_MESSAGES = re.compile(r":(ids:|\{[^}]*\}:[io]:)")


class RedisAdministration(RedisOperations):
    """Operations across users."""

    async def list_users(self, after: str | None, limit: int) -> list[str]:
        connection = await self.manager.connect()
        first = "-" if after is None else f"({tag_of(after)}"
        key = f"{connection.prefix}:users"
        tags = await connection.command("ZRANGEBYLEX", key, first, "+", "LIMIT", 0, limit)
        return [user_of(tag) for tag in tags]

    async def list_all(self, after: str | None, limit: int) -> list[ChatSession]:
        found = await self._run("list_all", after or "", str(limit))
        return [
            to_session(session_id, user_of(tag), fields)
            for session_id, tag, fields in zip(found[::3], found[1::3], found[2::3], strict=True)
        ]

    async def restore(self, chat_session: ChatSession, messages: list[StoredMessage]) -> None:
        await self._change(
            "restore", chat_session.user_id, *_restored(chat_session, messages, only_new=False)
        )

    async def restore_many(
        self, conversations: list[tuple[ChatSession, list[StoredMessage]]], only_new: bool
    ) -> list[str]:
        calls = [
            ("restore", tag_of(chat_session.user_id), *_restored(chat_session, messages, only_new=only_new))
            for chat_session, messages in conversations
        ]
        replies = await (await self.manager.connect()).run_many(calls)
        stored = [self._result(reply) is not None for reply in replies]
        return [
            chat_session.session_id
            for (chat_session, _), is_stored in zip(conversations, stored, strict=True)
            if is_stored
        ]

    async def sizes(self) -> dict[str, int]:
        connection = await self.manager.connect()
        sizes = dict.fromkeys(("chat_sessions", "chat_messages"), 0)
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", connection.prefix) + ":*"
        cursor = "0"
        while True:
            cursor, keys = await connection.command("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS)
            usages = [("MEMORY USAGE", key) for key in keys]
            for key, size in zip(keys, await connection.commands(usages) if keys else (), strict=True):
                of_messages = OF_MESSAGES.match(key.removeprefix(connection.prefix))
                # None if it was deleted meanwhile.
                sizes["chat_messages" if of_messages else "chat_sessions"] += size or 0
            if cursor == "0":
                return sizes | {"total": sum(sizes.values())}


def _restored(chat_session: ChatSession, messages: list[StoredMessage], *, only_new: bool) -> tuple[str, ...]:
    return (
        *(chat_session.session_id, chat_session.title),
        *(encode_moment(chat_session.created_at), encode_moment(chat_session.updated_at)),
        *(str(chat_session.version), str(len(chat_session.metadata))),
        *pairs(chat_session.metadata),
        "1" if only_new else "0",
        *(text for row in messages for text in stored_row(row)),
    )
