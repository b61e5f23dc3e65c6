"""Reads of the plans of edits in MongoDB, in a transaction or on a session that may change meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bson import ObjectId

from sessions.backends.mongodb.collections import Filter
from sessions.backends.mongodb.ending import in_chunks
from sessions.backends.mongodb.known import known_session
from sessions.backends.mongodb.ordering import IN_ORDER
from sessions.backends.mongodb.reading import Document, MongoReading, PartOfHistory, token_of
from sessions.errors import MessageConflictError

__all__ = ["ChangedError", "MongoPlanning"]


class ChangedError(Exception):
    """The session has changed since it was read."""


class MongoPlanning(MongoReading):
    """Reads the messages that an edit is planned for."""

    async def _read_for_edit(
        self,
        chat_session: Document,
        where: Filter,
        client_session: Any,
        *,
        order: dict[str, int] = IN_ORDER,
        limit: int | None = None,
        then: list[Filter] | None = None,
    ) -> list[Document]:
        """Return visible messages of the session that an edit is planned for.

        Raises:
            ChangedError: The session was deleted or edited.
        """
        part = PartOfHistory({"session_id": chat_session["session_id"]} | where, order, limit, then or [])
        if client_session is not None or self.manager.is_borrowed:
            return await self._read_snapshot(part, chat_session, client_session)
        found = await self._read(part, known_session(chat_session))
        if found is None:
            raise ChangedError
        return found

    async def _free(self, ids: Iterable[str], chat_session: Document, client_session: Any) -> dict[str, Any]:
        """Return those visible messages of a session that have one of these ids, by id.

        Messages of the session that are not visible, as an interrupted operation leaves them, are deleted.

        Raises:
            MessageConflictError: One of the ids is taken by a message of another session.
        """
        stored: dict[str, Any] = {}
        for part in in_chunks(list(ids)):
            taken = await self.messages.find({"_id": {"$in": part}}, session=client_session).to_list(None)
            if any(document["session_id"] != chat_session["session_id"] for document in taken):
                raise MessageConflictError("a message id is taken by another message")
            if not taken:
                continue
            where = {"_id": {"$in": [document["_id"] for document in taken]}}
            seen = await self._read_for_edit(chat_session, where, client_session, order={})
            stored |= {document["_id"]: document for document in seen}
            hidden = [document for document in taken if document["_id"] not in stored]
            # In a transaction the commit changes the token at the same time.
            fences = bool(hidden) and client_session is None and not self.manager.is_borrowed
            if fences:
                await self._fence(chat_session)
            for document in hidden:
                same = {name: document.get(name) for name in ("_id", "session_oid", "batch")}
                await self.messages.delete_many(same, session=client_session)
            if fences:
                raise ChangedError
        return stored

    async def _fence(self, chat_session: Document) -> None:
        """Let the commits of other edits fail that are planned on this state of the session.

        The same call may be under way twice: what seems to be left by an interrupted edit may be prepared for
        one that is about to be committed.

        Raises:
            ChangedError: Another edit was committed.
        """
        chosen = {"_id": chat_session["_id"], "edit.token": token_of(chat_session)}
        fenced = await self.sessions.update_one(chosen, {"$set": {"edit.token": ObjectId()}})
        if not fenced.matched_count:
            raise ChangedError
