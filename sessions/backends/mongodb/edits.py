"""Edits in MongoDB: changes of a session and its messages that take effect at once.

An edit has a token. It is committed by one update of the session's document, which sets ``edit``:

- ``token``: of the last committed edit. An edit is planned on what it read, and it is committed only if the
  token is still the same; otherwise it is planned again.
- ``wide``: the token of the last edit of several messages. A reader compares it with what it was before the
  read, because a scan is no snapshot.
- ``open``: true until the edit has ended.

In a transaction the messages are written plainly. Without one, they are prepared before the commit, and no
reader sees it (`visibility`): the messages to delete are marked with the token in ``dropped_by``, and the new
ones are inserted with the token as their ``batch``. A new version of a message is a document of its own, with
the ``_id`` of the message in ``revises``. After the commit readers see all of it. Its process or the next
edit ends it: new versions replace the messages, what is dropped is deleted, and the marks are removed. Each
of these writes names the token, so a late repetition changes nothing.

The previous release hides messages of an unknown ``batch``, and ignores the other fields: it sees the edit
only when it ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import bson
from bson import ObjectId
from pymongo import ReplaceOne
from pymongo.errors import DocumentTooLarge, DuplicateKeyError, OperationFailure

from sessions.backends.mongodb.cleanup import MongoCleanup
from sessions.backends.mongodb.client import in_transaction, is_conflict
from sessions.backends.mongodb.collections import Filter
from sessions.backends.mongodb.ending import Prepared, in_chunks, new_version, without_marks
from sessions.backends.mongodb.expressions import NEXT_VERSION, has_version
from sessions.backends.mongodb.inserts import is_refused
from sessions.backends.mongodb.known import KnownSession, known_session
from sessions.backends.mongodb.ordering import IN_ORDER
from sessions.backends.mongodb.reading import Document, MongoReading, PartOfHistory, token_of
from sessions.backends.mongodb.visibility import DROPPED_FIELD
from sessions.core.identifiers import utc_now
from sessions.errors import MessageConflictError, VersionConflictError

__all__ = ["Edit", "MongoEdits", "Plan", "is_large"]

# Messages that a transaction writes at most; more are edited without one.
TRANSACTION_MESSAGES = 5000
TRANSACTION_BYTES = 16 * 1024 * 1024
MAX_INSERT_ATTEMPTS = 10


@dataclass(slots=True)
class Edit:
    """What an edit changes.

    Attributes:
        result: What the operation returns.
        drop: Messages to delete, as they were read.
        add: Documents of new messages.
        revise: Documents of new versions of messages, with their ``_id``.
        stages: Stages of an update pipeline that change the session further.
    """

    result: Any
    drop: list[Document] = field(default_factory=list)
    add: list[Document] = field(default_factory=list)
    revise: list[Document] = field(default_factory=list)
    stages: list[Filter] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.drop or self.add or self.revise or self.stages)

    def of_session(self, chat_session: Document, token: Any, *, is_open: bool) -> Document:
        """Return the field ``edit`` of the session's document after the commit."""
        is_wide = len(self.drop) + len(self.add) + len(self.revise) > 1
        wide = token if is_wide else (chat_session.get("edit") or {}).get("wide")
        return {"token": token, "wide": wide} | ({"open": True} if is_open else {})


Plan = Callable[[Document, Any], Awaitable[Edit]]
"""Returns the edit for a session's document, in the transaction of a client session or without one (None)."""


@dataclass(slots=True, frozen=True)
class _Request:
    session_id: str
    user_id: str | None
    expected_version: int | None
    plan: Plan


@dataclass(slots=True, frozen=True)
class _Done:
    result: Any
    known: KnownSession


class _ChangedError(Exception):
    """The session has changed since it was read."""


class _TooLargeError(Exception):
    """The edit is too large for a transaction."""


class MongoEdits(MongoReading, MongoCleanup):
    """Edits a session: in a transaction where the server has them, else in steps of which one decides."""

    async def _edit(
        self, session_id: str, user_id: str | None, expected_version: int | None, plan: Plan
    ) -> Any:
        """Edit a session; return the result of the plan, or None if the user has no such session.

        Args:
            session_id: The session.
            user_id: Owner; None for the session of any user.
            expected_version: The version that the session must have; None for any.
            plan: Returns the edit; called again if the session changes in between.

        Raises:
            VersionConflictError: The session has another version; nothing is changed.
            MessageConflictError: Only from the plan; nothing is changed.
        """
        request = _Request(session_id, user_id, expected_version, plan)
        done = await self._edit_somehow(request)
        if done is None:
            return None
        self.manager.known.remember(session_id, done.known)
        return done.result

    async def _edit_somehow(self, request: _Request) -> _Done | None:
        if self.manager.has_transactions:
            try:
                for _ in range(MAX_INSERT_ATTEMPTS):
                    try:
                        return await in_transaction(self.connection, partial(self._edit_at_once, request))
                    except (DuplicateKeyError, _ChangedError):
                        # The next plan finds who has taken the id. A caller's transaction is aborted.
                        if self.manager.is_borrowed:
                            raise MessageConflictError("a message id is taken by another message") from None
            except _TooLargeError:
                pass
            except OperationFailure as error:
                if self.manager.is_borrowed or not is_conflict(error):
                    raise
        while True:
            try:
                return await self._edit_in_steps(request)
            except _ChangedError:
                continue  # Another edit was committed.

    async def _find_session(self, request: _Request, client_session: Any = None) -> Document | None:
        """Return the session's document, with no edit that is still open."""
        chosen = {"session_id": request.session_id}
        if request.user_id is not None:
            chosen["user_id"] = request.user_id
        found: Document | None = await self.sessions.find_one(chosen, session=client_session)
        if found is None:
            return None
        if (found.get("edit") or {}).get("open"):
            # In a transaction its snapshot is then too old, unless it is the caller's own.
            await self._end_edit(request.session_id, found["_id"], token_of(found))
            if not self.manager.is_borrowed:
                raise _ChangedError
        expected = request.expected_version
        if expected is not None and (found.get("version") or 0) != expected:
            raise VersionConflictError("the session has another version than expected")
        return found

    # -- In a transaction --------------------------------------------------------------------------

    async def _edit_at_once(self, request: _Request, client_session: Any) -> _Done | None:
        chat_session = await self._find_session(request, client_session)
        if chat_session is None:
            return None
        edit = await request.plan(chat_session, client_session)
        if edit.is_empty:
            return _Done(edit.result, known_session(chat_session))
        if not self.manager.is_borrowed and is_large([*edit.add, *edit.revise], dropped=len(edit.drop)):
            raise _TooLargeError
        # First: concurrent transactions conflict here.
        token = ObjectId()
        committed = await self._commit(chat_session, edit, token, request, client_session)
        if committed is None:
            raise _ChangedError
        await self._unmark_batches(request.session_id, edit.drop, client_session)
        for part in in_chunks([document["_id"] for document in edit.drop]):
            await self.messages.delete_many({"_id": {"$in": part}}, session=client_session)
        if edit.revise:
            new = [ReplaceOne({"_id": document["_id"]}, without_marks(document)) for document in edit.revise]
            await self.messages.bulk_write(new, session=client_session)
        await self.insert_all(self.messages, edit.add, [], client_session)
        return _Done(edit.result, committed)

    # -- In steps ----------------------------------------------------------------------------------

    async def _edit_in_steps(self, request: _Request) -> _Done | None:
        chat_session = await self._find_session(request)
        if chat_session is None:
            return None
        edit = await request.plan(chat_session, None)
        if edit.is_empty:
            if request.expected_version is not None:
                # The plan may have read what an edit since has written.
                chosen = {"_id": chat_session["_id"]} | has_version(request.expected_version)
                if await self.sessions.find_one(chosen, {"_id": 1}) is None:
                    raise _ChangedError
            return _Done(edit.result, known_session(chat_session))
        session_id, token = request.session_id, ObjectId()
        prepared = Prepared(
            [document["_id"] for document in [*edit.drop, *edit.revise]],
            [document["_id"] for document in edit.add],
            [new_version(document, token) for document in edit.revise],
        )
        committed = refusal = None
        async with self._noted([session_id], edit=token):
            try:
                await self._prepare(session_id, edit, token, prepared)
                committed = await self._commit(chat_session, edit, token, request)
            except (DuplicateKeyError, DocumentTooLarge, OperationFailure) as error:
                if not (isinstance(error, DuplicateKeyError | DocumentTooLarge) or is_refused(error)):
                    raise
                refusal = error
            if committed is not None:
                await self._end_edit(session_id, chat_session["_id"], token, prepared)
            else:
                await self._take_back(session_id, token, prepared)
        # After a duplicate key, the next plan finds who has taken the id.
        if refusal is not None and not isinstance(refusal, DuplicateKeyError):
            raise refusal
        if committed is None:
            raise _ChangedError
        return _Done(edit.result, committed)

    async def _prepare(self, session_id: str, edit: Edit, token: Any, prepared: Prepared) -> None:
        """Write what becomes visible with the commit."""
        await self._unmark_batches(session_id, edit.drop)
        for part in in_chunks(prepared.dropped):
            await self.messages.update_many({"_id": {"$in": part}}, {"$push": {DROPPED_FIELD: token}})
        added = [document | {"batch": token} for document in edit.add]
        await self.insert_all(self.messages, [*added, *prepared.revised], [])

    async def _commit(
        self, chat_session: Document, edit: Edit, token: Any, request: _Request, client_session: Any = None
    ) -> KnownSession | None:
        """Change the session unless it has changed since it was read; return None if it has."""
        chosen: Filter = {"_id": chat_session["_id"], "edit.token": token_of(chat_session)}
        chosen |= has_version(request.expected_version)
        after = edit.of_session(chat_session, token, is_open=client_session is None)
        change: Filter = {
            "edit": {"$literal": after},
            "version": NEXT_VERSION,
            "updated_at": {"$max": ["$updated_at", utc_now()]},
        }
        updated = await self.sessions.update_one(
            chosen, [{"$set": change}, *edit.stages], session=client_session
        )
        return known_session(chat_session | {"edit": after}) if updated.matched_count else None

    async def _unmark_batches(
        self, session_id: str, dropped: list[Document], client_session: Any = None
    ) -> None:
        """Keep the other messages of a complete batch visible when its last one is deleted."""
        marks = [document["_id"] for document in dropped if document.get("batch") == document["_id"]]
        if marks:
            chosen = {"session_id": session_id, "batch": {"$in": marks}}
            await self.messages.update_many(chosen, {"$unset": {"batch": ""}}, session=client_session)

    # -- For plans ---------------------------------------------------------------------------------

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
            _ChangedError: The session was deleted or edited.
        """
        part = PartOfHistory({"session_id": chat_session["session_id"]} | where, order, limit, then or [])
        if client_session is not None or self.manager.is_borrowed:
            return await self._read_snapshot(part, chat_session, client_session)
        found = await self._read(part, known_session(chat_session))
        if found is None:
            raise _ChangedError
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
                raise _ChangedError
        return stored

    async def _fence(self, chat_session: Document) -> None:
        """Let the commits of other edits fail that are planned on this state of the session.

        The same call may be under way twice: what seems to be left by an interrupted edit may be prepared for
        one that is about to be committed.

        Raises:
            _ChangedError: Another edit was committed.
        """
        chosen = {"_id": chat_session["_id"], "edit.token": token_of(chat_session)}
        fenced = await self.sessions.update_one(chosen, {"$set": {"edit.token": ObjectId()}})
        if not fenced.matched_count:
            raise _ChangedError


def is_large(messages: list[Document], *, dropped: int = 0) -> bool:
    """Return whether writes of these messages may be too large for a transaction on a small server."""
    if len(messages) + dropped > TRANSACTION_MESSAGES:
        return True
    return sum(len(bson.encode(document)) for document in messages) > TRANSACTION_BYTES
