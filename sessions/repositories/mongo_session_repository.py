"""Sessions in MongoDB. Two collections and, on a standalone server, no transactions: the order matters.

A session id may be deleted and created anew, by another user too, while others are at work on it. What
tells the two apart is the *incarnation*, the ``_id`` of the session's document:

- A message is inserted while a known incarnation exists, and counts only once that same incarnation has
  been bumped; if it is gone, the insert is undone.
- A history is read between two looks at the same incarnation, without the messages of earlier ones: each
  message says for which it was written.
- Leftovers (of a process that died between two steps) are removed by their own ``_id``, and only if
  there was no session before and after they were listed. So nothing that counts goes with them. How they
  are found, `MongoLeftovers`' module says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from bson import ObjectId
from pymongo.errors import DuplicateKeyError, OperationFailure

from sessions import validation
from sessions.connections import ConnectionFactory, ConnectionType
from sessions.connections.event_loops import run_blocking
from sessions.connections.mongo_connection import raw_cursor
from sessions.connections.mongodb import MongoConnectionManager
from sessions.connections.mongodb_schema import COLLECTION_UUID_MISMATCH
from sessions.errors import SessionConflictError
from sessions.models import ChatSession
from sessions.models.documents import ChatSessionDocument, bound_to
from sessions.repositories.async_session_repository import AsyncSessionRepository
from sessions.repositories.backend_operations import EarlierTries, MessageRow, NewSession
from sessions.repositories.identifiers import utc_now
from sessions.repositories.mongo_collections import DOWN, NEWEST_FIRST, UP, Filter, chat_sessions
from sessions.repositories.mongo_deletion import MongoDeletion
from sessions.repositories.mongo_documents import (
    check_batch_size,
    check_size,
    session_document,
    storable,
    to_session,
)
from sessions.repositories.mongo_inserts import insert
from sessions.repositories.mongo_leftovers import Leftovers
from sessions.repositories.mongo_messages import MongoMessages
from sessions.repositories.session_repository_factory import SessionRepositoryType, register_repository
from sessions.resilience import MONGODB_RETRY_CONFIG, RetryConfig

__all__ = ["MongoSessionRepository"]

R = TypeVar("R")

# What may be read from where the client's read preference says; all else rests on what the primary has.
READS = frozenset(
    {
        "count_sessions",
        "export_user",
        "get_session",
        "get_session_history",
        "list_paginated_sessions",
        "list_sessions",
    }
)
MAX_LOOKS = 10

OLDEST_FIRST = [("updated_at", UP), ("session_id", DOWN)]


@register_repository(SessionRepositoryType.MONGODB)
class MongoSessionRepository(MongoMessages, MongoDeletion, AsyncSessionRepository):
    """Sessions in MongoDB.

    Args:
        url: ``mongodb://`` or ``mongodb+srv://``; None for the configured database.
        client: A service's own client; used, never closed. It belongs to one event loop.
        connection_manager: A manager made elsewhere, instead of both.
        retry: Tries and delays for transient errors.
        **settings: Any key of ``db.mongodb``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        client: Any = None,
        connection_manager: MongoConnectionManager | None = None,
        retry: RetryConfig | None = None,
        **settings: Any,
    ) -> None:
        if connection_manager is None:
            manager = ConnectionFactory.get_connection_manager(
                ConnectionType.MONGODB, url=url, client=client, **settings
            )
            assert isinstance(manager, MongoConnectionManager)
            connection_manager = manager
        super().__init__(
            ConnectionType.MONGODB,
            connection_manager=connection_manager,
            default_retry=MONGODB_RETRY_CONFIG,
            retry=retry,
        )
        self._mongo = connection_manager

    def _check_session_id(self, argument: str, value: object) -> str:
        # Existing data has ids that are not UUIDs.
        return validation.check_id(argument, value)

    def _new_key(self) -> ObjectId:
        return ObjectId()

    def _check_size(self, argument: str, value: str | dict[str, Any] | None) -> None:
        check_size(argument, value)

    def _check_batch_size(self, rows: list[MessageRow]) -> None:
        check_batch_size(rows)

    async def _run(self, operation: str, work: Callable[..., Awaitable[R]], *arguments: Any) -> R:
        async def bound() -> R:
            for is_last in (False, True):
                connection, ready = await self._mongo.connect_ready()
                collections = connection.readable if operation in READS else connection.collections
                try:
                    with bound_to(collections, ready.uuids):
                        return await connection.run(work, *arguments)
                except OperationFailure as error:
                    if error.code != COLLECTION_UUID_MISMATCH:
                        raise
                    # Dropped under this process. Nothing was stored, and they are made ready once more.
                    self._mongo.forget_schema(ready)
                    if is_last:
                        raise
            raise AssertionError("unreachable")

        return await super()._run(operation, bound)

    async def _create(self, new: NewSession) -> None:
        try:
            await self._insert_session(new)
        except DuplicateKeyError:
            found = await chat_sessions().find_one({"session_id": new.session_id}, {"_id": 1})
            # An earlier attempt may have stored it, and somebody may have deleted it since.
            if found is not None and found["_id"] != new.key:
                raise SessionConflictError("the session id is taken by another session") from None

    async def _insert_session(self, new: NewSession) -> None:
        await insert(chat_sessions(), [session_document(new)])

    async def _ensure(self, new: NewSession, earlier: EarlierTries) -> bool | None:
        for _ in range(MAX_LOOKS):
            found = await chat_sessions().find_one({"session_id": new.session_id}, {"user_id": 1})
            if found is not None:
                if found["user_id"] != new.user_id:
                    return None
                return earlier.failed > 0 and found["_id"] == new.key
            await self._remove_leftovers(new.session_id)
            # A duplicate is another caller's insert, which the next look finds.
            with contextlib.suppress(DuplicateKeyError):
                await self._insert_session(new)
                return True
        raise SessionConflictError("the session is refused by a unique index that is not ours")

    async def _get(self, session_id: str, user_id: str) -> ChatSession | None:
        document = await chat_sessions().find_one({"session_id": session_id, "user_id": user_id})
        return None if document is None else to_session(document)

    async def _update(
        self, session_id: str, user_id: str, title: str | None, metadata: dict[str, Any] | None
    ) -> bool:
        values = {"title": title, "metadata": storable(metadata)}
        changes = {name: value for name, value in values.items() if value is not None}
        update: list[Filter] = [{"$max": {"updated_at": utc_now()}}]
        if changes:
            update.append({"$set": changes})
        found: Any = ChatSessionDocument.find_one({"session_id": session_id, "user_id": user_id})
        return bool((await found.update(*update)).matched_count)

    async def _list_page(self, user_id: str, offset: int, limit: int) -> list[ChatSession]:
        query = ChatSessionDocument.find({"user_id": user_id}).sort(NEWEST_FIRST)
        return [to_session(item) async for item in await raw_cursor(query.skip(offset).limit(limit))]

    async def _list_after(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int
    ) -> list[ChatSession]:
        where: Filter = {"user_id": user_id}
        if after is not None:
            updated_at, session_id = after
            where["updated_at"] = {"$lte": updated_at}
            where["$or"] = [{"updated_at": {"$lt": updated_at}}, {"session_id": {"$gt": session_id}}]
        query = ChatSessionDocument.find(where).sort(NEWEST_FIRST).limit(limit)
        return [to_session(item) async for item in await raw_cursor(query)]

    async def _count(self, user_id: str) -> int:
        count: int = await ChatSessionDocument.find({"user_id": user_id}).count()
        return count

    async def _export_sessions(
        self, user_id: str, after: ChatSession | None, limit: int
    ) -> list[ChatSession]:
        where: Filter = {"user_id": user_id}
        if after is not None:
            where["updated_at"] = {"$gte": after.updated_at}
            where["$or"] = [
                {"updated_at": {"$gt": after.updated_at}},
                {"session_id": {"$lt": after.session_id}},
            ]
        query = ChatSessionDocument.find(where).sort(OLDEST_FIRST).limit(limit)
        return [to_session(item) async for item in await raw_cursor(query)]

    async def remove_leftovers(self) -> Leftovers:
        """Remove the messages that work which died half-way has left; nobody sees them before either.

        Safe while others work. Reads the index of all messages, so it is for maintenance.
        """
        finished = await self._run("remove_leftovers", self._finish_work)
        removed = finished.removed
        after: str | None = ""
        while after is not None:
            orphaned, after = await self._run("remove_leftovers", self._find_orphaned, after)
            removed += await self._run("remove_leftovers", self._remove_leftovers, *orphaned)
        return Leftovers(removed, finished.under_way)

    def remove_leftovers_sync(self) -> Leftovers:
        """Block for `remove_leftovers`."""
        return run_blocking(self.remove_leftovers)
