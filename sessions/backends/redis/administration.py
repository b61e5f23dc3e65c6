"""What looks across users."""

from __future__ import annotations

from sessions.backends.redis.base import RedisOperations
from sessions.backends.redis.connection import information
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
        found = information(await connection.command("INFO"))
        # Of the whole server, which counts neither databases nor kinds of keys.
        return {"memory": int(found["used_memory"]), "total": int(found["used_memory"])}


def _restored(chat_session: ChatSession, messages: list[StoredMessage], *, only_new: bool) -> tuple[str, ...]:
    return (
        *(chat_session.session_id, chat_session.title),
        *(encode_moment(chat_session.created_at), encode_moment(chat_session.updated_at)),
        *(str(chat_session.version), str(len(chat_session.metadata))),
        *pairs(chat_session.metadata),
        "1" if only_new else "0",
        *(text for row in messages for text in stored_row(row)),
    )
