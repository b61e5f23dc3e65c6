"""What interrupted work has left in MongoDB, and how it is found and removed.

Without a transaction, deleting a session and adding a large batch take several writes. Such work is noted
in ``chat_unfinished`` before its first write, and the note is removed after its last. If the process or
the server dies in between, nobody sees what it has left:

- Messages of a session that is gone are read by no operation, as each looks for the session first.
- Messages of a large batch count only once the last one is there: see `mark_batch`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bson import ObjectId

from sessions.backends.mongodb.collections import UP, chat_messages, chat_sessions, chat_unfinished
from sessions.core.identifiers import utc_now
from sessions.core.port import BackendOperations
from sessions.models.documents import SESSION_FIELD

__all__ = [
    "Leftovers",
    "MongoLeftovers",
    "mark_batch",
    "remove_incomplete_batch",
    "remove_messages",
    "stored_batches",
]

LEFTOVER_BATCH_SIZE = 1000
NOTES_AT_ONCE = 100
MESSAGES_AT_ONCE = 10_000
# Longer than any call takes, with all its tries: then work that is still noted is under way nowhere.
WORK_ENDS_AFTER = timedelta(hours=1)


@dataclass(slots=True, frozen=True)
class Leftovers:
    """What a search for leftovers came to.

    Attributes:
        removed: Messages that counted for no session, and are gone now.
        under_way: Pieces of work that are noted and may not be over yet.
    """

    removed: int
    under_way: int


def mark_batch(documents: list[dict[str, Any]]) -> Any:
    """Let the messages of a batch count only once its last one is there, and return their mark.

    They are inserted in their order, so the last one is there only if all are.
    """
    mark = documents[-1]["_id"]
    for document in documents:
        document["batch"] = mark
    return mark


async def stored_batches(marks: Iterable[Any]) -> set[Any]:
    """Return the marks of those batches that are complete."""
    found = chat_messages().find({"_id": {"$in": list(marks)}}, {"_id": 1})
    return {document["_id"] for document in await found.to_list(None)}


class MongoLeftovers(BackendOperations):
    """Notes work before it begins, and removes what interrupted work has left."""

    @staticmethod
    @contextlib.asynccontextmanager
    async def _noted(session_ids: list[str], batch: Any = None) -> AsyncIterator[None]:
        """Keep a note of work on these sessions until it is done; where it fails, the note stays."""
        note = {"_id": ObjectId(), "session_ids": session_ids}
        if batch is not None:
            note["batch"] = batch
        await chat_unfinished().insert_one(note)
        yield
        await chat_unfinished().delete_one({"_id": note["_id"]})

    async def _finish_work(self) -> Leftovers:
        """Remove what is left of noted work, and the notes of work that is over."""
        removed = under_way = 0
        found = chat_unfinished().find().sort("_id", UP).limit(NOTES_AT_ONCE)
        for note in await found.to_list(None):
            is_old = note["_id"].generation_time < utc_now() - WORK_ENDS_AFTER
            removed += await self._remove_leftovers(*note["session_ids"])
            if is_old and "batch" in note:
                removed += await remove_incomplete_batch(note["session_ids"], note["batch"])
            if is_old or await _is_over(note):
                await chat_unfinished().delete_one({"_id": note["_id"]})
            else:
                under_way += 1
        return Leftovers(removed, under_way)

    async def _remove_leftovers(self, *session_ids: str) -> int:
        """Remove the messages of those sessions that are not there; return how many."""
        messages = chat_messages()
        only_ids, removed = {"session_id": 1, SESSION_FIELD: 1}, 0
        while absent := await _absent(session_ids):
            cursor = messages.find({"session_id": {"$in": absent}}, only_ids).limit(LEFTOVER_BATCH_SIZE)
            listed = await cursor.to_list(None)
            if not listed:
                break
            # Looked at again: what was listed while there was a session may count for it.
            still = set(await _absent(absent))
            leftovers = [message for message in listed if message["session_id"] in still]
            removed += await remove_messages(leftovers)
        return removed

    @staticmethod
    async def _find_orphaned(after: str) -> tuple[list[str], str | None]:
        """Look at the sessions of the next messages, in the order of their ids.

        Args:
            after: The session id to begin after; empty for the first.

        Returns:
            The ids of those that are not there, and where to go on; None at the end.
        """
        in_index = {"_id": 0, "session_id": 1}
        cursor = chat_messages().find({"session_id": {"$gt": after}}, in_index).sort("session_id", UP)
        ids = [message["session_id"] for message in await cursor.limit(MESSAGES_AT_ONCE).to_list(None)]
        if not ids:
            return [], None
        return await _absent(sorted(set(ids))), ids[-1]


async def _absent(session_ids: Iterable[str]) -> list[str]:
    """Return those of the sessions that are not there."""
    wanted = list(session_ids)
    found = await chat_sessions().find({"session_id": {"$in": wanted}}, {"session_id": 1}).to_list(None)
    there = {chat_session["session_id"] for chat_session in found}
    return [session_id for session_id in wanted if session_id not in there]


async def remove_messages(documents: list[dict[str, Any]]) -> int:
    """Remove messages that were written for a session that is gone; return how many.

    One that another attempt of its call has made a message of a later session stays.
    """
    ids = [document["_id"] for document in documents]
    # Without the field: None, which a query takes for an absent one.
    written_for = {document.get(SESSION_FIELD): None for document in documents}
    chosen = {"_id": {"$in": ids}, SESSION_FIELD: {"$in": list(written_for)}}
    removed: int = (await chat_messages().delete_many(chosen)).deleted_count
    return removed


async def _is_over(note: dict[str, Any]) -> bool:
    if "batch" in note:
        return bool(await stored_batches([note["batch"]]))
    # A session that is there may be deleted next.
    return await chat_sessions().find_one({"session_id": {"$in": note["session_ids"]}}, {"_id": 1}) is None


async def remove_incomplete_batch(session_ids: list[str], mark: Any) -> int:
    """Remove the messages of a batch unless it is complete; return how many."""
    if await stored_batches([mark]):
        return 0
    of_batch = {"session_id": {"$in": session_ids}, "batch": mark}
    removed: int = (await chat_messages().delete_many(of_batch)).deleted_count
    return removed
