"""Writes of sessions and new messages."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from sessions import validation
from sessions.backends.redis.base import RedisOperations, key_in, version_of
from sessions.backends.redis.claims import Claims
from sessions.backends.redis.commands import Connections
from sessions.backends.redis.mapping import encode_moment, given_ids, pairs, rows_of, tag_of
from sessions.core.identifiers import new_message_id
from sessions.core.values import Append, EarlierAttempts, MessageRow, NewSession, SessionChange

__all__ = ["RedisWriting"]

# Of a UUIDv7: the time in milliseconds. The script continues it.
TIME_OF_UUID = slice(0, 14)


class RedisWriting(RedisOperations):
    """Stores and changes sessions, and appends messages."""

    def check_id(self, argument: str, value: object) -> str:
        return validation.check_id(argument, value)

    def new_key(self) -> str:
        return secrets.token_hex(8)

    async def create(self, new: NewSession, rows: list[MessageRow]) -> None:
        reply = await self._store(
            *("create", new.user_id, new.session_id, given_ids(rows)),
            lambda tokens: (*_session(new), *rows_of(rows, tokens)),
        )
        self._result(reply)

    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        [outcome] = await self._store(
            "ensure", new.user_id, new.session_id, (), lambda _tokens: _session(new)
        )
        if outcome == "taken":
            return None
        return bool(outcome == "ok" or (outcome == "mine" and earlier.failed > 0))

    async def update(self, session_id: str, user_id: str, change: SessionChange) -> bool:
        replaces = change.metadata is not None
        metadata = change.metadata if replaces else change.merge
        arguments = (
            *(session_id, version_of(change.expected_version), change.title or "", change.if_title or ""),
            *("1" if change.touch else "0", "replace" if replaces else "merge", str(len(metadata or {}))),
            *pairs(metadata),
            *change.remove,
        )
        return await self._change("update", user_id, *arguments) is not None

    async def delete(
        self, session_id: str, user_id: str, expected_version: int | None, earlier: EarlierAttempts
    ) -> bool:
        deleted = await self._change("delete", user_id, session_id, version_of(expected_version))
        return deleted is not None or earlier.may_have_worked

    async def append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        connection = await self.manager.connect()
        first = (session_id, version_of(expected_version), str(len(merge or {})), *pairs(merge))
        if connection.claims is None:
            tag = "" if user_id is None else tag_of(user_id)
            reply = await connection.run(connection.prefix, "append", tag, *first, *rows_of(rows))
            return self._result(reply) is not None
        tags = (
            {session_id: tag_of(user_id)}
            if user_id is not None
            else await connection.claims.owners([session_id])
        )
        if session_id not in tags:
            return False
        tag = tags[session_id]
        scope = connection.scope(tag)

        def store(_token: str, tokens: Mapping[str, str]) -> Awaitable[Any]:
            return connection.run(scope, "append", tag, *first, *rows_of(rows, tokens))

        reply = await connection.claims.store(tag, None, given_ids(rows), store)
        if reply[0] == "conflict" and not await connection.command(
            scope, "EXISTS", key_in(scope, tag, session_id)
        ):
            return False
        return self._result(reply) is not None

    async def append_many(self, appends: Sequence[Append]) -> list[bool]:
        connection = await self.manager.connect()
        if connection.claims is not None:
            return await self._append_to_parts(connection, connection.claims, appends)
        calls = {
            place: (
                *(connection.prefix, "append", "" if append.user_id is None else tag_of(append.user_id)),
                *(append.session_id, "", "0", *rows_of(append.rows)),
            )
            for place, append in enumerate(appends)
            if append.send()
        }
        stored = [False] * len(appends)
        # What is not stored its caller appends by itself, and gets the error.
        for place, reply in zip(calls, await connection.run_many(list(calls.values())), strict=True):
            stored[place] = reply[0] == "ok"
        return stored

    async def _append_to_parts(
        self, connection: Connections, claims: Claims, appends: Sequence[Append]
    ) -> list[bool]:
        """Append messages of several calls to users on several nodes of a cluster."""
        unknown = [append.session_id for append in appends if append.user_id is None]
        owners = await claims.owners(unknown) if unknown else {}
        stored = [False] * len(appends)
        calls: dict[int, tuple[str, ...]] = {}
        for place, append in enumerate(appends):
            tag = owners.get(append.session_id) if append.user_id is None else tag_of(append.user_id)
            # Ids that callers give are claimed one call after another.
            if tag is not None and not given_ids(append.rows) and append.send():
                rows = rows_of(append.rows)
                calls[place] = (connection.scope(tag), "append", tag, append.session_id, "", "0", *rows)
        replies = await connection.run_each(list(calls.values()))
        if len(replies) == len(appends) and all(isinstance(reply, Exception) for reply in replies):
            raise replies[0]
        for place, reply in zip(calls, replies, strict=True):
            stored[place] = not isinstance(reply, Exception) and reply[0] == "ok"
        return stored

    async def fork(self, session_id: str, user_id: str, through: str | None, new: NewSession) -> bool:
        ids, random = new_message_id()[TIME_OF_UUID], secrets.token_hex(16)
        reply = await self._store(
            *("fork", user_id, new.session_id, ()),
            lambda _tokens: (*_session(new), session_id, through or "", ids, random),
        )
        return self._result(reply, "through") is not None


def _session(new: NewSession) -> tuple[str, ...]:
    moment, count = encode_moment(new.created_at), str(len(new.metadata))
    return (new.title, moment, new.key, count, *pairs(new.metadata))
