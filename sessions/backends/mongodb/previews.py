"""Lists sessions with their newest messages in MongoDB, in one command."""

from __future__ import annotations

import inspect
from datetime import datetime
from typing import Any

from pymongo.errors import OperationFailure

from sessions.backends.mongodb.collections import CHAT_MESSAGES, NEWEST_FIRST
from sessions.backends.mongodb.errors import TOO_LARGE_CODES
from sessions.backends.mongodb.expressions import Filter, page_query
from sessions.backends.mongodb.mapping import to_messages, to_session
from sessions.backends.mongodb.ordering import IN_REVERSE
from sessions.backends.mongodb.reading import Document, MongoReading, token_of
from sessions.backends.mongodb.visibility import DROPPED_FIELD, visible
from sessions.core.values import HistoryRange, Where
from sessions.models import ChatMessage, SessionPreview
from sessions.models.documents import SESSION_FIELD

__all__ = ["MongoPreviews"]

# What `visible` checks, but for the former `_id` of messages, and for batches.
MAY_BE_VISIBLE = {
    "$and": [
        {"$in": [{"$ifNull": [f"${SESSION_FIELD}", "$$session_oid"]}, ["$$session_oid"]]},
        {"$or": [{"$ne": [{"$type": "$batch"}, "objectId"]}, {"$eq": ["$batch", "$$token"]}]},
        {"$not": {"$in": ["$$token", {"$ifNull": [f"${DROPPED_FIELD}", []]}]}},
    ]
}
NEWEST_MESSAGE: list[Filter] = [
    # The session's index gives this order: the scan ends with the first message that may be visible.
    {"$sort": IN_REVERSE},
    {"$match": {"$expr": MAY_BE_VISIBLE}},
    {"$limit": 1},
    # The last message of its batch, without which it is not visible.
    {
        "$lookup": {
            "from": CHAT_MESSAGES,
            "localField": "batch",
            "foreignField": "_id",
            "pipeline": [{"$project": {"_id": 1}}],
            "as": "last_of_batch",
        }
    },
]
WITH_NEWEST_MESSAGE: Filter = {
    "$lookup": {
        "from": CHAT_MESSAGES,
        "localField": "session_id",
        "foreignField": "session_id",
        "let": {"session_oid": "$_id", "token": "$edit.token"},
        "pipeline": NEWEST_MESSAGE,
        "as": "newest",
    }
}


class MongoPreviews(MongoReading):
    """Lists sessions with their newest messages."""

    async def list_previews(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[SessionPreview]:
        page: list[Filter] = [{"$match": page_query(user_id, after, where)}, {"$sort": dict(NEWEST_FIRST)}]
        page.append({"$limit": limit})
        try:
            found = await self._list([*page, WITH_NEWEST_MESSAGE], limit)
        except OperationFailure as error:
            if error.code not in TOO_LARGE_CODES:
                raise
            # A session and its message are each smaller than a document may be, and together larger.
            found = await self._list(page, limit)
        return [SessionPreview(to_session(one), await self._newest_message(one)) for one in found]

    async def _list(self, stages: list[Filter], limit: int) -> list[Document]:
        # After a full batch, the server waits for the question whether there is more.
        cursor = self.sessions.aggregate(stages, batchSize=limit + 1)
        # Motor's `aggregate` returns a cursor, not a coroutine.
        found: list[Document] = await (await cursor if inspect.isawaitable(cursor) else cursor).to_list(None)
        return found

    async def _newest_message(self, chat_session: Document) -> ChatMessage | None:
        newest: list[Document] | None = chat_session.get("newest")
        if newest == []:
            return None
        if newest is not None:
            complete = {document["_id"] for document in newest[0]["last_of_batch"]}
            shown = visible(newest, chat_session["_id"], token_of(chat_session), complete)
            if shown:
                return to_messages(shown)[0]
        # Another one is the newest that is visible: this one is of an incomplete batch, or was left by a
        # session of the previous release with the same id.
        key: tuple[Any, Any] = chat_session["session_id"], chat_session["user_id"]
        last = await self.history(*key, HistoryRange(limit=1))
        return last[0] if last else None
