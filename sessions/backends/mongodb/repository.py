"""Sessions in MongoDB, where the order of writes matters: a standalone server has no transactions.

A session may be deleted and created again under the same id, by another user too, during concurrent
operations on it. The two are told apart by the ``_id`` of the session's document, ``session_oid`` here:

- A message is inserted with a known ``session_oid``, and is visible only once the document with that
  ``_id`` is updated; if that document is deleted, the insert is undone.
- A history read returns only messages with the ``session_oid`` of a document that exists before and after
  the read.
- Orphaned messages (a process was killed between two writes) are deleted by their own ``_id``, and only if
  the session is absent before and after they are listed, so no visible message is deleted. See the module of
  `MongoCleanup`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from types import MethodType
from typing import Any, TypeVar, cast

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from sessions import validation
from sessions.backends.mongodb.administration import MongoAdministration
from sessions.backends.mongodb.collections import DOWN, NEWEST_FIRST, UP, Filter, raw_cursor
from sessions.backends.mongodb.deletion import MongoDeletion
from sessions.backends.mongodb.editing import MongoEditing
from sessions.backends.mongodb.ending import in_chunks
from sessions.backends.mongodb.expressions import (
    has_metadata,
    has_version,
    page_query,
    session_update,
)
from sessions.backends.mongodb.grouped import MongoGroupedAppends
from sessions.backends.mongodb.mapping import (
    check_batch_size,
    check_message_size,
    check_size,
    message_document,
    session_document,
    to_session,
)
from sessions.backends.mongodb.payloads import MongoPayloads
from sessions.backends.mongodb.previews import MongoPreviews
from sessions.backends.mongodb.restoring import MongoRestoring
from sessions.backends.mongodb.searching import MongoSearch
from sessions.backends.mongodb.write_order import write_time
from sessions.core.identifiers import utc_now
from sessions.core.values import (
    EarlierAttempts,
    MessageRow,
    NewSession,
    SessionChange,
    StoredMessage,
    Where,
)
from sessions.errors import MessageConflictError, SessionConflictError
from sessions.models import ChatSession
from sessions.models.documents import SESSION_FIELD, ChatSessionDocument
from sessions.resilience import MONGODB_RETRY_CONFIG

__all__ = ["MongoBackend"]

R = TypeVar("R")

# Operations that use the client's read preference; all others read from the primary.
READS = frozenset(
    {
        "count",
        "count_all",
        "count_messages",
        "export_many",
        "export_messages",
        "export_sessions",
        "get",
        "get_message",
        "history",
        "list_after",
        "list_all",
        "list_page",
        "list_previews",
        "list_users",
        "payloads",
        "search",
    }
)
MAX_ENSURE_ATTEMPTS = 10
# The least that a busy server inserts of a large batch: its deadline is longer by that. The driver's monitor
# detects a server that does not respond.
MESSAGES_A_SECOND = 1000

OLDEST_FIRST = [("updated_at", UP), ("session_id", DOWN)]


class MongoBackend(
    MongoGroupedAppends,
    MongoPayloads,
    MongoPreviews,
    MongoEditing,
    MongoRestoring,
    MongoSearch,
    MongoDeletion,
    MongoAdministration,
):
    """Sessions in MongoDB."""

    DEFAULT_RETRY = MONGODB_RETRY_CONFIG

    def check_id(self, argument: str, value: object) -> str:
        # Existing data has ids that are not UUIDs.
        return validation.check_id(argument, value)

    def new_key(self) -> ObjectId:
        return ObjectId()

    def check_size(self, argument: str, value: str | dict[str, Any] | None) -> None:
        check_size(argument, value)

    def check_message_size(self, row: MessageRow, prefix: str = "") -> None:
        check_message_size(row, prefix)

    def check_batch_size(self, rows: Sequence[MessageRow | StoredMessage]) -> None:
        check_batch_size(rows)

    async def perform(self, work: Callable[..., Awaitable[R]], arguments: Sequence[Any]) -> R:
        # The same method, on the collections of this attempt.
        function, name = cast("MethodType", work).__func__, work.__name__
        connection, ready = await self.manager.connect_ready()
        reads = name in READS
        collections = connection.readable if reads else connection.collections
        attempt = self.on(connection, collections, ready.uuids)
        # Of messages, or of their ids.
        more = sum(len(argument) for argument in arguments if isinstance(argument, list)) / MESSAGES_A_SECOND
        return await connection.run(function, attempt, *arguments, more=more, reads=reads)

    async def create(self, new: NewSession, rows: list[MessageRow]) -> None:
        documents = [message_document(new.session_id, new.key, row) for row in rows]
        ids = [document["_id"] for document in documents]
        chat_session = session_document(new)
        if documents:
            last = write_time(documents[-1]["write_order"])
            chat_session["updated_at"] = max(last, chat_session["created_at"])
        if self.manager.is_borrowed:
            # A duplicate key would abort the caller's transaction.
            if await self.sessions.find_one({"session_id": new.session_id}, {"_id": 1}) is not None:
                raise SessionConflictError("the session id is taken by another session")
            await self._check_free(ids, new.key)
        for _ in range(MAX_ENSURE_ATTEMPTS):
            try:
                await self._store_new(chat_session, documents)
                return
            except DuplicateKeyError:
                found = await self.sessions.find_one({"session_id": new.session_id}, {"_id": 1})
                if found is not None and found["_id"] != new.key:
                    raise SessionConflictError("the session id is taken by another session") from None
                # An earlier attempt may have stored it, and another caller may have deleted it since.
                if found is not None or not rows:
                    return
                if any(
                    document.get(SESSION_FIELD) != new.key for document in await self._taken_for_good(ids)
                ):
                    raise MessageConflictError("a message id is taken by another message") from None
        raise MessageConflictError("a message violates a unique index that is not part of this package")

    async def _check_free(self, message_ids: list[str], session_oid: Any) -> None:
        for part in in_chunks(message_ids):
            chosen = {"_id": {"$in": part}, SESSION_FIELD: {"$ne": session_oid}}
            if await self.messages.find_one(chosen, {"_id": 1}) is not None:
                raise MessageConflictError("a message id is taken by another message")

    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        for _ in range(MAX_ENSURE_ATTEMPTS):
            found = await self.sessions.find_one({"session_id": new.session_id}, {"user_id": 1})
            if found is not None:
                if found["user_id"] != new.user_id:
                    return None
                return earlier.failed > 0 and found["_id"] == new.key
            await self.delete_orphaned(new.session_id)
            # On a duplicate key, the next iteration finds the session of another caller.
            with contextlib.suppress(DuplicateKeyError):
                await self.insert(self.sessions, [session_document(new)])
                return True
        raise SessionConflictError("the session violates a unique index that is not part of this package")

    async def get(self, session_id: str, user_id: str) -> ChatSession | None:
        document = await self.sessions.find_one({"session_id": session_id, "user_id": user_id})
        return None if document is None else to_session(document)

    async def update(self, session_id: str, user_id: str, change: SessionChange) -> bool:
        chosen: Filter = {"session_id": session_id, "user_id": user_id} | has_version(change.expected_version)
        if change.if_title is not None:
            chosen["title"] = change.if_title
        update = session_update(change, utc_now())
        if update is None:
            found = await self.sessions.find_one(chosen, {"_id": 1}) is not None
        else:
            result = await self.sessions.update_one(chosen, update.pipeline, let=update.variables)
            found = result.matched_count > 0
        if not found and change.expected_version is not None:
            await self.check_version(session_id, user_id, change.expected_version)
        return found

    async def list_page(self, user_id: str, offset: int, limit: int) -> list[ChatSession]:
        query = ChatSessionDocument.find({"user_id": user_id}).sort(NEWEST_FIRST)
        return await self._to_sessions(query.skip(offset).limit(limit))

    async def list_after(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[ChatSession]:
        query = ChatSessionDocument.find(page_query(user_id, after, where)).sort(NEWEST_FIRST).limit(limit)
        return await self._to_sessions(query)

    async def count(self, user_id: str, where: Where | None) -> int:
        count: int = await self.sessions.count_documents({"user_id": user_id} | has_metadata(where))
        return count

    async def export_sessions(self, user_id: str, after: ChatSession | None, limit: int) -> list[ChatSession]:
        where: Filter = {"user_id": user_id}
        if after is not None:
            where["updated_at"] = {"$gte": after.updated_at}
            where["$or"] = [
                {"updated_at": {"$gt": after.updated_at}},
                {"session_id": {"$lt": after.session_id}},
            ]
        query = ChatSessionDocument.find(where).sort(OLDEST_FIRST).limit(limit)
        return await self._to_sessions(query)

    async def _to_sessions(self, query: Any) -> list[ChatSession]:
        return [to_session(document) for document in await raw_cursor(query, self.sessions).to_list(None)]
