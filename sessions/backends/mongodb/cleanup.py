"""Clean-up in MongoDB: what an interrupted operation leaves, and how it is found and deleted.

Without a transaction, deleting a session and adding a large batch take several writes. Such an operation is
noted in ``chat_unfinished`` before its first write, and the note is deleted after its last. If the process or
the server is killed in between, no operation returns what is left:

- Messages of a deleted session are orphaned: every operation finds the session first.
- Messages of a large batch are visible only once the last one is stored: see `mark_batch`.

A clean-up also finds the notes of operations that still run. There may be many, so a few commands serve
all of them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bson import ObjectId

from sessions.backends.mongodb.collections import UP, Filter
from sessions.backends.mongodb.ending import Document, MongoEnding
from sessions.backends.mongodb.inserts import stored_batches
from sessions.core.identifiers import utc_now
from sessions.models.documents import SESSION_FIELD

__all__ = [
    "CleanupResult",
    "MongoCleanup",
    "mark_batch",
]

ORPHAN_BATCH_SIZE = 1000
NOTES_AT_ONCE = 100
MESSAGES_AT_ONCE = 10_000
# Longer than any operation takes with all its attempts: an older note belongs to none that still runs.
MAX_OPERATION_TIME = timedelta(hours=1)


@dataclass(slots=True, frozen=True)
class CleanupResult:
    """The result of a clean-up.

    Attributes:
        removed: Number of deleted messages, all of them orphaned or of an incomplete batch.
        under_way: Number of noted operations that may still be running.
    """

    removed: int
    under_way: int


def mark_batch(documents: list[dict[str, Any]]) -> Any:
    """Hide the messages of a batch until its last one is stored, and return their mark.

    They are inserted in order, so the last one is stored only if all are.
    """
    mark = documents[-1]["_id"]
    for document in documents:
        document["batch"] = mark
    return mark


class MongoCleanup(MongoEnding):
    """Notes operations of several writes, and cleans up after interrupted ones."""

    @contextlib.asynccontextmanager
    async def _noted(self, session_ids: list[str], **marks: Any) -> AsyncIterator[None]:
        """Keep a note of an operation on these sessions until it ends; if it fails, the note stays.

        Args:
            session_ids: Sessions whose messages are orphaned if the session does not exist.
            **marks: ``batch``: the mark of a batch; or ``edit``: the token of an edit, which an earlier
                release ignores; with it ``new_session_ids``: sessions that exist once the edit is committed.
        """
        note = {"_id": ObjectId(), "session_ids": session_ids} | marks
        await self.unfinished.insert_one(note)
        yield
        await self.unfinished.delete_one({"_id": note["_id"]})

    async def clean_up_unfinished(self) -> CleanupResult:
        """Clean up after noted operations, and delete the notes of those that have ended.

        A few commands serve a page of notes. Only an interrupted edit needs more, and only while half of the
        operation's time is left: a deletion does not fail because of what other operations have left.
        """
        removed = under_way = 0
        until = time.monotonic() + self.connection.timeout / 2
        after: Filter = {}
        while True:
            found = self.unfinished.find(after).sort("_id", UP).limit(NOTES_AT_ONCE)
            notes = await found.to_list(None)
            if notes:
                page = await self._clean_up_noted(notes, until)
                removed, under_way = removed + page.removed, under_way + page.under_way
            if len(notes) < NOTES_AT_ONCE:
                return CleanupResult(removed, under_way)
            after = {"_id": {"$gt": notes[-1]["_id"]}}

    async def _clean_up_noted(self, notes: list[Document], until: float) -> CleanupResult:
        """Clean up after the operations of these notes; see `_end_noted_edits` for ``until``."""
        noted_ids = {session_id for note in notes for session_id in note["session_ids"]}
        removed = await self.delete_orphaned(*noted_ids)
        # Afterwards: the messages of a session that is absent now have been deleted.
        new_ids = {session_id for note in notes for session_id in note.get("new_session_ids", ())}
        chosen = {"session_id": {"$in": [*noted_ids | new_ids]}}
        found = await self.sessions.find(chosen, {"session_id": 1, "edit": 1}).to_list(None)
        there = {chat_session["session_id"]: chat_session for chat_session in found}
        over: list[Any] = []
        removed += await self._end_noted_batches([note for note in notes if "batch" in note], over)
        edits = [note for note in notes if "edit" in note]
        removed += await self._end_noted_edits(edits, there, until, over)
        over += [
            note["_id"]
            for note in notes
            if not ("batch" in note or "edit" in note)
            # An existing session may be deleted next.
            and (_is_old(note) or there.keys().isdisjoint(note["session_ids"]))
        ]
        if over:
            await self.unfinished.delete_many({"_id": {"$in": over}})
        return CleanupResult(removed, len(notes) - len(over))

    async def _end_noted_batches(self, notes: list[Document], over: list[Any]) -> int:
        """Delete the messages of old incomplete batches; return how many.

        Args:
            notes: Notes of batches.
            over: Collects the notes of those that have ended.
        """
        complete = await stored_batches(self.messages, [note["batch"] for note in notes]) if notes else set()
        incomplete = [note for note in notes if note["batch"] not in complete and _is_old(note)]
        removed = 0
        if incomplete:
            session_ids = {session_id for note in incomplete for session_id in note["session_ids"]}
            removed = await self._remove_batches([*session_ids], [note["batch"] for note in incomplete])
        over += [note["_id"] for note in notes if note["batch"] in complete or _is_old(note)]
        return removed

    async def _end_noted_edits(
        self, notes: list[Document], there: dict[str, Document], until: float, over: list[Any]
    ) -> int:
        """End committed edits, and take back old ones that are not; return how many messages were removed.

        Args:
            notes: Notes of edits.
            there: The sessions that exist, by id.
            until: Monotonic time after which edits stay as they are, for the next clean-up.
            over: Collects the notes of those that have ended.
        """
        removed = 0
        for note in notes:
            is_old = _is_old(note)
            # An attempt ends its own edit, within its time limit.
            may_run = not is_old and _age(note).total_seconds() <= self.connection.timeout
            leaves = may_run or time.monotonic() > until
            ended, is_over = await self._end_noted_edit(note, there, is_old=is_old, leaves=leaves)
            removed += ended
            if is_over:
                over.append(note["_id"])
        return removed

    async def delete_orphaned(self, *session_ids: str, former: Collection[Any] = ()) -> int:
        """Delete the messages of those sessions that do not exist; return how many.

        Args:
            *session_ids: The sessions.
            former: The ``_id`` of documents that these sessions have had. The messages of those that do not
                exist are deleted, even if the session has been created again.
        """
        only_ids, removed = {"session_id": 1, SESSION_FIELD: 1}, 0
        # The messages of a new session are stored before it.
        oldest = ObjectId.from_datetime(utc_now() - MAX_OPERATION_TIME)
        of_new_session = {"batch": {"$gt": oldest}, "$expr": {"$eq": ["$batch", f"${SESSION_FIELD}"]}}
        while True:
            there = await self._there(session_ids)
            absent = [session_id for session_id in session_ids if session_id not in there]
            chosen: list[Filter] = []
            if absent:
                chosen.append({"session_id": {"$in": absent}, "$nor": [of_new_session]})
            if there and (deleted := {*former} - {*there.values()}):
                chosen.append({"session_id": {"$in": [*there]}, SESSION_FIELD: {"$in": [*deleted]}})
            if not chosen:
                break
            cursor = self.messages.find({"$or": chosen} if len(chosen) > 1 else chosen[0], only_ids)
            listed = await cursor.limit(ORPHAN_BATCH_SIZE).to_list(None)
            if not listed:
                break
            # Checked again: a message listed while its session existed may be visible.
            there = await self._there({message["session_id"] for message in listed})
            deleted = {*former} - {*there.values()}
            removed += await self._remove_messages(
                [
                    message
                    for message in listed
                    if message["session_id"] not in there or message.get(SESSION_FIELD) in deleted
                ]
            )
        return removed

    async def find_orphaned(self, after: str) -> tuple[list[str], str | None]:
        """Find absent sessions among those of the next messages, in the order of session ids.

        Args:
            after: The session id to begin after; empty for the first.

        Returns:
            The ids of the absent sessions, and the id to continue after; None at the end.
        """
        in_index = {"_id": 0, "session_id": 1}
        cursor = self.messages.find({"session_id": {"$gt": after}}, in_index).sort("session_id", UP)
        ids = [message["session_id"] for message in await cursor.limit(MESSAGES_AT_ONCE).to_list(None)]
        if not ids:
            return [], None
        return await self._absent(sorted(set(ids))), ids[-1]

    async def _absent(self, session_ids: Collection[str]) -> list[str]:
        """Return the ids of those sessions that do not exist."""
        there = await self._there(session_ids)
        return [session_id for session_id in session_ids if session_id not in there]

    async def _there(self, session_ids: Collection[str]) -> dict[str, Any]:
        """Return the ``_id`` of each of those sessions that exists."""
        if not session_ids:
            return {}
        chosen = {"session_id": {"$in": [*session_ids]}}
        found = await self.sessions.find(chosen, {"session_id": 1}).to_list(None)
        return {chat_session["session_id"]: chat_session["_id"] for chat_session in found}

    async def _remove_messages(self, documents: list[dict[str, Any]]) -> int:
        """Delete messages of a deleted session; return how many.

        A message that another attempt of its call has assigned to a later session stays.
        """
        if not documents:
            return 0
        ids = [document["_id"] for document in documents]
        # Without the field: None, which a query takes for an absent one.
        written_for = {document.get(SESSION_FIELD): None for document in documents}
        chosen = {"_id": {"$in": ids}, SESSION_FIELD: {"$in": list(written_for)}}
        removed: int = (await self.messages.delete_many(chosen)).deleted_count
        return removed

    async def _remove_incomplete_batch(self, session_ids: list[str], mark: Any) -> int:
        """Delete the messages of a batch unless it is complete; return how many."""
        if await stored_batches(self.messages, [mark]):
            return 0
        return await self._remove_batches(session_ids, [mark])

    async def _remove_batches(self, session_ids: list[str], marks: list[Any]) -> int:
        of_batches = {"session_id": {"$in": session_ids}, "batch": {"$in": marks}}
        removed: int = (await self.messages.delete_many(of_batches)).deleted_count
        return removed


def _age(note: Document) -> timedelta:
    age: timedelta = utc_now() - note["_id"].generation_time
    return age


def _is_old(note: Document) -> bool:
    return _age(note) > MAX_OPERATION_TIME
