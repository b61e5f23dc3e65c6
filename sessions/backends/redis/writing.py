"""Writes of sessions and new messages."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sessions import validation
from sessions.backends.redis.base import RedisOperations, version_of
from sessions.backends.redis.mapping import encode_moment, pairs, rows_of, tag_of
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
        await self._change("create", new.user_id, *_session(new), *rows_of(rows))

    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        [outcome] = await self._run_on("ensure", new.user_id, *_session(new))
        if outcome == "taken":
            return None
        return outcome == "ok" or (outcome == "mine" and earlier.failed > 0)

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
        arguments = (
            *(session_id, version_of(expected_version), str(len(merge or {}))),
            *pairs(merge),
            *rows_of(rows),
        )
        return await self._change("append", user_id, *arguments) is not None

    async def append_many(self, appends: Sequence[Append]) -> list[bool]:
        calls = [
            ("append", _tag(append.user_id), append.session_id, "", "0", *rows_of(append.rows))
            for append in appends
        ]
        replies = await (await self.manager.connect()).run_many(calls)
        # What is not stored its caller appends by itself, and gets the error.
        return [outcome == "ok" for outcome, *_ in replies]

    async def fork(self, session_id: str, user_id: str, through: str | None, new: NewSession) -> bool:
        ids = new_message_id()[TIME_OF_UUID]
        arguments = (*_session(new), session_id, through or "", ids, secrets.token_hex(16))
        return await self._change("fork", user_id, *arguments, argument="through") is not None


def _tag(user_id: str | None) -> str:
    return "" if user_id is None else tag_of(user_id)


def _session(new: NewSession) -> tuple[str, ...]:
    moment, count = encode_moment(new.created_at), str(len(new.metadata))
    return (new.session_id, new.title, moment, new.key, count, *pairs(new.metadata))
