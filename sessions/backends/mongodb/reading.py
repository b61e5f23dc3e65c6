"""Reads of messages in MongoDB, each consistent with one state of the session's document."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from sessions.backends.mongodb.collections import CHAT_SESSIONS, Filter, MongoCollections
from sessions.backends.mongodb.inserts import stored_batches
from sessions.backends.mongodb.known import KnownSession, known_session
from sessions.backends.mongodb.mapping import to_messages
from sessions.backends.mongodb.ordering import IN_ORDER, IN_REVERSE, after, before, position_of
from sessions.backends.mongodb.visibility import (
    DROPPED_FIELD,
    FIELDS,
    REVISED_FIELD,
    marks_in,
    of_session,
    visible,
)
from sessions.core.values import HistoryRange, Position
from sessions.models import ChatMessage, ChatSession
from sessions.models.documents import SESSION_FIELD
from sessions.validation import no_such_message

__all__ = ["KNOWN_FIELDS", "ONLY_NEEDED", "ONLY_PAYLOAD", "MongoReading", "PartOfHistory"]

KNOWN_FIELDS = {"user_id": 1, "edit": 1}
_MARKS = (SESSION_FIELD, "batch", DROPPED_FIELD)
# Neither absent nor None.
_HAS = {name: {"$gt": [f"${name}", None]} for name in _MARKS}
# The server counts the messages that only `SESSION_FIELD` can hide, and returns the others.
_ALIKE = {"$and": [_HAS[SESSION_FIELD], {"$not": {"$or": [_HAS["batch"], _HAS[DROPPED_FIELD]]}}]}
COUNTED: list[dict[str, Any]] = [
    {"$project": FIELDS},
    {
        "$group": {
            "_id": {"$cond": [_ALIKE, {SESSION_FIELD: f"${SESSION_FIELD}"}, "$$ROOT"]},
            "number": {"$sum": 1},
        }
    },
    {"$replaceWith": {"$mergeObjects": ["$_id", {"number": "$number"}]}},
]
# What a history needs once it is in order: each field takes time to decode, an ObjectId most of all. The
# server reads only these; to leave out others it would copy each document.
_SHOWS = dict.fromkeys(("message_id", "batch", DROPPED_FIELD, REVISED_FIELD), 1)
ONLY_PAYLOAD: Filter = {"$project": _SHOWS | {"payload": 1}}
ONLY_NEEDED: Filter = {
    "$project": _SHOWS | dict.fromkeys(("role", "content", "timestamp", "metadata", "payload"), 1)
}
# Documents in one batch of a cursor, which the server limits to 16 MB.
MAX_BATCH_SIZE = 10_000
# Sessions of an export that are read at the same time.
READERS = 8

Document = dict[str, Any]


class PartOfHistory(NamedTuple):
    """Which messages of a session to read.

    Attributes:
        where: Query, with the id of the session.
        order: Sort order; empty for none.
        limit: At most so many; None for all.
        then: Stages that the messages pass through.
    """

    where: Filter
    order: dict[str, int]
    limit: int | None
    then: list[Filter]

    def stages(self, where: Filter, left_out: int) -> list[Filter]:
        """Return the stages of a pipeline that reads so many more messages."""
        sort: list[Filter] = [{"$sort": self.order}] if self.order else []
        limit: list[Filter] = [] if self.limit is None else [{"$limit": self.limit + left_out}]
        return [{"$match": where}, *sort, *limit, *self.then]


class MongoReading(MongoCollections):
    """Reads visible messages; which ones these are says the module `visibility`."""

    async def history(self, session_id: str, user_id: str, part: HistoryRange) -> list[ChatMessage]:
        return to_messages(await self._range(session_id, user_id, part, ONLY_NEEDED), session_id)

    async def _range(
        self, session_id: str, user_id: str, part: HistoryRange, fields: Filter
    ) -> list[Document]:
        """Return the visible messages of a range, oldest first.

        Args:
            session_id: The session.
            user_id: Owner.
            part: The range.
            fields: The stage that leaves the fields to read.

        Raises:
            InvalidInputError: The user's session has no message with the id ``before`` or ``after``.
        """
        if part.limit == 0:
            return []
        where: Filter = {}
        argument, message_id = ("before", part.before) if part.before is not None else ("after", part.after)
        if message_id is not None:
            found = await self._find(session_id, user_id, message_id, argument)
            if found is None:
                return []
            where = (before if part.before is not None else after)(position_of(found))
        elif part.since is not None:
            where = {"timestamp": {"$gte": part.since}}
        newest = part.limit is not None and part.after is None and part.since is None
        order = IN_REVERSE if newest else IN_ORDER
        documents = await self._visible(
            session_id, user_id, where, order=order, limit=part.limit, then=[fields]
        )
        return documents[::-1] if documents and newest else documents or []

    async def get_message(self, session_id: str, user_id: str, message_id: str) -> ChatMessage | None:
        found = await self._find(session_id, user_id, message_id)
        return None if found is None else to_messages([found])[0]

    async def export_messages(
        self, session_id: str, user_id: str, after_position: Position | None, limit: int
    ) -> list[tuple[ChatMessage, Position]]:
        where = {} if after_position is None else after(after_position)
        found = await self._visible(session_id, user_id, where, limit=limit) or []
        return [
            (message, position_of(document))
            for message, document in zip(to_messages(found), found, strict=True)
        ]

    async def export_many(self, sessions: list[ChatSession], limit: int) -> list[list[ChatMessage] | None]:
        async def read(chat_session: ChatSession) -> list[ChatMessage] | None:
            key = chat_session.session_id, chat_session.user_id
            found = to_messages(await self._visible(*key, {}, limit=limit) or [])
            return found if len(found) < limit else None

        # A transaction takes one command at a time.
        at_once = 1 if self.manager.is_borrowed else READERS
        histories: list[list[ChatMessage] | None] = []
        for start in range(0, len(sessions), at_once):
            histories += await asyncio.gather(*map(read, sessions[start : start + at_once]))
        return histories

    async def _find(
        self, session_id: str, user_id: str, message_id: str, argument: str | None = None
    ) -> Document | None:
        """Return a visible message, or None.

        Args:
            session_id: The session.
            user_id: Owner.
            message_id: The message.
            argument: The name of the argument, if it is an error that the user's session has no such message.

        Raises:
            InvalidInputError: See there.
        """
        # Other programs have ids of their own: without one, the index serves all messages of the session.
        for where in ({"_id": message_id}, {"message_id": message_id}):
            found = await self._visible(session_id, user_id, where, order={})
            if found is None:
                return None
            if found:
                return found[0]
        if argument is not None:
            raise no_such_message(argument)
        return None

    async def count_messages(self, session_id: str, user_id: str) -> int:
        found = await self._visible(session_id, user_id, {}, order={}, then=COUNTED) or []
        if any(REVISED_FIELD in document for document in found):
            # While an edit ends, a new version may be stored twice.
            only_fields = [{"$project": FIELDS}]
            return len(await self._visible(session_id, user_id, {}, order={}, then=only_fields) or [])
        return sum(document["number"] for document in found)

    async def _visible(
        self,
        session_id: str,
        user_id: str,
        where: Filter,
        *,
        order: dict[str, int] = IN_ORDER,
        limit: int | None = None,
        then: list[Filter] | None = None,
    ) -> list[Document] | None:
        """Return the visible messages of a user's session, or None if there is no such session.

        Args:
            session_id: The session.
            user_id: Owner.
            where: Which messages.
            order: Sort order; empty for none.
            limit: At most so many.
            then: Stages that the messages pass through.
        """
        part = PartOfHistory({"session_id": session_id} | where, order, limit, then or [])
        known = self.manager.known.recall(session_id, user_id)
        # Repeated while the session is deleted and created again, or messages are edited, at the same time.
        while True:
            known = known or await self._know(session_id, user_id)
            if known is None:
                return None
            documents = await self._read(part, known)
            if documents is not None:
                return documents
            self.manager.known.forget(session_id)
            known = None

    async def _know(self, session_id: str, user_id: str | None) -> KnownSession | None:
        where = {"session_id": session_id} | ({} if user_id is None else {"user_id": user_id})
        found = await self.sessions.find_one(where, KNOWN_FIELDS)
        if found is None:
            return None
        self.manager.known.remember(session_id, known := known_session(found))
        return known

    async def _read(self, part: PartOfHistory, known: KnownSession) -> list[Document] | None:
        """Return the visible messages; None if the session was deleted, or several messages were edited."""
        if self.manager.is_borrowed:
            chosen = {"_id": known.oid, "user_id": known.user_id}
            found = await self.sessions.find_one(chosen, KNOWN_FIELDS)
            return None if found is None else await self._read_snapshot(part, found)
        return await self._read_visible(part, known.oid, partial(self._messages_then_session, known))

    async def _read_snapshot(
        self, part: PartOfHistory, chat_session: Document, client_session: Any = None
    ) -> list[Document]:
        """Return the visible messages, in a transaction, which reads from one snapshot."""

        async def fetch(stages: list[Filter]) -> tuple[list[Document], Any]:
            found = await self._aggregate(stages, session=client_session)
            return found, token_of(chat_session)

        return await self._read_visible(part, chat_session["_id"], fetch, client_session) or []

    async def _read_visible(
        self,
        part: PartOfHistory,
        session_oid: Any,
        fetch: Callable[[list[Filter]], Awaitable[tuple[list[Document], Any] | None]],
        client_session: Any = None,
    ) -> list[Document] | None:
        left_out = 0
        complete: set[Any] = set()
        where = part.where | of_session(session_oid)
        while True:
            fetched = await fetch(part.stages(where, left_out))
            if fetched is None:
                return None
            found, token = fetched
            if marks := marks_in(found, token) - complete:
                complete |= marks & {document.get("_id") for document in found}
            if marks := marks - complete:
                # The last message of these batches was not read. Read again: a batch may have become complete
                # after its part was read.
                complete |= await stored_batches(self.messages, marks, client_session)
                where = {"$and": [where, {"batch": {"$nin": list(marks - complete)}}]}
                continue
            documents = visible(found, session_oid, token, complete)
            if part.limit is None or len(documents) >= part.limit or len(found) < part.limit + left_out:
                return documents[: part.limit]
            left_out = part.limit + left_out - len(documents)

    async def _messages_then_session(
        self, known: KnownSession, stages: list[Filter]
    ) -> tuple[list[Document], Any] | None:
        """Return messages and the token of the session's last edit.

        None if the session was deleted before the last of them was read, or if an edit of several messages
        was committed since the session became known: some may have been read before it, some after.

        The server runs the pipeline of ``$unionWith`` after the first one is exhausted. A match on ``_id``
        alone needs no query planning.
        """
        session = {
            "coll": CHAT_SESSIONS,
            "pipeline": [{"$match": {"_id": known.oid}}, {"$project": KNOWN_FIELDS}],
        }
        found = await self._aggregate([*stages, {"$unionWith": session}])
        if not found or found[-1].get("_id") != known.oid or known_session(last := found.pop()) != known:
            return None
        return found, token_of(last)

    async def _aggregate(self, stages: list[Filter], **options: Any) -> list[Document]:
        # By default the first batch has 101 documents, and the rest takes another round trip.
        cursor = self.messages.aggregate(stages, batchSize=MAX_BATCH_SIZE, **options)
        # Motor's `aggregate` returns a cursor, not a coroutine.
        found: list[Document] = await (await cursor if inspect.isawaitable(cursor) else cursor).to_list(None)
        return found


def token_of(chat_session: Document) -> Any:
    """Return the token of a session's last edit, or None."""
    return (chat_session.get("edit") or {}).get("token")
