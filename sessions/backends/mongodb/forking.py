"""New sessions that are stored with messages in MongoDB, all or none."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

from bson import Int64, ObjectId
from pymongo.errors import DuplicateKeyError, OperationFailure

from sessions.backends.mongodb.client import in_transaction, is_conflict
from sessions.backends.mongodb.edits import MongoEdits, is_large
from sessions.backends.mongodb.ending import Prepared, in_chunks
from sessions.backends.mongodb.mapping import session_document
from sessions.backends.mongodb.ordering import before, position_of
from sessions.backends.mongodb.reading import Document
from sessions.core.identifiers import new_message_id
from sessions.core.values import NewSession
from sessions.models.documents import SESSION_FIELD

__all__ = ["MongoForking"]

# Another caller that stores the same messages ends within these attempts, unless its process was killed.
PATIENT_ATTEMPTS = 6
DELAY_SECONDS = 0.1
COPIED = ("role", "content", "timestamp", "metadata", "payload")


class MongoForking(MongoEdits):
    """Stores new sessions with their messages."""

    async def fork(self, session_id: str, user_id: str, through: str | None, new: NewSession) -> bool:
        if await self.sessions.find_one({"session_id": new.session_id}, {"_id": 1}) is not None:
            return True
        where = {}
        if through is not None:
            last = await self._find(session_id, user_id, through, "through")
            if last is None:
                return False
            where = before(position_of(last), inclusive=True)
        found = await self._visible(session_id, user_id, where)
        if found is None:
            return False
        # Each attempt stores messages of its own: those of an earlier one, which may still arrive, never
        # belong to its session.
        chat_session = session_document(new) | {"_id": ObjectId()}
        copies = [_copy(document, chat_session, place) for place, document in enumerate(found)]
        try:
            await self._store_new(chat_session, copies)
        except DuplicateKeyError:
            # The id is new: an earlier attempt has stored it meanwhile.
            if await self.sessions.find_one({"session_id": new.session_id}, {"_id": 1}) is None:
                raise
        return True

    async def _store_new(self, chat_session: Document, messages: list[Document]) -> None:
        """Store a new session with its messages, all or none.

        Without a transaction the messages are inserted first, as those of an edit whose token is the ``_id``
        of the session, and the insert of the session commits it.

        Args:
            chat_session: Document of the session.
            messages: Documents of the messages, whose `SESSION_FIELD` is its ``_id``.

        Raises:
            DuplicateKeyError: The id of the session or of a message is taken; nothing is stored.
        """
        if not messages:
            await self.insert(self.sessions, [chat_session])
            return
        if self.manager.has_transactions and (self.manager.is_borrowed or not is_large(messages)):
            try:
                await in_transaction(self.connection, partial(self._insert_new, chat_session, messages))
                return
            except OperationFailure as error:
                if self.manager.is_borrowed or not is_conflict(error):
                    raise
        # Also if the transaction of a killed process holds the ids for up to a minute: these writes wait.
        await self._insert_new_in_steps(chat_session, messages)

    async def _insert_new(
        self, chat_session: Document, messages: list[Document], client_session: Any
    ) -> None:
        await self.insert(self.sessions, [chat_session], client_session)
        await self.insert_all(self.messages, messages, [], client_session)

    async def _insert_new_in_steps(self, chat_session: Document, messages: list[Document]) -> None:
        session_id, token = chat_session["session_id"], chat_session["_id"]
        prepared = Prepared(added=[document["_id"] for document in messages])
        taken: DuplicateKeyError | None = None
        async with self._noted([], edit=token, new_session_ids=[session_id]):
            try:
                await self._insert_missing([document | {"batch": token} for document in messages], token)
                edit = {"token": token, "wide": token, "open": True}
                await self.insert(self.sessions, [chat_session | {"edit": edit}])
            except DuplicateKeyError as error:
                # An earlier attempt with the same key may have committed it.
                if await self.sessions.find_one({"_id": token}, {"_id": 1}) is None:
                    taken = error
            if taken is None:
                ended = await self._end_edit(session_id, token, token, prepared)
                if ended < len(messages):
                    # Ended by an earlier attempt; or another caller took them for left over.
                    await self._insert_missing(messages, token)
            else:
                await self._take_back(session_id, token, prepared)
        if taken is not None:
            raise taken

    async def _insert_missing(self, messages: list[Document], token: Any) -> None:
        """Insert messages but those that an earlier attempt with the same key has stored."""
        missing = messages
        while missing:
            try:
                await self.insert_all(self.messages, missing, [])
                return
            except DuplicateKeyError:
                stored: set[Any] = set()
                for part in in_chunks([document["_id"] for document in missing]):
                    found = self.messages.find({"_id": {"$in": part}, SESSION_FIELD: token}, {"_id": 1})
                    stored |= {document["_id"] for document in await found.to_list(None)}
                if not stored:
                    raise
                missing = [document for document in missing if document["_id"] not in stored]

    async def _taken_for_good(self, ids: list[str]) -> list[Document]:
        """Return the messages that have one of these ids, with a few of their fields.

        Those that an interrupted creation of a session has left are deleted: they were stored before their
        session, which does not exist. One that is still running is waited for; should it take longer, it
        stores them again.
        """
        left: list[Document] = []
        for attempt in range(PATIENT_ATTEMPTS):
            taken = await self._taken(ids)
            hidden = [document for document in taken if isinstance(document.get("batch"), ObjectId)]
            absent = await self._absent({document["session_id"] for document in hidden})
            left = [document for document in hidden if document["session_id"] in absent]
            if not left:
                return taken
            if attempt + 1 < PATIENT_ATTEMPTS:
                await asyncio.sleep(random.uniform(0, DELAY_SECONDS * (attempt + 1)))
        tokens = list({document["batch"] for document in left})
        for part in in_chunks([document["_id"] for document in left]):
            await self.messages.delete_many({"_id": {"$in": part}, "batch": {"$in": tokens}})
        return await self._taken(ids)

    async def _taken(self, ids: list[str]) -> list[Document]:
        found: list[Document] = []
        for part in in_chunks(ids):
            only = {"session_id": 1, "batch": 1, SESSION_FIELD: 1}
            found += await self.messages.find({"_id": {"$in": part}}, only).to_list(None)
        return found


def _copy(document: Document, chat_session: Document, place: int) -> Document:
    """Return a copy of a message for another session, where the place alone decides among equal times."""
    message_id = new_message_id()
    copied = {name: document[name] for name in COPIED if name in document}
    return {
        "_id": message_id,
        "message_id": message_id,
        "session_id": chat_session["session_id"],
        SESSION_FIELD: chat_session["_id"],
        "write_order": Int64(place),
    } | copied
