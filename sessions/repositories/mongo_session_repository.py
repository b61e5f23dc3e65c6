"""Sessions in MongoDB. Two collections and, on a standalone server, no transactions: the order matters.

A session id may be deleted and created anew, by another user too, while others are at work on it. What
tells the two apart is the *incarnation*, the ``_id`` of the session's document:

- A message is inserted while a known incarnation exists, and counts only once that same incarnation has
  been bumped; if it is gone, the insert is undone.
- A history is read between two looks at the same incarnation, without the messages of earlier ones.
- Leftovers (of a process that died between two steps) are removed by their own ``_id``, and only if
  there was no session before and after they were listed. So nothing that counts goes with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from beanie import SortDirection
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from sessions import validation
from sessions.connections import ConnectionFactory, ConnectionType
from sessions.connections.mongodb import MongoConnectionManager, in_transaction, is_conflict, raw_cursor
from sessions.models import ChatMessage, ChatSession
from sessions.models.documents import ChatMessageDocument, ChatSessionDocument, bound_to
from sessions.repositories.async_session_repository import AsyncSessionRepository
from sessions.repositories.backend_operations import MessageRow, NewSession
from sessions.repositories.identifiers import utc_now, uuid7_time
from sessions.repositories.mongo_documents import (
    belongs_to,
    check_batch_size,
    check_size,
    is_one_write,
    is_uuid7,
    message_document,
    session_document,
    session_object_id,
    storable,
    to_message,
    to_session,
)
from sessions.repositories.session_repository_factory import SessionRepositoryType, register_repository
from sessions.resilience import MONGODB_RETRY_CONFIG, RetryConfig

__all__ = ["MongoSessionRepository"]

R = TypeVar("R")
Filter = dict[str, Any]

UP, DOWN = SortDirection.ASCENDING, SortDirection.DESCENDING
NEWEST_FIRST = [("updated_at", DOWN), ("session_id", UP)]
OLDEST_FIRST = [("updated_at", UP), ("session_id", DOWN)]
IN_ORDER = [("timestamp", UP), ("message_id", UP)]
IN_REVERSE = [("timestamp", DOWN), ("message_id", DOWN)]

# Sessions deleted in one transaction, which has to end within a minute.
DELETE_BATCH_SIZE = 100
LEFTOVER_BATCH_SIZE = 1000
DUPLICATE_KEY = 11000


@register_repository(SessionRepositoryType.MONGODB)
class MongoSessionRepository(AsyncSessionRepository):
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

    def _check_size(self, argument: str, value: str | dict[str, Any] | None) -> None:
        check_size(argument, value)

    def _check_batch_size(self, rows: list[MessageRow]) -> None:
        check_batch_size(rows)

    async def _run(self, operation: str, work: Callable[..., Awaitable[R]], *arguments: Any) -> R:
        async def bound() -> R:
            connection = await self._mongo.connect()
            async with connection.turn():
                with bound_to(connection.collections):
                    return await work(*arguments)

        return await super()._run(operation, bound)

    # -- Sessions ----------------------------------------------------------------------------------

    async def _create(self, new: NewSession) -> None:
        with contextlib.suppress(DuplicateKeyError):  # The id is new: an earlier try stored it.
            await _sessions().insert_one(session_document(new))

    async def _ensure(self, new: NewSession, is_retry: bool) -> bool | None:
        while True:
            found = await _sessions().find_one({"session_id": new.session_id}, {"user_id": 1})
            if found is not None:
                if found["user_id"] != new.user_id:
                    return None
                return is_retry and found["_id"] == session_object_id(new)
            await self._remove_leftovers(new.session_id)
            # A duplicate is another caller's insert, which the next look finds.
            with contextlib.suppress(DuplicateKeyError):
                await _sessions().insert_one(session_document(new))
                return True

    async def _get(self, session_id: str, user_id: str) -> ChatSession | None:
        document = await _sessions().find_one({"session_id": session_id, "user_id": user_id})
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

    # -- Messages ----------------------------------------------------------------------------------

    async def _add(
        self, session_id: str, user_id: str | None, message_id: str, role: str, content: str
    ) -> bool:
        return await self._append(session_id, user_id, [(message_id, role, content)])

    async def _add_batch(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        return await self._append(session_id, user_id, rows)

    async def _append(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        # Twice at the most: what was remembered may be an incarnation that is gone.
        for remembered in (self._mongo.recall(session_id, user_id), None):
            incarnation = remembered or await self._find_incarnation(session_id, user_id)
            if incarnation is None:
                return False
            if await self._append_to(incarnation, session_id, rows):
                return True
            self._mongo.forget(session_id)
        return False

    async def _append_to(self, incarnation: Any, session_id: str, rows: list[MessageRow]) -> bool:
        """Insert messages and bump the session; undo the insert if that incarnation is gone."""
        documents = [message_document(session_id, incarnation, row) for row in rows]
        if is_one_write(rows) or not self._mongo.has_transactions:
            await _insert(documents)
        else:
            # Without the bump: those of others would be in its way, again and again in a busy session.
            await in_transaction(await self._mongo.connect(), partial(_insert_all, documents))
        moment = max((document["timestamp"] for document in documents), default=utc_now())
        bumped = await _sessions().update_one(
            {"_id": incarnation, "session_id": session_id},
            {"$max": {"updated_at": moment}},
        )
        if bumped.matched_count:
            return True
        if documents:
            ids = [document["_id"] for document in documents]
            await _messages().delete_many({"_id": {"$in": ids}})
        return False

    async def _find_incarnation(self, session_id: str, user_id: str | None) -> Any:
        where = {"session_id": session_id} | ({} if user_id is None else {"user_id": user_id})
        found = await _sessions().find_one(where, {"user_id": 1})
        if found is None:
            return None
        self._mongo.remember(session_id, found["_id"], found["user_id"])
        return found["_id"]

    async def _history(
        self, session_id: str, user_id: str, limit: int | None, before: str | None
    ) -> list[ChatMessage]:
        where: Filter = {"session_id": session_id}
        if before is not None:
            moment = await self._timestamp_of(session_id, before)
            if moment is None:
                return []
            where["timestamp"] = {"$lte": moment}
            where["$or"] = [{"timestamp": {"$lt": moment}}, {"message_id": {"$lt": before}}]
        query = ChatMessageDocument.find(where).sort(IN_ORDER if limit is None else IN_REVERSE)
        messages = await self._read_owned(session_id, user_id, query, limit)
        if limit is not None:
            messages.reverse()
        return messages

    @staticmethod
    async def _timestamp_of(session_id: str, message_id: str) -> datetime | None:
        where: Filter = {"session_id": session_id, "message_id": message_id}
        # The time in the id leads straight to the index entry; without, all of the session's are read.
        hints: list[Filter] = [{"timestamp": uuid7_time(message_id)}] if is_uuid7(message_id) else []
        for hint in [*hints, {}]:
            if found := await _messages().find_one(where | hint, {"timestamp": 1}):
                moment: datetime = found["timestamp"]
                return moment
        return None

    async def _export_messages(
        self, session_id: str, user_id: str, after: ChatMessage | None, limit: int
    ) -> list[ChatMessage]:
        where: Filter = {"session_id": session_id}
        if after is not None:
            where["timestamp"] = {"$gte": after.timestamp}
            where["$or"] = [
                {"timestamp": {"$gt": after.timestamp}},
                {"message_id": {"$gt": after.message_id}},
            ]
        query = ChatMessageDocument.find(where).sort(IN_ORDER)
        return await self._read_owned(session_id, user_id, query, limit)

    async def _read_owned(
        self, session_id: str, user_id: str, query: Any, limit: int | None
    ) -> list[ChatMessage]:
        """Return a query's messages if one incarnation, of this owner, was there from before to after."""
        for remembered in (self._mongo.recall(session_id, user_id), None):
            incarnation = remembered or await self._find_incarnation(session_id, user_id)
            if incarnation is None:
                return []
            messages = await _read(query, incarnation, limit)
            if await _sessions().find_one({"_id": incarnation, "user_id": user_id}, {"_id": 1}):
                return messages
            self._mongo.forget(session_id)
        return []

    # -- Deleting ----------------------------------------------------------------------------------

    async def _delete(self, session_id: str, user_id: str) -> bool:
        chosen = {"session_id": session_id, "user_id": user_id}

        async def work(client_session: Any) -> int:
            gone: int = (await _sessions().delete_one(chosen, session=client_session)).deleted_count
            if gone:
                await _messages().delete_many({"session_id": session_id}, session=client_session)
            return gone

        deleted = await self._try_transaction(work)
        if deleted is None:
            deleted = (await _sessions().delete_one(chosen)).deleted_count
        # Also where nothing was deleted: an earlier delete may have died half-way.
        await self._remove_leftovers(session_id)
        return bool(deleted)

    async def _try_transaction(self, work: Callable[[Any], Awaitable[int]]) -> int | None:
        """Return None where there are no transactions, or others kept writing to the same documents."""
        if not self._mongo.has_transactions:
            return None
        try:
            return await in_transaction(await self._mongo.connect(), work)
        except OperationFailure as error:
            if not is_conflict(error):
                raise
            return None

    async def _delete_beyond(self, user_id: str, keep_last_n: int, limit: int) -> int:
        return await self._delete_batch({"user_id": user_id}, skip=keep_last_n)

    async def _delete_older(self, cutoff: datetime, user_id: str | None, limit: int) -> int:
        where: Filter = {"updated_at": {"$lt": cutoff}}
        return await self._delete_batch(where if user_id is None else where | {"user_id": user_id})

    async def _delete_user(self, user_id: str, limit: int) -> int:
        return await self._delete_batch({"user_id": user_id})

    async def _delete_batch(self, where: Filter, skip: int = 0) -> int:
        """Delete some sessions with their messages; 0 only if none is left to delete."""
        session_ids: list[str] = []

        async def work(client_session: Any) -> int:
            found = await self._choose(where, skip, client_session)
            ids = [document["_id"] for document in found]
            session_ids[:] = [document["session_id"] for document in found]
            if found:
                await _sessions().delete_many({"_id": {"$in": ids}}, session=client_session)
                await _messages().delete_many({"session_id": {"$in": session_ids}}, session=client_session)
            return len(found)

        deleted = await self._try_transaction(work)
        if deleted is None:
            return await self._delete_one_by_one(where, skip)
        # A message that came after the transaction began, and bumped to a time that was there already,
        # was not seen and did not stop it.
        if session_ids:
            late = await _messages().distinct("session_id", {"session_id": {"$in": session_ids}})
            for session_id in late:
                await self._remove_leftovers(session_id)
        return deleted

    async def _delete_one_by_one(self, where: Filter, skip: int) -> int:
        deleted = 0
        while not deleted and (found := await self._choose(where, skip)):
            for document in found:
                # A session that got a message since it was chosen may not be old, or to skip, any longer.
                same = {"updated_at": document["updated_at"]} if skip else {}
                chosen = where | {"_id": document["_id"]} | same
                if (await _sessions().delete_one(chosen)).deleted_count:
                    deleted += 1
                    await self._remove_leftovers(document["session_id"])
        return deleted

    @staticmethod
    async def _choose(where: Filter, skip: int, client_session: Any = None) -> list[dict[str, Any]]:
        query = ChatSessionDocument.find(where, session=client_session)
        # An order is only needed for what to skip.
        query = query.sort(NEWEST_FIRST).skip(skip) if skip else query
        return [item async for item in await raw_cursor(query.limit(DELETE_BATCH_SIZE))]

    async def _remove_leftovers(self, session_id: str) -> None:
        """Remove the messages of a session that is not there."""
        absent = {"session_id": session_id}
        while not await _sessions().find_one(absent, {"_id": 1}):
            cursor = _messages().find(absent, {"_id": 1}).limit(LEFTOVER_BATCH_SIZE)
            leftovers = [message["_id"] async for message in cursor]
            # Looked at again: what was listed while there was a session may count for it.
            if not leftovers or await _sessions().find_one(absent, {"_id": 1}):
                return
            await _messages().delete_many({"_id": {"$in": leftovers}})


def _sessions() -> Any:
    return ChatSessionDocument.get_pymongo_collection()


def _messages() -> Any:
    return ChatMessageDocument.get_pymongo_collection()


async def _read(query: Any, incarnation: Any, limit: int | None) -> list[ChatMessage]:
    """Return a query's messages, up to a limit, without those that were for an earlier incarnation."""
    belongs, left_out = belongs_to(incarnation), 0
    while True:
        cursor = await raw_cursor(query if limit is None else query.limit(limit + left_out))
        found = await cursor.to_list(None)
        messages = [to_message(document) for document in found if belongs(document)]
        if limit is None or len(messages) >= limit or len(found) < limit + left_out:
            return messages[:limit]
        left_out = len(found) - len(messages)


async def _insert_all(documents: list[dict[str, Any]], client_session: Any) -> None:
    """Insert messages in a transaction; an earlier try whose answer was lost may have stored all."""
    first = {"_id": documents[0]["_id"]}
    if await _messages().find_one(first, {"_id": 1}, session=client_session) is None:
        await _messages().insert_many(documents, session=client_session)


async def _insert(documents: list[dict[str, Any]]) -> None:
    """Insert messages; an earlier try whose answer was lost may have stored some of them, or all."""
    if len(documents) == 1:
        with contextlib.suppress(DuplicateKeyError):
            await _messages().insert_one(documents[0])
    elif documents:
        try:
            await _messages().insert_many(documents)
        except BulkWriteError as error:
            if not _is_duplicate(error):
                raise
            ids = [document["_id"] for document in documents]
            stored = {found["_id"] async for found in _messages().find({"_id": {"$in": ids}}, {"_id": 1})}
            if missing := [item for item in documents if item["_id"] not in stored]:
                await _messages().insert_many(missing)


def _is_duplicate(error: BulkWriteError) -> bool:
    return all(failure["code"] == DUPLICATE_KEY for failure in error.details["writeErrors"])
