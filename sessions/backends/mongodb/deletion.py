"""Deleting in MongoDB: a session with its messages, and the orphaned messages of an interrupted delete."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from pymongo.errors import OperationFailure

from sessions.backends.mongodb.cleanup import MongoCleanup
from sessions.backends.mongodb.client import in_transaction, is_conflict
from sessions.backends.mongodb.collections import CHAT_MESSAGES, NEWEST_FIRST, Filter, raw_cursor
from sessions.backends.mongodb.expressions import has_metadata, has_version
from sessions.core.values import EarlierAttempts, Where
from sessions.models.documents import ChatSessionDocument

__all__ = ["MongoDeletion"]

# Sessions deleted in one transaction, which has to end within a minute.
DELETE_BATCH_SIZE = 100
WITHOUT_MESSAGES: list[Filter] = [
    {
        "$lookup": {
            "from": CHAT_MESSAGES,
            "localField": "session_id",
            "foreignField": "session_id",
            "pipeline": [{"$limit": 1}, {"$project": {"_id": 1}}],
            "as": "messages",
        }
    },
    {"$match": {"messages": []}},
    {"$project": {"_id": 1}},
]


class MongoDeletion(MongoCleanup):
    """Deletes in one transaction where the server has them, else the session first."""

    async def delete(
        self, session_id: str, user_id: str, expected_version: int | None, earlier: EarlierAttempts
    ) -> bool:
        chosen = {"session_id": session_id, "user_id": user_id} | has_version(expected_version)

        async def work(client_session: Any) -> int:
            gone: int = (await self.sessions.delete_one(chosen, session=client_session)).deleted_count
            if gone:
                await self.messages.delete_many({"session_id": session_id}, session=client_session)
            return gone

        deleted: int | None
        manager = self.manager
        if manager.has_transactions and not manager.is_borrowed and await self._is_without_messages(chosen):
            # The transaction of a process that is killed keeps its locks for a minute; one write has none. An
            # append at the same time undoes itself, as on a standalone server.
            deleted = (await self.sessions.delete_one(chosen)).deleted_count
        else:
            deleted = await self._try_transaction(work)
        if deleted is None:
            await self._delete_session_first(chosen, earlier)
        else:
            # For the next attempt, should the following fail.
            earlier.may_have_worked |= bool(deleted)
            # Also where nothing was deleted: an earlier delete may have been interrupted.
            await self.delete_orphaned(session_id)
        if not earlier.may_have_worked and expected_version is not None:
            await self.check_version(session_id, user_id, expected_version)
        return earlier.may_have_worked

    async def _is_without_messages(self, chosen: Filter) -> bool:
        """Return whether the session exists without a message; messages of other owners are not read."""
        found = self.sessions.aggregate([{"$match": chosen}, *WITHOUT_MESSAGES])
        # Motor's `aggregate` returns a cursor, not a coroutine.
        return bool(await (await found if inspect.isawaitable(found) else found).to_list(None))

    async def _delete_session_first(self, chosen: Filter, earlier: EarlierAttempts) -> None:
        found = await self.sessions.find_one(chosen, {"_id": 1})
        if not found:
            await self.delete_orphaned(chosen["session_id"])
            return
        async with self._noted([chosen["session_id"]]):
            earlier.may_have_worked |= bool((await self.sessions.delete_one(chosen | found)).deleted_count)
            # Another caller may create the session again before its messages are deleted.
            await self.delete_orphaned(chosen["session_id"], former=[found["_id"]])

    async def _try_transaction(self, work: Callable[[Any], Awaitable[int]]) -> int | None:
        """Return None where the server has no transactions, or each attempt met a write conflict."""
        if not self.manager.has_transactions:
            return None
        try:
            return await in_transaction(self.connection, work)
        except OperationFailure as error:
            if not is_conflict(error):
                raise
            return None

    async def delete_beyond(self, user_id: str, keep_last_n: int, limit: int) -> int:
        return await self._delete_batch({"user_id": user_id}, skip=keep_last_n)

    async def delete_older(
        self, cutoff: datetime, user_id: str | None, where: Where | None, limit: int
    ) -> int:
        chosen: Filter = {"updated_at": {"$lt": cutoff}} | has_metadata(where)
        return await self._delete_batch(chosen if user_id is None else chosen | {"user_id": user_id})

    async def delete_user(self, user_id: str, limit: int) -> int:
        return await self._delete_batch({"user_id": user_id})

    async def _delete_batch(self, where: Filter, skip: int = 0) -> int:
        """Delete some sessions with their messages; return 0 only if none remains."""
        session_ids: list[str] = []

        async def work(client_session: Any) -> int:
            found = await self._choose(where, skip, client_session)
            ids = [document["_id"] for document in found]
            session_ids[:] = [document["session_id"] for document in found]
            if found:
                await self.sessions.delete_many({"_id": {"$in": ids}}, session=client_session)
                await self.messages.delete_many({"session_id": {"$in": session_ids}}, session=client_session)
            return len(found)

        deleted = await self._try_transaction(work)
        if deleted is None:
            deleted = await self._delete_sessions_first(where, skip)
        if not deleted:
            await self.clean_up_unfinished()
        # A message appended after the transaction began is not in its snapshot, and conflicts with it only
        # if it changes `updated_at`.
        if session_ids:
            late = await self.messages.distinct("session_id", {"session_id": {"$in": session_ids}})
            if late:
                await self.delete_orphaned(*late)
        return deleted

    async def _delete_sessions_first(self, where: Filter, skip: int) -> int:
        deleted = 0
        while not deleted and (found := await self._choose(where, skip)):
            async with self._noted([document["session_id"] for document in found]):
                deleted = await self._delete_chosen(found, where, skip)
        return deleted

    async def _delete_chosen(self, found: list[dict[str, Any]], where: Filter, skip: int) -> int:
        ids = [document["_id"] for document in found]
        chosen = where | {"_id": {"$in": ids}}
        if skip:
            # A session with a message appended since it was chosen may now be among those to keep.
            same = [{"_id": document["_id"], "updated_at": document["updated_at"]} for document in found]
            chosen |= {"$or": same}
        deleted: int = (await self.sessions.delete_many(chosen)).deleted_count
        # Messages of sessions that still exist stay.
        await self.delete_orphaned(*(document["session_id"] for document in found), former=ids)
        return deleted

    async def _choose(self, where: Filter, skip: int, client_session: Any = None) -> list[dict[str, Any]]:
        query = ChatSessionDocument.find(where, session=client_session)
        # Only skipping needs an order.
        query = query.sort(NEWEST_FIRST).skip(skip) if skip else query
        found: list[dict[str, Any]] = await raw_cursor(query.limit(DELETE_BATCH_SIZE), self.sessions).to_list(
            None
        )
        return found
