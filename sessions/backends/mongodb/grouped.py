"""Appends of several calls in MongoDB: one insert of all messages, then one update of all sessions.

What holds for a call that `MongoMessages.append` makes by itself holds for each call of a batch:

- One command inserts the calls of one message. The server stores each document whole or not at all, and
  reports those that it does not store. The messages of a call of several need a command of their own: the
  server inserts the documents of a command one by one as soon as it rejects one of them.
- One command updates the sessions. It is durable, and so are the inserts before it; it raises the version of
  a session by the number of calls.
- If a session is gone, the messages for it are removed.
- If the connection is lost, a command is repeated once, as the driver does with its own. What is in doubt
  then counts as not stored: its caller appends it by itself, finds what is stored by its ids, and does the
  rest.

MongoDB 8 has a command for writes to several collections. One round trip would do then, but the two parts
are not atomic there either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bson import Int64
from pymongo.errors import ConnectionFailure, DocumentTooLarge, OperationFailure

from sessions.backends.mongodb.collections import CHAT_MESSAGES
from sessions.backends.mongodb.errors import is_lost
from sessions.backends.mongodb.inserts import insert_each, is_refused, update_each
from sessions.backends.mongodb.known import KnownSession, known_session
from sessions.backends.mongodb.mapping import is_one_write, message_document
from sessions.backends.mongodb.messages import MongoMessages, not_updated, session_query
from sessions.backends.mongodb.reading import KNOWN_FIELDS, Document
from sessions.backends.mongodb.visibility import DROPPED_FIELD
from sessions.backends.mongodb.write_order import write_time
from sessions.core.values import Append
from sessions.errors import MessageConflictError
from sessions.models.documents import SESSION_FIELD

__all__ = ["MongoGroupedAppends"]


class _Call:
    """A call of a batch.

    Attributes:
        place: Its place in the batch.
        oid: ``_id`` of its session's document.
        append: What it appends.
        documents: Documents of its messages.
    """

    __slots__ = ("append", "documents", "oid", "place")

    def __init__(self, place: int, oid: Any, append: Append) -> None:
        self.place = place
        self.oid = oid
        self.append = append
        session_id = append.session_id
        self.documents = [message_document(session_id, oid, row) for row in append.rows]


class MongoGroupedAppends(MongoMessages):
    """Appends the messages of several calls at once."""

    async def append_many(self, appends: Sequence[Append]) -> list[bool]:
        known = await self._know_all(appends)
        calls = [
            _Call(place, found.oid, append)
            for place, (append, found) in enumerate(zip(appends, known, strict=True))
            # What needs a mark or a transaction is appended by itself. Calls may be cancelled until now.
            if found is not None and append.send() and (append.count == 1 or is_one_write(append.rows))
        ]
        stored = [False] * len(appends)
        for call in await self._append_calls(calls):
            stored[call.place] = True
        return stored

    async def _know_all(self, appends: Sequence[Append]) -> list[KnownSession | None]:
        """Return the sessions, looking up those that are not cached with one query."""
        known = self.manager.known
        found = [known.recall(append.session_id, append.user_id) for append in appends]
        if all(found):
            return found
        unknown = {append.session_id for append, one in zip(appends, found, strict=True) if one is None}
        documents = self.sessions.find({"session_id": {"$in": [*unknown]}}, KNOWN_FIELDS | {"session_id": 1})
        for document in await documents.to_list(None):
            known.remember(document["session_id"], known_session(document))
        return [
            one or (known.recall(append.session_id, append.user_id) if append.session_id in unknown else None)
            for append, one in zip(appends, found, strict=True)
        ]

    async def _append_calls(self, calls: list[_Call]) -> Iterable[_Call]:
        """Insert the messages, and update the sessions; return the calls that are complete."""
        connection = self.connection
        primary, early = connection.primary_identity(), connection.acknowledged_early(CHAT_MESSAGES)
        is_early = primary is not None and early is not None
        calls = await self._insert_calls(calls, early if is_early else self.messages)
        targets: dict[Any, list[_Call]] = {}
        for call in calls:
            targets.setdefault(call.oid, []).append(call)
        if not targets:
            return ()
        by_id = primary is not None
        updates = [_update(oid, of_session, by_id=by_id) for oid, of_session in targets.items()]
        was_lost = False
        try:
            matched, failed = await update_each(self.sessions, updates)
        except ConnectionFailure as error:
            if not is_lost(error):
                raise
            # At once, before another call of this process appends to the sessions.
            was_lost = True
            matched, failed = await update_each(self.sessions, [_not_yet(update) for update in updates])
        if is_early and connection.primary_identity() != primary:
            # The inserts may have been rolled back.
            return ()
        if matched == len(updates):
            return calls
        for place, of_session in enumerate(list(targets.values())):
            if place in failed:
                del targets[of_session[0].oid]
        return await self._without_gone(targets, None if was_lost else matched)

    async def _insert_calls(self, calls: list[_Call], messages: Any) -> list[_Call]:
        """Insert the messages of each call, all or none; return the calls whose messages it inserted."""
        single = [call for call in calls if call.append.count == 1]
        inserted = []
        for call in calls:
            if call.append.count > 1:
                try:
                    if await self._insert(call.documents, messages):
                        inserted.append(call)
                except (MessageConflictError, DocumentTooLarge, OperationFailure) as error:
                    if isinstance(error, OperationFailure) and not is_refused(error):
                        raise
        if single:
            documents = [call.documents[0] for call in single]
            refused = await self._insert_single(messages, documents)
            inserted += [call for place, call in enumerate(single) if place not in refused]
        return inserted

    async def _insert_single(self, messages: Any, documents: list[Document]) -> set[int]:
        """Insert messages independently of each other; return the places of those that it did not insert."""
        uuid = self._uuids.get(messages.name)
        try:
            return await insert_each(messages, documents, uuid)
        except ConnectionFailure as error:
            if not is_lost(error):
                raise
        # At once, because a later attempt cannot tell them from those of an earlier one.
        refused = await insert_each(messages, documents, uuid)
        ids = [documents[place]["_id"] for place in refused]
        found = await messages.find({"_id": {"$in": ids}}).to_list(None) if ids else []
        stored = {document["_id"]: document for document in found}
        return {place for place in refused if not _is_same(documents[place], stored)}

    async def _without_gone(self, targets: dict[Any, list[_Call]], matched: int | None) -> list[_Call]:
        """Remove the messages for sessions that are gone; return the calls to the others.

        Args:
            targets: The calls by the ``_id`` of their session.
            matched: How many sessions the update found; None if that is not known.
        """
        found = await self.sessions.find({"_id": {"$in": [*targets]}}, {"_id": 1}).to_list(None)
        there = {document["_id"] for document in found}
        gone = [call for oid, of_session in targets.items() if oid not in there for call in of_session]
        for call in gone:
            self.manager.known.forget(call.append.session_id)
        if gone:
            await self._remove_messages([document for call in gone for document in call.documents])
        # Otherwise the update found another session gone than this query.
        if matched not in (None, len(there)):
            return []
        return [call for oid in there for call in targets[oid]]


def _is_same(document: Document, stored: Document) -> bool:
    """Return whether a message was stored by the command whose response was lost."""
    found = stored.get(document["_id"], {})
    names = ("session_id", SESSION_FIELD, "role", "content", "write_order", "batch", DROPPED_FIELD)
    return all(found.get(name) == document.get(name) for name in names)


def _update(oid: Any, calls: list[_Call], *, by_id: bool) -> Document:
    """Return the update of a session that several calls append to."""
    last = max(document["write_order"] for call in calls for document in call.documents)
    return {
        "q": session_query(oid, calls[0].append.session_id, by_id=by_id),
        "u": {"$max": {"updated_at": write_time(last)}, "$inc": {"version": Int64(len(calls))}},
    }


def _not_yet(update: Document) -> Document:
    """Return an update that changes nothing if it was done before."""
    return update | {"q": update["q"] | not_updated(update["u"]["$max"]["updated_at"])}
