"""Reads and deletions of many sessions, in calls that each look at a bounded number of them."""

from __future__ import annotations

from datetime import datetime

from sessions.backends.redis.base import RedisOperations, key_of
from sessions.backends.redis.mapping import (
    conditions,
    encode_moment,
    index_place,
    tag_of,
    to_message,
    to_session,
)
from sessions.core.values import Where
from sessions.models import ChatSession, SessionPreview

__all__ = ["RedisLists"]

# What one call of the script looks at: while it runs, the server runs nothing else.
SESSIONS = 2000
MESSAGES = 10_000
USERS = 1000


class RedisLists(RedisOperations):
    """Lists, counts and deletes sessions."""

    async def get(self, session_id: str, user_id: str) -> ChatSession | None:
        connection = await self.manager.connect()
        scope, key = key_of(connection, user_id, "s", session_id)
        fields = await connection.command(scope, "HGETALL", key)
        return to_session(session_id, user_id, fields) if fields else None

    async def list_page(self, user_id: str, offset: int, limit: int) -> list[ChatSession]:
        found = await self._list(user_id, "", offset, limit, None, previews=False)
        return [to_session(session_id, user_id, fields) for session_id, fields, _ in found]

    async def list_after(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[ChatSession]:
        place = "" if after is None else index_place(*after)
        found = await self._list(user_id, place, 0, limit, where, previews=False)
        return [to_session(session_id, user_id, fields) for session_id, fields, _ in found]

    async def list_previews(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[SessionPreview]:
        place = "" if after is None else index_place(*after)
        return [
            SessionPreview(
                to_session(session_id, user_id, fields), to_message(session_id, last) if last else None
            )
            for session_id, fields, last in await self._list(user_id, place, 0, limit, where, previews=True)
        ]

    async def _list(
        self, user_id: str, place: str, offset: int, limit: int, where: Where | None, *, previews: bool
    ) -> list[tuple[str, list[str], str]]:
        """Return the id, the fields and the last message of sessions that meet the conditions."""
        found: list[tuple[str, list[str], str]] = []
        while True:
            numbers = (str(offset), str(SESSIONS), str(limit - len(found)), "1" if previews else "0")
            place, *parts = await self._run_on("list", user_id, place, *numbers, *conditions(where))
            found += zip(parts[::3], parts[1::3], parts[2::3], strict=True)
            # It looks at so many sessions in one call, or there are others that have expired among them.
            if not place or len(found) == limit:
                return found
            offset = 0

    async def count(self, user_id: str, where: Where | None) -> int:
        total, place = 0, ""
        count: int
        while True:
            place, count = await self._run_on("count", user_id, place, str(SESSIONS), *conditions(where))
            total += count
            if not place:
                return total

    async def export_sessions(self, user_id: str, after: ChatSession | None, limit: int) -> list[ChatSession]:
        place = "" if after is None else index_place(after.updated_at, after.session_id)
        while True:
            found = await self._run_on("export_sessions", user_id, place, str(limit))
            stored = [
                to_session(session_id, user_id, fields)
                for session_id, fields in zip(found[1::2], found[2::2], strict=True)
                if fields
            ]
            place = found[0]
            if stored or not place:
                return stored

    # -- Deletion ----------------------------------------------------------------------------------

    async def delete_beyond(self, user_id: str, keep_last_n: int, limit: int) -> int:
        numbers = (str(keep_last_n), str(limit), str(MESSAGES))
        count: int = -1
        while count < 0:
            count = await self._run_on("delete_beyond", user_id, *numbers)
        return count

    async def delete_user(self, user_id: str, limit: int) -> int:
        return await self.delete_beyond(user_id, 0, limit)

    async def delete_older(
        self, cutoff: datetime, user_id: str | None, where: Where | None, limit: int
    ) -> int:
        if user_id is not None:
            return await self._delete_older(tag_of(user_id), cutoff, where, limit)
        connection, moment = await self.manager.connect(), encode_moment(cutoff)
        places = dict.fromkeys(connection.scopes(), "")
        while places:
            found = await connection.run_many(
                [(scope, "users_with_older", moment, str(USERS), last) for scope, last in places.items()]
            )
            for _, *tags in found:
                for tag in tags:
                    if count := await self._delete_older(tag, cutoff, where, limit):
                        return count
            places = {scope: last for scope, (last, *_) in zip(places, found, strict=True) if last}
        return 0

    async def _delete_older(self, tag: str, cutoff: datetime, where: Where | None, limit: int) -> int:
        """Delete sessions of one user; return 0 only if there are none left."""
        connection = await self.manager.connect()
        scope, place = connection.scope(tag), ""
        numbers = (encode_moment(cutoff), str(limit), str(MESSAGES), str(SESSIONS))
        while True:
            place, count = await connection.run(
                scope, "delete_older", tag, *numbers, place, *conditions(where)
            )
            if count > 0 or (count == 0 and not place):
                return int(count)
