"""Appends messages in MongoDB without transactions."""

from __future__ import annotations

from functools import partial
from typing import Any

from pymongo.errors import DocumentTooLarge, DuplicateKeyError, OperationFailure

from sessions.backends.mongodb.cleanup import mark_batch
from sessions.backends.mongodb.client import acknowledged_early, in_transaction
from sessions.backends.mongodb.edits import MongoEdits
from sessions.backends.mongodb.inserts import is_refused, not_stored
from sessions.backends.mongodb.mapping import (
    fits_transaction,
    is_one_write,
    message_document,
)
from sessions.core.identifiers import utc_now
from sessions.core.values import MessageRow, unfinished
from sessions.errors import MessageConflictError

__all__ = ["MongoMessages"]

# Attempts of an insert while other callers insert the same messages.
MAX_INSERT_ATTEMPTS = 10


class MongoMessages(MongoEdits):
    """Appends messages; the protocol is described in the module of `MongoBackend`."""

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
        for remembered in (self.manager.known.recall(session_id, user_id), None):
            known = remembered or await self._know(session_id, user_id)
            if known is None:
                return False
            if await self._append_to(known.oid, session_id, rows):
                return True
            self.manager.known.forget(session_id)
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
            missing = await self._not_stored(messages, documents)
        if not missing:
            return
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

    async def _not_stored(self, messages: Any, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the messages that are not stored yet; see `inserts.not_stored`."""
        # An edit that is still open may delete one of them, or replace it by a new version.
        await self._end_open_edit(documents[0]["session_id"])
        return await not_stored(messages, documents)

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
                        work = partial(self.insert_all, messages, missing, [])
                        await in_transaction(self.connection, work)
                    else:
                        await self.insert_all(messages, missing, inserted)
                    return
                except DuplicateKeyError:
                    missing = await self._not_stored(messages, documents)
                    if not missing:
                        return
            raise MessageConflictError("a message violates a unique index that is not part of this package")
        except (MessageConflictError, DocumentTooLarge, OperationFailure) as error:
            # No attempt can store these. After any other error the next attempt continues.
            if inserted and (not isinstance(error, OperationFailure) or is_refused(error)):
                await self._remove_messages(inserted)
            raise
