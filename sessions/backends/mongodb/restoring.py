"""Restores in MongoDB: a new session, or an edit of one that exists."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime
from typing import Any

from bson import Int64, ObjectId
from pymongo.errors import DuplicateKeyError

from sessions.backends.mongodb.bulk import MongoBulk
from sessions.backends.mongodb.collections import Filter
from sessions.backends.mongodb.edits import Edit
from sessions.backends.mongodb.ending import in_chunks
from sessions.backends.mongodb.forking import DELAY_SECONDS, PATIENT_ATTEMPTS
from sessions.backends.mongodb.mapping import RESTORED_FIELD, is_same, plain, storable
from sessions.backends.mongodb.reading import Document
from sessions.backends.mongodb.write_order import write_time
from sessions.core.identifiers import utc_now
from sessions.core.values import StoredMessage
from sessions.errors import MessageConflictError, SessionConflictError
from sessions.models import ChatSession
from sessions.models.documents import SESSION_FIELD, aware

__all__ = ["MongoRestoring"]

MAX_ATTEMPTS = 12


class MongoRestoring(MongoBulk):
    """Restores sessions with messages."""

    async def restore(self, chat_session: ChatSession, messages: list[StoredMessage]) -> None:
        await self._restore(chat_session, messages)

    async def _restore(
        self, chat_session: ChatSession, messages: list[StoredMessage], *, only_new: bool = False
    ) -> bool:
        """Restore a session; return whether it did, or False if it exists already, with ``only_new``."""
        session_id, user_id = chat_session.session_id, chat_session.user_id

        async def plan(found: Document, client_session: Any) -> Edit:
            return await self._plan_restore(found, chat_session, messages, client_session)

        for attempt in range(MAX_ATTEMPTS):
            found = await self.sessions.find_one({"session_id": session_id}, {"user_id": 1})
            if found is None:
                if await self._restore_new(chat_session, messages, wait=attempt < PATIENT_ATTEMPTS):
                    return True
                await asyncio.sleep(random.uniform(0, DELAY_SECONDS * (attempt + 1)))
            elif only_new:
                return False
            elif found["user_id"] != user_id:
                raise SessionConflictError("the session id is taken by another user's session")
            elif await self._edit(session_id, user_id, None, plan):
                return True
        raise SessionConflictError("the session has concurrent writers; restore it again later")

    async def restore_many(
        self, conversations: list[tuple[ChatSession, list[StoredMessage]]], only_new: bool
    ) -> list[str]:
        ids = [chat_session.session_id for chat_session, _ in conversations]
        await self.delete_orphaned(*ids)
        new, others = await self._new_ones(conversations)
        refused = await self._store_many([_new_documents(*conversation) for conversation in new])
        again = {chat_session["session_id"] for chat_session, _ in refused}
        others += [one for one in new if one[0].session_id in again]
        stored = {chat_session.session_id for chat_session, _ in new} - again
        # What exists is edited; so is what another writer stores meanwhile.
        for chat_session, messages in others:
            if await self._restore(chat_session, messages, only_new=only_new):
                stored.add(chat_session.session_id)
        return [session_id for session_id in ids if session_id in stored]

    async def _new_ones(
        self, conversations: list[tuple[ChatSession, list[StoredMessage]]]
    ) -> tuple[list[Any], list[Any]]:
        """Return the conversations of which nothing is stored, and the others."""
        taken: set[str] = set()
        # A transaction that meets a taken id stores nothing, and each of its sessions is restored by itself;
        # to look for 5000 ids takes a tenth of the time of their messages.
        if self.manager.is_borrowed or not self.manager.has_transactions:
            ids = [message.message_id for _, messages in conversations for message in messages]
            taken = {document["_id"] for document in await self._taken_for_good(ids)}
        absent = set(await self._absent([chat_session.session_id for chat_session, _ in conversations]))
        new: list[Any] = []
        others: list[Any] = []
        for chat_session, messages in conversations:
            is_new = chat_session.session_id in absent and taken.isdisjoint(
                message.message_id for message in messages
            )
            (new if is_new else others).append((chat_session, messages))
        return new, others

    async def _restore_new(
        self, chat_session: ChatSession, messages: list[StoredMessage], *, wait: bool
    ) -> bool:
        """Store a new session; return False if another writer stores it, or some of its messages.

        Args:
            chat_session: The session.
            messages: Its messages.
            wait: Whether the other writer may still be running.
        """
        session_id = chat_session.session_id
        await self.delete_orphaned(session_id)
        taken = await self._taken([message.message_id for message in messages])
        if any(document["session_id"] != session_id for document in taken):
            raise MessageConflictError("a message id is taken by a message of another session")
        if taken:
            if not wait:
                # An interrupted restore left them.
                for token in {token for document in taken if (token := document.get("batch")) is not None}:
                    await self._take_back(session_id, token)
            return False
        new, documents = _new_documents(chat_session, messages)
        try:
            await self._store_new(new, documents)
        except DuplicateKeyError:
            if self.manager.is_borrowed:  # The caller's transaction is aborted.
                raise MessageConflictError("a message id is taken by another message") from None
            return False
        return True

    async def _plan_restore(
        self,
        found: Document,
        chat_session: ChatSession,
        messages: list[StoredMessage],
        client_session: Any,
    ) -> Edit:
        given = {
            message.message_id: _document(chat_session.session_id, found["_id"], message)
            for message in messages
        }
        stored = await self._free(given, found, client_session)
        missing = [message for message in messages if message.message_id not in stored]
        for part in in_chunks(missing):
            stored |= await self._of_other_programs(found, part, client_session)
        values = _values(chat_session) | {RESTORED_FIELD: _time_of(messages)}
        edit = Edit(result=True, stages=[{"$set": _literals(values)}])
        for message_id, document in given.items():
            if (old := stored.get(message_id)) is None:
                edit.add.append(document)
            elif not _is_stored(document, old):
                edit.revise.append(_revised(document, old))
        return edit

    async def _of_other_programs(
        self, chat_session: Document, messages: list[StoredMessage], client_session: Any
    ) -> dict[str, Document]:
        """Return those of the messages that are stored under another ``_id``, by message id."""
        times = [message.timestamp for message in messages]
        # A range of the index: without it, the query reads all messages of the session.
        where: Filter = {
            "timestamp": {"$gte": _milliseconds(min(times)), "$lte": max(times)},
            "message_id": {"$in": [message.message_id for message in messages]},
        }
        found = await self._read_for_edit(chat_session, where, client_session, order={})
        return {document["message_id"]: document for document in found}


def _new_documents(
    chat_session: ChatSession, messages: list[StoredMessage]
) -> tuple[Document, list[Document]]:
    """Return the document of a new session, and those of its messages."""
    oid, session_id = ObjectId(), chat_session.session_id
    new = {"_id": oid, "session_id": session_id, "user_id": chat_session.user_id} | _values(chat_session)
    new[RESTORED_FIELD] = _time_of(messages)
    return new, [_document(session_id, oid, message) for message in messages]


def _time_of(messages: list[StoredMessage]) -> datetime:
    """Return the time of a restore, which is not before the write order of any of its messages."""
    return max([utc_now(), *(write_time(message.write_order) for message in messages)])


def _values(chat_session: ChatSession) -> Document:
    return {
        "title": chat_session.title,
        "created_at": chat_session.created_at,
        "updated_at": chat_session.updated_at,
        "metadata": storable(chat_session.metadata),
        "version": Int64(chat_session.version),
    }


def _literals(values: Document) -> Document:
    # In an update pipeline, "$" begins an expression.
    return {name: {"$literal": value} for name, value in values.items()}


def _document(session_id: str, session_oid: Any, message: StoredMessage) -> Document:
    document = {
        "_id": message.message_id,
        "message_id": message.message_id,
        "session_id": session_id,
        SESSION_FIELD: session_oid,
        "role": message.role,
        "content": message.content,
        "timestamp": message.timestamp,
        "write_order": Int64(message.write_order),
    }
    if message.metadata:
        document["metadata"] = storable(message.metadata)
    if message.payload is not None:
        document["payload"] = message.payload
    return document


def _is_stored(new: Document, old: Document) -> bool:
    return (
        all(new.get(name) == old.get(name) for name in ("role", "content", "payload"))
        and _milliseconds(new["timestamp"]) == aware(old["timestamp"])
        and is_same(plain(new.get("metadata") or {}), plain(old.get("metadata") or {}))
    )


def _revised(new: Document, old: Document) -> Document:
    """Return a new version of a stored message, which keeps its write order if its timestamp stays."""
    revised = new | {"_id": old["_id"]}
    if _milliseconds(new["timestamp"]) == aware(old["timestamp"]):
        if "write_order" in old:
            revised["write_order"] = old["write_order"]
        else:
            del revised["write_order"]
    return revised


def _milliseconds(moment: Any) -> Any:
    """Return a point in time as MongoDB stores it."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
