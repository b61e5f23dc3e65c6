"""Many new sessions with their messages in MongoDB, with few commands; each session whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError, OperationFailure

from sessions.backends.mongodb.client import in_transaction, is_conflict
from sessions.backends.mongodb.ending import in_chunks
from sessions.backends.mongodb.forking import MongoForking
from sessions.backends.mongodb.inserts import message_size
from sessions.backends.mongodb.mapping import TRANSACTION_BYTES, TRANSACTION_MESSAGES
from sessions.backends.mongodb.reading import Document
from sessions.errors import MessageConflictError

__all__ = ["MongoBulk", "NewConversation"]

NewConversation = tuple[Document, list[Document]]
"""Documents of a new session, and of its messages."""


class MongoBulk(MongoForking):
    """Stores many new sessions at once."""

    async def _store_many(self, conversations: list[NewConversation]) -> list[NewConversation]:
        """Store new sessions with their messages; return those that are to be stored one by one.

        One whose ids another writer has taken meanwhile is not stored; of the returned ones some may be.
        """
        refused: list[NewConversation] = []
        for group in _groups(conversations):
            if len(group) == 1:  # It may be too large for a transaction.
                refused += group
                continue
            if not self.manager.has_transactions:
                refused += await self._store_many_in_steps(group)
                continue
            try:
                await in_transaction(self.connection, partial(self._insert_many, group))
            except DuplicateKeyError:
                if self.manager.is_borrowed:  # The caller's transaction is aborted.
                    raise MessageConflictError("an id is taken by another session or message") from None
                refused += group
            except OperationFailure as error:
                if self.manager.is_borrowed or not is_conflict(error):
                    raise
                refused += group
        return refused

    async def _insert_many(self, group: list[NewConversation], client_session: Any) -> None:
        await self.insert(self.sessions, [chat_session for chat_session, _ in group], client_session)
        messages = [document for _, documents in group for document in documents]
        await self.insert_all(self.messages, messages, [], client_session)

    async def _store_many_in_steps(self, group: list[NewConversation]) -> list[NewConversation]:
        """Store them as `_insert_new_in_steps` does, with one command for each step of all of them."""
        tokens = [chat_session["_id"] for chat_session, _ in group]
        messages = [
            document | {"batch": chat_session["_id"]}
            for chat_session, documents in group
            for document in documents
        ]
        notes = [
            {
                "_id": ObjectId(),
                "session_ids": [],
                "edit": chat_session["_id"],
                "new_session_ids": [chat_session["session_id"]],
            }
            for chat_session, _ in group
        ]
        sessions = [
            chat_session | {"edit": {"token": chat_session["_id"], "wide": chat_session["_id"], "open": True}}
            for chat_session, _ in group
        ]
        await self.unfinished.insert_many(notes)
        taken = False
        try:
            await self.insert_all(self.messages, messages, [])
            await self.insert(self.sessions, sessions)
        except DuplicateKeyError:
            taken = True
        refused: list[NewConversation] = []
        committed = set(tokens)
        if taken:
            found = await self.sessions.find({"_id": {"$in": tokens}}, {"_id": 1}).to_list(None)
            committed = {document["_id"] for document in found}
            refused = [one for one in group if one[0]["_id"] not in committed]
            await self._take_back_many(refused)
        await self._end_many([one for one in group if one[0]["_id"] in committed])
        await self.unfinished.delete_many({"_id": {"$in": [note["_id"] for note in notes]}})
        return refused

    async def _take_back_many(self, group: list[NewConversation]) -> None:
        for part in in_chunks([document["_id"] for _, documents in group for document in documents]):
            tokens = [chat_session["_id"] for chat_session, _ in group]
            await self.messages.delete_many({"_id": {"$in": part}, "batch": {"$in": tokens}})

    async def _end_many(self, group: list[NewConversation]) -> None:
        """End the edits that stored these sessions; see `MongoEnding._end_edit`."""
        tokens = [chat_session["_id"] for chat_session, _ in group]
        for part in in_chunks([document["_id"] for _, documents in group for document in documents]):
            of_edits = {"_id": {"$in": part}, "batch": {"$in": tokens}}
            await self.messages.update_many(of_edits, {"$unset": {"batch": ""}})
        # Each token is the `_id` of its session.
        of_edits = {"_id": {"$in": tokens}, "$expr": {"$eq": ["$edit.token", "$_id"]}}
        await self.sessions.update_many(of_edits, {"$unset": {"edit.open": ""}})


def _groups(conversations: list[NewConversation]) -> Iterator[list[NewConversation]]:
    """Yield the sessions in groups that a transaction may hold on a server of any size, if not alone."""
    group: list[NewConversation] = []
    count = size = 0
    for conversation in conversations:
        documents = conversation[1]
        needed = sum(map(message_size, documents))
        if group and (count + len(documents) > TRANSACTION_MESSAGES or size + needed > TRANSACTION_BYTES):
            yield group
            group, count, size = [], 0, 0
        group.append(conversation)
        count += len(documents)
        size += needed
    if group:
        yield group
