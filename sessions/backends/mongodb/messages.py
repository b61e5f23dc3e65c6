"""Appends messages in MongoDB without transactions, and reads those that are visible."""

from __future__ import annotations

import inspect
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from pymongo.errors import DocumentTooLarge, DuplicateKeyError, OperationFailure

from sessions.backends.mongodb.cleanup import MongoCleanup, mark_batch
from sessions.backends.mongodb.client import acknowledged_early, in_transaction
from sessions.backends.mongodb.collections import CHAT_SESSIONS, Filter
from sessions.backends.mongodb.inserts import in_commands, is_refused, not_stored, stored_batches
from sessions.backends.mongodb.mapping import (
    fits_transaction,
    is_one_write,
    is_uuid7,
    message_document,
    to_messages,
)
from sessions.core.identifiers import utc_now, uuid7_time
from sessions.core.values import HistoryRange, MessageRow, Position, unfinished
from sessions.errors import MessageConflictError
from sessions.models import ChatMessage
from sessions.validation import no_such_message

__all__ = ["MongoMessages"]

IN_ORDER = {"timestamp": 1, "message_id": 1}
IN_REVERSE = {"timestamp": -1, "message_id": -1}
# Attempts of an insert while other callers insert the same messages.
MAX_INSERT_ATTEMPTS = 10
# Documents in one batch of a cursor, which the server limits to 16 MB.
MAX_BATCH_SIZE = 10_000


class _Owned(NamedTuple):
    """A session as it is cached, and whether the read is in a caller's transaction."""

    session_id: str
    session_oid: Any
    user_id: str
    in_transaction: bool


class MongoMessages(MongoCleanup):
    """Appends and reads messages; the protocol is described in the module of `MongoBackend`."""

    async def append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        unfinished(merge, expected_version, *(row[3:] for row in rows if any(row[3:])))
        # At most twice: the cached document may have been deleted.
        for remembered in (self.manager.recall(session_id, user_id), None):
            session_oid = remembered or await self._find_session_oid(session_id, user_id)
            if session_oid is None:
                return False
            if await self._append_to(session_oid, session_id, rows):
                return True
            self.manager.forget(session_id)
        return False

    async def _append_to(self, session_oid: Any, session_id: str, rows: list[MessageRow]) -> bool:
        """Insert messages, all or none, and bump the session."""
        documents = [message_document(session_id, session_oid, row) for row in rows]
        if is_one_write(rows):
            return await self._append_at_once(session_oid, session_id, documents)
        # A caller's transaction is atomic anyway.
        if self.manager.is_borrowed or (self.manager.has_transactions and fits_transaction(rows)):
            # Without the update of the session, which in a busy session would cause write conflicts.
            await self._insert(documents, self.messages, at_once=True)
        else:
            await self._insert_marked(session_id, documents)
        return await self._bump(session_oid, session_id, documents)

    async def _append_at_once(
        self, session_oid: Any, session_id: str, documents: list[dict[str, Any]]
    ) -> bool:
        """Append messages that one insert stores atomically, and wait for the journal once."""
        connection = self.connection
        primary, early = connection.primary_identity(), acknowledged_early(self.messages)
        if primary is not None and early is not None:
            await self._insert(documents, early)
            bumped = await self._bump(session_oid, session_id, documents)
            # A durable update makes all earlier writes of the same primary durable. After an election or a
            # restart in between, the insert may have been rolled back.
            if not bumped or connection.primary_identity() == primary:
                return bumped
        await self._insert(documents, self.messages)
        return await self._bump(session_oid, session_id, documents)

    async def _bump(self, session_oid: Any, session_id: str, documents: list[dict[str, Any]]) -> bool:
        """Bump the session, which makes inserted messages visible; undo the inserts if it is deleted."""
        moment = max((document["timestamp"] for document in documents), default=utc_now())
        bumped = await self.sessions.update_one(
            {"_id": session_oid, "session_id": session_id},
            {"$max": {"updated_at": moment}},
        )
        if bumped.matched_count:
            return True
        if documents:
            await self._remove_messages(documents)
        return False

    async def _insert_marked(self, session_id: str, documents: list[dict[str, Any]]) -> None:
        """Insert messages that are visible only once all of them are stored.

        Raises:
            MessageConflictError: One of the ids is taken by another message; none of them is stored.
        """
        missing, messages = documents, self.messages
        # The mark is the id of the last one: if that were stored, those inserted before it would be visible.
        if await messages.find_one({"_id": documents[-1]["_id"]}, {"_id": 1}):
            missing = await not_stored(messages, documents)
        if not missing:
            return
        refusal: Exception | None = None
        async with self._noted([session_id], mark := mark_batch(missing)):
            try:
                await self._insert(missing, messages)
            except (MessageConflictError, OperationFailure) as error:
                if not (isinstance(error, MessageConflictError) or is_refused(error)):
                    raise
                refusal = error
                await self._remove_incomplete_batch([session_id], mark)
        if refusal is not None:
            raise refusal

    async def _insert(self, documents: list[dict[str, Any]], messages: Any, *, at_once: bool = False) -> None:
        """Insert messages in order; an earlier attempt may have stored some, or may still be running.

        Args:
            documents: The messages.
            messages: Target collection.
            at_once: Whether to insert them in a transaction.

        Raises:
            MessageConflictError: One of the ids is taken by another message; none of them was inserted.
            DocumentTooLarge: One of them is too large for the server; none of them was inserted.
            OperationFailure: The server rejects one of them; none of them was inserted.
        """
        inserted: list[dict[str, Any]] = []
        try:
            missing = documents
            for _ in range(MAX_INSERT_ATTEMPTS):
                try:
                    if at_once:
                        work = partial(self._insert_all, messages, missing, [])
                        await in_transaction(self.connection, work)
                    else:
                        await self._insert_all(messages, missing, inserted)
                    return
                except DuplicateKeyError:
                    missing = await not_stored(messages, documents)
                    if not missing:
                        return
            raise MessageConflictError("a message violates a unique index that is not part of this package")
        except (MessageConflictError, DocumentTooLarge, OperationFailure) as error:
            # No attempt can store these. After any other error the next attempt continues.
            if inserted and (not isinstance(error, OperationFailure) or is_refused(error)):
                await self._remove_messages(inserted)
            raise

    async def _insert_all(
        self,
        collection: Any,
        messages: list[dict[str, Any]],
        inserted: list[dict[str, Any]],
        client_session: Any = None,
    ) -> None:
        """Insert messages in order, with as many commands as they need.

        Args:
            collection: Target collection.
            messages: Documents of the messages.
            inserted: Collects the inserted ones, also if a later one is rejected.
            client_session: Client session of a transaction, or None.

        Raises:
            OperationFailure: See `insert`.
        """
        for part in in_commands(messages):
            try:
                await self.insert(collection, part, client_session)
            except OperationFailure as error:
                inserted += part[: (error.details or {}).get("index", 0)]
                raise
            inserted += part

    async def _find_session_oid(self, session_id: str, user_id: str | None) -> Any:
        where = {"session_id": session_id} | ({} if user_id is None else {"user_id": user_id})
        found = await self.sessions.find_one(where, {"user_id": 1})
        if found is None:
            return None
        self.manager.remember(session_id, found["_id"], found["user_id"])
        return found["_id"]

    async def history(self, session_id: str, user_id: str, part: HistoryRange) -> list[ChatMessage]:
        unfinished(part.after, part.since)
        if part.limit == 0:
            return []
        limit, before = part.limit, part.before
        where: Filter = {"session_id": session_id}
        if before is not None:
            moment = await self._timestamp_of(session_id, user_id, before)
            if moment is None:
                return []
            where["timestamp"] = {"$lte": moment}
            where["$or"] = [{"timestamp": {"$lt": moment}}, {"message_id": {"$lt": before}}]
        order = IN_ORDER if limit is None else IN_REVERSE
        messages = await self._read_owned(session_id, user_id, where, order, limit)
        if limit is not None:
            messages.reverse()
        return messages

    async def _timestamp_of(self, session_id: str, user_id: str, message_id: str) -> datetime | None:
        """Return the time of a visible message; None if the user has no such session.

        Raises:
            InvalidInputError: The session has no such message.
        """
        where: Filter = {"session_id": session_id, "message_id": message_id}
        # With the time in the id the index finds one entry; without it, the query scans all of the session.
        hints: list[Filter] = [{"timestamp": uuid7_time(message_id)}] if is_uuid7(message_id) else []
        for hint in [*hints, {}]:
            if found := await self._read_owned(session_id, user_id, where | hint, IN_ORDER, 1):
                return found[0].timestamp
        if await self._find_session_oid(session_id, user_id) is None:
            return None
        raise no_such_message("before")

    async def export_messages(
        self, session_id: str, user_id: str, after: Position | None, limit: int
    ) -> list[tuple[ChatMessage, Position]]:
        where: Filter = {"session_id": session_id}
        if after is not None:
            where["timestamp"] = {"$gte": after[0]}
            where["$or"] = [
                {"timestamp": {"$gt": after[0]}},
                {"message_id": {"$gt": after[2]}},
            ]
        found = await self._read_owned(session_id, user_id, where, IN_ORDER, limit)
        return [(message, (message.timestamp, 0, message.message_id)) for message in found]

    async def _read_owned(
        self, session_id: str, user_id: str, where: Filter, order: dict[str, int], limit: int | None
    ) -> list[ChatMessage]:
        """Return messages if the same session document, of this owner, existed before and after the read."""
        for remembered in (self.manager.recall(session_id, user_id), None):
            session_oid = remembered or await self._find_session_oid(session_id, user_id)
            if session_oid is None:
                return []
            owned = _Owned(session_id, session_oid, user_id, self.manager.is_borrowed)
            messages = await self._read(where, order, limit, owned)
            if messages is not None:
                return messages
            self.manager.forget(session_id)
        return []

    async def _read(
        self, where: Filter, order: dict[str, int], limit: int | None, owned: _Owned
    ) -> list[ChatMessage] | None:
        """Return the visible messages, up to a limit; None if their session was deleted during the read.

        Messages of an earlier session with the same id, and of an incomplete batch, are left out.
        """
        left_out = 0
        complete: set[Any] = set()
        while True:
            found = await self._messages_then_session(where, order, limit and limit + left_out, owned)
            if found is None:
                return None
            marks = {mark for document in found if "batch" in document and (mark := document["batch"])}
            if marks := marks - complete:
                complete |= marks & {document["_id"] for document in found}
            if marks := marks - complete:
                # The last message of these batches was not read. Read again: a batch may have become complete
                # after its part was read.
                complete |= await stored_batches(self.messages, marks)
                where = {"$and": [where, {"batch": {"$nin": list(marks - complete)}}]}
                continue
            messages = to_messages(found, owned.session_oid)
            if limit is None or len(messages) >= limit or len(found) < limit + left_out:
                return messages[:limit]
            left_out = len(found) - len(messages)

    async def _messages_then_session(
        self, where: Filter, order: dict[str, int], limit: int | None, owned: _Owned
    ) -> list[dict[str, Any]] | None:
        """Return messages, or None if their session was deleted before the last of them was read.

        The server runs the pipeline of ``$unionWith`` after the first one is exhausted. A match on ``_id``
        alone needs no query planning.
        """
        if owned.in_transaction:
            return await self._messages_in_snapshot(where, order, limit, owned)
        session = {
            "coll": CHAT_SESSIONS,
            "pipeline": [{"$match": {"_id": owned.session_oid}}, {"$unset": "metadata"}],
        }
        pipeline: list[Filter] = [{"$match": where}, {"$sort": order}]
        pipeline += [{"$limit": limit}] if limit is not None else []
        # By default the first batch has 101 documents, and the rest takes another round trip.
        cursor = self.messages.aggregate([*pipeline, {"$unionWith": session}], batchSize=MAX_BATCH_SIZE)
        # Motor's `aggregate` returns a cursor, not a coroutine.
        found: list[dict[str, Any]] = await (await cursor if inspect.isawaitable(cursor) else cursor).to_list(
            None
        )
        if not found or "message_id" in found[-1] or found.pop()["user_id"] != owned.user_id:
            return None
        return found

    async def _messages_in_snapshot(
        self, where: Filter, order: dict[str, int], limit: int | None, owned: _Owned
    ) -> list[dict[str, Any]] | None:
        """Do as `_messages_then_session`, in a transaction, which reads from one snapshot."""
        chosen = {"_id": owned.session_oid, "user_id": owned.user_id}
        if await self.sessions.find_one(chosen, {"_id": 1}) is None:
            return None
        found = self.messages.find(where, sort=list(order.items()), limit=limit or 0)
        documents: list[dict[str, Any]] = await found.to_list(None)
        return documents
