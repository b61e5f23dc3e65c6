"""Clean-up in MongoDB: what an interrupted operation leaves, and how it is found and deleted.

Without a transaction, deleting a session and adding a large batch take several writes. Such an operation is
noted in ``chat_unfinished`` before its first write, and the note is deleted after its last. If the process or
the server is killed in between, no operation returns what is left:

- Messages of a deleted session are orphaned: every operation finds the session first.
- Messages of a large batch are visible only once the last one is stored: see `mark_batch`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bson import ObjectId

from sessions.backends.mongodb.collections import UP
from sessions.backends.mongodb.ending import MongoEnding
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
        """Clean up after noted operations, and delete the notes of those that have ended."""
        removed = under_way = 0
        found = self.unfinished.find().sort("_id", UP).limit(NOTES_AT_ONCE)
        for note in await found.to_list(None):
            is_old = note["_id"].generation_time < utc_now() - MAX_OPERATION_TIME
            removed += await self.delete_orphaned(*note["session_ids"])
            if is_old and "batch" in note:
                removed += await self._remove_incomplete_batch(note["session_ids"], note["batch"])
            if "edit" in note:
                ended, is_over = await self._end_noted_edit(note, is_old=is_old)
                removed += ended
            else:
                is_over = is_old or await self._is_over(note)
            if is_over:
                await self.unfinished.delete_one({"_id": note["_id"]})
            else:
                under_way += 1
        return CleanupResult(removed, under_way)

    async def delete_orphaned(self, *session_ids: str) -> int:
        """Delete the messages of those sessions that do not exist; return how many."""
        only_ids, removed = {"session_id": 1, SESSION_FIELD: 1}, 0
        # The messages of a new session are stored before it.
        oldest = ObjectId.from_datetime(utc_now() - MAX_OPERATION_TIME)
        of_new_session = {"batch": {"$gt": oldest}, "$expr": {"$eq": ["$batch", f"${SESSION_FIELD}"]}}
        while absent := await self._absent(session_ids):
            chosen = {"session_id": {"$in": absent}, "$nor": [of_new_session]}
            cursor = self.messages.find(chosen, only_ids).limit(ORPHAN_BATCH_SIZE)
            listed = await cursor.to_list(None)
            if not listed:
                break
            # Checked again: a message listed while its session existed may be visible.
            still = set(await self._absent(absent))
            orphaned = [message for message in listed if message["session_id"] in still]
            removed += await self._remove_messages(orphaned)
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

    async def _absent(self, session_ids: Iterable[str]) -> list[str]:
        """Return the ids of those sessions that do not exist."""
        wanted = list(session_ids)
        found = await self.sessions.find({"session_id": {"$in": wanted}}, {"session_id": 1}).to_list(None)
        there = {chat_session["session_id"] for chat_session in found}
        return [session_id for session_id in wanted if session_id not in there]

    async def _remove_messages(self, documents: list[dict[str, Any]]) -> int:
        """Delete messages of a deleted session; return how many.

        A message that another attempt of its call has assigned to a later session stays.
        """
        ids = [document["_id"] for document in documents]
        # Without the field: None, which a query takes for an absent one.
        written_for = {document.get(SESSION_FIELD): None for document in documents}
        chosen = {"_id": {"$in": ids}, SESSION_FIELD: {"$in": list(written_for)}}
        removed: int = (await self.messages.delete_many(chosen)).deleted_count
        return removed

    async def _is_over(self, note: dict[str, Any]) -> bool:
        if "batch" in note:
            return bool(await stored_batches(self.messages, [note["batch"]]))
        # An existing session may be deleted next.
        return await self.sessions.find_one({"session_id": {"$in": note["session_ids"]}}, {"_id": 1}) is None

    async def _remove_incomplete_batch(self, session_ids: list[str], mark: Any) -> int:
        """Delete the messages of a batch unless it is complete; return how many."""
        if await stored_batches(self.messages, [mark]):
            return 0
        of_batch = {"session_id": {"$in": session_ids}, "batch": mark}
        removed: int = (await self.messages.delete_many(of_batch)).deleted_count
        return removed
