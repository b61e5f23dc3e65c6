"""Appends messages in MongoDB: two writes without a transaction, or an edit.

`append` inserts the messages, and then updates the session: the messages are visible from their insert on,
and the append is complete with the update. An append that depends on the version of the session, or that
changes its metadata, is an edit: nothing of it is visible before the update of the session.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from bson import Int64
from pymongo.errors import ConnectionFailure, DocumentTooLarge, DuplicateKeyError, OperationFailure

from sessions.backends.mongodb.cleanup import mark_batch
from sessions.backends.mongodb.client import in_transaction
from sessions.backends.mongodb.collections import CHAT_MESSAGES
from sessions.backends.mongodb.edits import Edit, MongoEdits
from sessions.backends.mongodb.ending import in_chunks
from sessions.backends.mongodb.errors import is_lost
from sessions.backends.mongodb.expressions import metadata_merged
from sessions.backends.mongodb.inserts import is_refused
from sessions.backends.mongodb.mapping import (
    RESTORED_FIELD,
    fits_transaction,
    is_one_write,
    is_same,
    message_document,
    plain,
)
from sessions.backends.mongodb.reading import Document
from sessions.backends.mongodb.stored import MongoStored
from sessions.backends.mongodb.write_order import write_time
from sessions.core.values import MessageRow
from sessions.errors import MessageConflictError, VersionConflictError

__all__ = ["MongoMessages", "not_updated", "session_query"]

# Attempts of an insert while other callers insert the same messages.
MAX_INSERT_ATTEMPTS = 10


class MongoMessages(MongoStored, MongoEdits):
    """Appends messages; the protocol is described in the module of `MongoBackend`."""

    async def append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        if merge is not None or expected_version is not None:
            return await self._append_by_edit(session_id, user_id, rows, merge, expected_version)
        if not rows:
            return await self._know(session_id, user_id) is not None
        # At most twice: the cached document may have been deleted.
        for remembered in (self.manager.known.recall(session_id, user_id), None):
            known = remembered or await self._know(session_id, user_id)
            if known is None:
                return False
            if await self._append_to(known.oid, session_id, rows):
                return True
            self.manager.known.forget(session_id)
        return False

    # -- As an edit --------------------------------------------------------------------------------

    async def _append_by_edit(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        async def plan(chat_session: Document, client_session: Any) -> Edit:
            ids = [row.message_id for row in rows]
            stored = await self._free(ids, chat_session, client_session)
            missing = [row for row in rows if not _is_stored(row, stored)]
            if rows and not missing:
                return Edit(result=True)
            metadata = plain(chat_session.get("metadata") or {})
            changes = merge is not None and not is_same(metadata, metadata | merge)
            return Edit(
                result=True,
                add=[message_document(session_id, chat_session["_id"], row) for row in missing],
                stages=[metadata_merged(merge)] if merge is not None and changes else [],
            )

        try:
            return bool(await self._edit(session_id, user_id, expected_version, plan))
        except VersionConflictError:
            if rows and await self._are_stored(session_id, user_id, rows):
                return True
            raise

    async def _are_stored(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        """Return whether all of these messages are visible."""
        known = await self._know(session_id, user_id)
        if known is None:
            return False
        stored: dict[str, Document] = {}
        for ids in in_chunks([row.message_id for row in rows]):
            found = await self._visible(session_id, known.user_id, {"_id": {"$in": ids}}, order={})
            stored |= {document["_id"]: document for document in found or []}
        return all(_is_stored(row, stored) for row in rows)

    # -- In two writes -----------------------------------------------------------------------------

    async def _append_to(self, session_oid: Any, session_id: str, rows: list[MessageRow]) -> bool:
        """Insert messages, all or none, and update the session."""
        documents = [message_document(session_id, session_oid, row) for row in rows]
        if is_one_write(rows):
            return await self._append_at_once(session_oid, session_id, documents)
        # A caller's transaction is atomic anyway.
        if self.manager.is_borrowed or (self.manager.has_transactions and fits_transaction(rows)):
            # Without the update of the session, which in a busy session would cause write conflicts.
            stores = await self._insert(documents, self.messages, at_once=True)
        else:
            stores = await self._insert_marked(session_id, documents)
        return await self._update_session(session_oid, session_id, documents, stores=stores)

    async def _append_at_once(self, session_oid: Any, session_id: str, documents: list[Document]) -> bool:
        """Append messages that one insert stores atomically, and wait for the journal once."""
        connection = self.connection
        primary, early = connection.primary_identity(), connection.acknowledged_early(CHAT_MESSAGES)
        if primary is not None and early is not None:
            stores = await self._insert(documents, early)
            updated = await self._update_session(session_oid, session_id, documents, stores=stores)
            # A durable update makes all earlier writes of the same primary durable. After an election or a
            # restart in between, the insert may have been rolled back.
            if not updated or connection.primary_identity() == primary:
                return updated
        stores = await self._insert(documents, self.messages)
        return await self._update_session(session_oid, session_id, documents, stores=stores)

    async def _update_session(
        self, session_oid: Any, session_id: str, documents: list[Document], *, stores: bool
    ) -> bool:
        """Raise the version and ``updated_at`` of the session; undo the inserts if it is deleted.

        Args:
            session_oid: ``_id`` of its document.
            session_id: The session.
            documents: The messages, with the write order that is stored.
            stores: Whether this attempt stored one of them. Otherwise the session is updated only if it has
                not changed since they were written: the earlier attempt may have ended before its update.
                A restore stores messages with an ``updated_at`` that is earlier than their write.

        Returns:
            Whether the session exists.
        """
        moment = max(write_time(document["write_order"]) for document in documents)
        by_id = self.connection.primary_identity() is not None
        chosen = session_query(session_oid, session_id, by_id=by_id)
        condition: Document = {}
        if not stores:
            condition = not_updated(moment)
        update = {"$max": {"updated_at": moment}, "$inc": {"version": Int64(1)}}
        try:
            updated = await self.sessions.update_one(chosen | condition, update)
        except ConnectionFailure as error:
            if not stores or self.manager.is_borrowed or not is_lost(error):
                raise
            # At once, before another call of this process appends to the session.
            return await self._update_session(session_oid, session_id, documents, stores=False)
        if updated.matched_count:
            return True
        if not stores and await self.sessions.find_one(chosen, {"_id": 1}) is not None:
            return True
        await self._remove_messages(documents)
        return False

    async def _insert_marked(self, session_id: str, documents: list[Document]) -> bool:
        """Insert messages that are visible only once all of them are stored.

        Returns:
            Whether one of them was not stored before.

        Raises:
            MessageConflictError: One of the ids is taken by another message; none of them is stored.
        """
        missing, messages = documents, self.messages
        # The mark is the id of the last one: if that were stored, those inserted before it would be visible.
        if await messages.find_one({"_id": documents[-1]["_id"]}, {"_id": 1}):
            missing, taken_over = await self._not_stored(messages, documents)
            if not missing:
                return taken_over
        refusal: Exception | None = None
        async with self._noted([session_id], batch=(mark := mark_batch(missing))):
            try:
                await self._insert(missing, messages)
            except (MessageConflictError, OperationFailure) as error:
                if not (isinstance(error, MessageConflictError) or is_refused(error)):
                    raise
                refusal = error
                await self._remove_incomplete_batch([session_id], mark)
        if refusal is not None:
            raise refusal
        return True

    async def _insert(self, documents: list[Document], messages: Any, *, at_once: bool = False) -> bool:
        """Insert messages in order; an earlier attempt may have stored some, or may still be running.

        Args:
            documents: The messages.
            messages: Target collection.
            at_once: Whether to insert them in a transaction.

        Returns:
            Whether one of them was not stored before.

        Raises:
            MessageConflictError: One of the ids is taken by another message; none of them was inserted.
            DocumentTooLarge: One of them is too large for the server; none of them was inserted.
            OperationFailure: The server rejects one of them; none of them was inserted.
        """
        inserted: list[Document] = []
        missing, stores, was_lost = documents, False, False
        try:
            for _ in range(MAX_INSERT_ATTEMPTS):
                try:
                    if at_once:
                        work = partial(self.insert_all, messages, missing, [])
                        await in_transaction(self.connection, work)
                    else:
                        await self.insert_all(messages, missing, inserted)
                    return True
                except DuplicateKeyError:
                    written = {document["_id"]: document["write_order"] for document in missing}
                    missing, taken_over = await self._not_stored(messages, documents)
                    still = {document["_id"] for document in missing}
                    # Those with this write order were stored by the command whose response was lost.
                    stores |= taken_over or (
                        was_lost
                        and any(
                            document["_id"] in written.keys() - still
                            and document["write_order"] == written[document["_id"]]
                            for document in documents
                        )
                    )
                    if not missing:
                        return stores or bool(inserted)
                except ConnectionFailure as error:
                    if was_lost or self.manager.is_borrowed or not is_lost(error):
                        raise
                    was_lost = True
            raise MessageConflictError("a message violates a unique index that is not part of this package")
        except (MessageConflictError, DocumentTooLarge, OperationFailure) as error:
            # No attempt can store these. After any other error the next attempt continues.
            if inserted and (not isinstance(error, OperationFailure) or is_refused(error)):
                await self._remove_messages(inserted)
            raise


def not_updated(moment: datetime) -> Document:
    """Return a query for sessions that were last written before a message of this write time."""
    return {"updated_at": {"$lt": moment}, RESTORED_FIELD: {"$not": {"$gte": moment}}}


def session_query(session_oid: Any, session_id: str, *, by_id: bool) -> Document:
    """Return a query for a session's document.

    Args:
        session_oid: Its ``_id``.
        session_id: Its session.
        by_id: Whether to name the ``_id`` alone: the server plans no such query, which halves the time of an
            update. A sharded cluster needs the id of the session, to find the shard.
    """
    return {"_id": session_oid} if by_id else {"_id": session_oid, "session_id": session_id}


def _is_stored(row: MessageRow, stored: dict[str, Document]) -> bool:
    """Return whether a message is stored.

    Raises:
        MessageConflictError: Another message of the session has its id.
    """
    found = stored.get(row.message_id)
    if found is None:
        return False
    if (found["role"], found["content"]) != (row.role, row.content):
        raise MessageConflictError("a message id is taken by another message")
    return True
