"""Searches messages in MongoDB: a find among the messages of the user's sessions.

Messages of an earlier session with the same id, and of an incomplete batch, are left out, as they are from a
history.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sessions.backends.mongodb.collections import NEWEST_FIRST, Filter, MongoCollections
from sessions.backends.mongodb.inserts import stored_batches
from sessions.backends.mongodb.known import known_session
from sessions.backends.mongodb.mapping import to_messages, to_session
from sessions.backends.mongodb.ordering import IN_REVERSE, before, position_of
from sessions.backends.mongodb.reading import KNOWN_FIELDS, token_of
from sessions.backends.mongodb.visibility import marks_in, visible
from sessions.core.matching import regular_expression
from sessions.core.values import Position
from sessions.models import SearchHit

__all__ = ["MongoSearch"]

# Sessions in one query, which the server limits to 16 MB: an id has up to 255 characters of 4 bytes.
SESSIONS_AT_ONCE = 5_000
# Attempts while sessions with hits are deleted, or several of their messages are edited.
MAX_ATTEMPTS = 10

Document = dict[str, Any]


class MongoSearch(MongoCollections):
    """Searches messages."""

    async def search(
        self, user_id: str, terms: Sequence[str], session_id: str | None, after: Position | None, limit: int
    ) -> list[tuple[SearchHit, Position]]:
        where = _contains(terms) | ({} if after is None else before(after))
        newest: list[Document] = []
        found: dict[str, Document] = {}
        for _ in range(MAX_ATTEMPTS):
            newest = []
            sessions: dict[str, Document] = {}
            async for part in self._sessions_of(user_id, session_id):
                # A hit of these sessions that is older than those of other sessions is not on the page.
                oldest = {"timestamp": {"$gte": newest[-1]["timestamp"]}} if len(newest) == limit else {}
                newest += await self._find_hits({"$and": [where, oldest]}, part, limit)
                newest.sort(key=position_of, reverse=True)
                del newest[limit:]
                ids = {document["session_id"] for document in newest}
                sessions = {key: value for key, value in (sessions | dict(part)).items() if key in ids}
            # Read after the messages: those of a session that is deleted meanwhile are not hits.
            oids = [document["_id"] for document in sessions.values()]
            again = await self.sessions.find({"_id": {"$in": oids}, "user_id": user_id}).to_list(None)
            found = {document["session_id"]: document for document in again}
            if all(
                key in found and known_session(found[key]) == known_session(document)
                for key, document in sessions.items()
            ):
                break
        return [
            (SearchHit(to_session(found[document["session_id"]]), message), position_of(document))
            for message, document in zip(to_messages(newest), newest, strict=True)
            if document["session_id"] in found
        ]

    async def _sessions_of(
        self, user_id: str, session_id: str | None
    ) -> AsyncIterator[Mapping[str, Document]]:
        """Yield the user's sessions by their ``session_id``, newest first, some at a time."""
        part: dict[str, Document] = {}
        where = {"user_id": user_id} | ({} if session_id is None else {"session_id": session_id})
        fields = KNOWN_FIELDS | {"session_id": 1}
        # Sorting one session, the server would take the index of the user's sessions, or sort.
        order = NEWEST_FIRST if session_id is None else None
        async for document in self.sessions.find(where, fields, sort=order):
            part[document["session_id"]] = document
            if len(part) == SESSIONS_AT_ONCE:
                yield part
                part = {}
        if part:
            yield part

    async def _find_hits(self, where: Filter, sessions: Mapping[str, Document], limit: int) -> list[Document]:
        """Return the newest visible messages of some sessions, up to a limit."""
        where = {"session_id": {"$in": list(sessions)}} | where
        complete: set[Any] = set()
        left_out = 0
        while True:
            cursor = self.messages.find(where, sort=list(IN_REVERSE.items()), limit=limit + left_out)
            found: list[Document] = await cursor.to_list(None)
            if marks := marks_in(found, None) - complete:
                # Read again without the incomplete ones: a batch may become complete after a part is read.
                complete |= await stored_batches(self.messages, marks)
                where = {"$and": [where, {"batch": {"$nin": list(marks - complete)}}]}
                continue
            hits: dict[tuple[str, str], Document] = {}
            for document in found:
                chat_session = sessions[document["session_id"]]
                for hit in visible([document], chat_session["_id"], token_of(chat_session), complete):
                    # While an edit ends, a new version may be stored twice.
                    hits.setdefault((hit["session_id"], hit["message_id"]), hit)
            if len(hits) >= limit or len(found) < limit + left_out:
                return list(hits.values())[:limit]
            left_out = len(found) - len(hits)


def _contains(terms: Sequence[str]) -> Filter:
    return {"$and": [{"content": {"$regex": regular_expression(term)}} for term in terms]}
