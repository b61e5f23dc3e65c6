"""What looks across users."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from operator import attrgetter
from typing import Any

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

_id = attrgetter("session_id")

# Keys of one call.
KEYS = 1000
# Parts of a cluster that are asked for users at once.
SCOPES = 128
# After the prefix.
OF_MESSAGES = re.compile(r"(:\{[0-9a-f]{3}\})?:(ids:|m:|\{[^}]*\}:[io]:)")


class RedisAdministration(RedisOperations):
    """Operations across users."""

    async def list_users(self, after: str | None, limit: int) -> list[str]:
        connection = await self.manager.connect()
        scopes, last = connection.scopes(), "" if after is None else tag_of(after)
        # The order is that of the parts of a cluster, and in each of them that of the users.
        first = scopes.index(connection.scope(last)) if last else 0
        users: list[str] = []
        while first < len(scopes):
            places = [last, *[""] * SCOPES]
            found = await connection.run_many(
                [
                    (scope, "list_users", place, str(limit))
                    for scope, place in zip(scopes[first : first + SCOPES], places, strict=False)
                ]
            )
            for last, *tags in found:
                users += map(user_of, tags)
                if len(users) >= limit or (users and last):
                    return users[:limit]
                if last:
                    break  # So far the sessions of all of them have expired.
                first += 1
        return users

    async def list_all(self, after: str | None, limit: int) -> list[ChatSession]:
        connection = await self.manager.connect()
        scopes, last = connection.scopes(), after or ""
        # Of each part a few: together they are about as many as wanted, in the order of their ids.
        amount = limit if len(scopes) == 1 else limit // 256 + 4
        while True:
            found = await connection.run_many([(scope, "list_all", last, str(amount)) for scope in scopes])
            # Of a part that has more, those after its last one are not known.
            ends = [part[-3] for part in found if len(part) == 3 * amount]
            last = min(ends, default="")
            sessions = [
                to_session(session_id, user_of(tag), fields)
                for part in found
                for session_id, tag, fields in zip(part[::3], part[1::3], part[2::3], strict=True)
                if fields and (not last or session_id <= last)
            ]
            if sessions or not last:
                return sorted(sessions, key=_id)[:limit]

    async def restore(self, chat_session: ChatSession, messages: list[StoredMessage]) -> None:
        self._result(await self._restore(chat_session, messages, only_new=False))

    def _restore(
        self, chat_session: ChatSession, messages: list[StoredMessage], *, only_new: bool
    ) -> Awaitable[list[Any]]:
        arguments = _restored(chat_session, messages, only_new=only_new)
        ids = [row.message_id for row in messages]
        return self._store(
            "restore", chat_session.user_id, chat_session.session_id, ids, lambda _tokens: arguments
        )

    async def restore_many(
        self, conversations: list[tuple[ChatSession, list[StoredMessage]]], only_new: bool
    ) -> list[str]:
        connection = await self.manager.connect()
        if connection.claims is None:
            calls = [
                (
                    *(
                        connection.prefix,
                        "restore",
                        tag_of(chat_session.user_id),
                        chat_session.session_id,
                        "",
                    ),
                    *_restored(chat_session, messages, only_new=only_new),
                )
                for chat_session, messages in conversations
            ]
            replies = await connection.run_many(calls)
        else:
            replies = [
                await self._restore(chat_session, messages, only_new=only_new)
                for chat_session, messages in conversations
            ]
            if only_new:
                replies = [["absent"] if reply == ["taken"] else reply for reply in replies]
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
        for server in await connection.servers():
            cursor = "0"
            while True:
                cursor, keys = await server.command("", "SCAN", cursor, "MATCH", pattern, "COUNT", KEYS)
                usages = await server.send([("", ("MEMORY USAGE", key)) for key in keys]) if keys else []
                for key, size in zip(keys, usages, strict=True):
                    of_messages = OF_MESSAGES.match(key.removeprefix(connection.prefix))
                    # No number if it was deleted, or its slot moved, meanwhile.
                    if isinstance(size, int):
                        sizes["chat_messages" if of_messages else "chat_sessions"] += size
                if cursor == "0":
                    break
        return sizes | {"total": sum(sizes.values())}


def _restored(chat_session: ChatSession, messages: list[StoredMessage], *, only_new: bool) -> tuple[str, ...]:
    return (
        chat_session.title,
        *(encode_moment(chat_session.created_at), encode_moment(chat_session.updated_at)),
        *(str(chat_session.version), str(len(chat_session.metadata))),
        *pairs(chat_session.metadata),
        "1" if only_new else "0",
        *(text for row in messages for text in stored_row(row)),
    )
