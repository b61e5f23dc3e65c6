"""Searches messages in MongoDB: a find among the messages of the user's sessions.

Messages of an earlier session with the same id, and of an incomplete batch, are left out, as they are from a
history.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sessions.backends.mongodb.collections import DOWN, NEWEST_FIRST, Filter, MongoCollections
from sessions.backends.mongodb.inserts import stored_batches
from sessions.backends.mongodb.mapping import to_messages, to_session
from sessions.core.matching import regular_expression
from sessions.core.values import Position
from sessions.models import ChatMessage, SearchHit

__all__ = ["MongoSearch"]

NEWEST_MESSAGES_FIRST = [("timestamp", DOWN), ("message_id", DOWN)]
# Sessions in one query, which the server limits to 16 MB: an id has up to 255 characters of 4 bytes.
SESSIONS_AT_ONCE = 5_000
# Attempts while sessions with hits are deleted.
MAX_ATTEMPTS = 10


class MongoSearch(MongoCollections):
    """Searches messages."""

    async def search(
        self, user_id: str, terms: Sequence[str], session_id: str | None, after: Position | None, limit: int
    ) -> list[tuple[SearchHit, Position]]:
        where = _contains(terms) | ({} if after is None else _beyond(after))
        for _ in range(MAX_ATTEMPTS):
            newest: list[tuple[Any, ChatMessage]] = []
            async for session_oids in self._sessions_of(user_id, session_id):
                # A hit of these sessions that is older than those of other sessions is not on the page.
                oldest = {"timestamp": {"$gte": newest[-1][1].timestamp}} if len(newest) == limit else {}
                newest += await self._visible({"$and": [where, oldest]}, session_oids, limit)
                newest.sort(key=lambda one: (one[1].timestamp, one[1].message_id), reverse=True)
                del newest[limit:]
            # Read after the messages: those of a session that is deleted meanwhile are not hits.
            sessions = self.sessions.find({"_id": {"$in": [oid for oid, _ in newest]}, "user_id": user_id})
            found = {document["_id"]: to_session(document) for document in await sessions.to_list(None)}
            if all(oid in found for oid, _ in newest):
                break
        return [
            (SearchHit(found[oid], message), (message.timestamp, 0, message.message_id))
            for oid, message in newest
            if oid in found
        ]

    async def _sessions_of(self, user_id: str, session_id: str | None) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the ``_id`` of the user's sessions by their ``session_id``, newest first, some at a time."""
        part: dict[str, Any] = {}
        where = {"user_id": user_id} | ({} if session_id is None else {"session_id": session_id})
        async for document in self.sessions.find(where, {"session_id": 1}, sort=NEWEST_FIRST):
            part[document["session_id"]] = document["_id"]
            if len(part) == SESSIONS_AT_ONCE:
                yield part
                part = {}
        if part:
            yield part

    async def _visible(
        self, where: Filter, session_oids: Mapping[str, Any], limit: int
    ) -> list[tuple[Any, ChatMessage]]:
        """Return the newest visible messages of some sessions, each with its session's ``_id``."""
        where = {"session_id": {"$in": list(session_oids)}} | where
        complete: set[Any] = set()
        left_out = 0
        while True:
            cursor = self.messages.find(where, sort=NEWEST_MESSAGES_FIRST, limit=limit + left_out)
            found: list[dict[str, Any]] = await cursor.to_list(None)
            marks = {mark for document in found if (mark := document.get("batch")) is not None} - complete
            if marks:
                # Read again without the incomplete ones: a batch may become complete after a part of it is
                # read.
                complete |= await stored_batches(self.messages, marks)
                where = {"$and": [where, {"batch": {"$nin": list(marks - complete)}}]}
                continue
            visible = []
            for document in found:
                session_oid = session_oids[document["session_id"]]
                visible += [(session_oid, message) for message in to_messages([document], session_oid)]
            if len(visible) >= limit or len(found) < limit + left_out:
                return visible[:limit]
            left_out = len(found) - len(visible)


def _contains(terms: Sequence[str]) -> Filter:
    return {"$and": [{"content": {"$regex": regular_expression(term)}} for term in terms]}


def _beyond(after: Position) -> Filter:
    timestamp, _, message_id = after
    tied = {"timestamp": timestamp, "message_id": {"$lt": message_id}}
    return {"timestamp": {"$lte": timestamp}, "$or": [{"timestamp": {"$lt": timestamp}}, tied]}
