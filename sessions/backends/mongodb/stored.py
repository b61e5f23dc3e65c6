"""Finds in MongoDB which messages of an append are stored already."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bson import Int64, ObjectId

from sessions.backends.mongodb.cleanup import MongoCleanup
from sessions.backends.mongodb.ending import in_chunks
from sessions.backends.mongodb.inserts import stored_batches
from sessions.backends.mongodb.reading import Document, token_of
from sessions.backends.mongodb.visibility import DROPPED_FIELD
from sessions.errors import MessageConflictError
from sessions.models.documents import NAIVE_EPOCH, SESSION_FIELD

__all__ = ["MongoStored"]

MICROSECOND = timedelta(microseconds=1)


class MongoStored(MongoCleanup):
    """Finds the messages that an earlier attempt, or the same call before, has stored."""

    async def _not_stored(self, messages: Any, documents: list[Document]) -> tuple[list[Document], bool]:
        """Return the messages that are not stored yet, after a duplicate key error.

        A message that is stored, but not visible, is assigned to this attempt: an earlier one stored it for
        an earlier session with the same id, in an incomplete batch, or in an edit that was not committed.

        Args:
            messages: Collection of the messages.
            documents: Documents to insert. Those that are stored get the write order that is stored.

        Returns:
            Those that are not stored, and whether one was assigned to this attempt.

        Raises:
            MessageConflictError: Another message is stored under one of the ids.
        """
        wanted = {document["_id"]: document for document in documents}
        if len(wanted) < len(documents):
            raise MessageConflictError("a message id occurs twice in one batch")
        stored, taken_over = set(), False
        for ids in in_chunks(list(wanted)):
            found = await messages.find({"_id": {"$in": ids}}).to_list(None)
            if any(map(_is_of_edit, found)) and await self._end_open_edit(documents[0]["session_id"]):
                found = await messages.find({"_id": {"$in": ids}}).to_list(None)
            marks = {mark for document in found if isinstance(mark := document.get("batch"), str)}
            complete = await stored_batches(messages, marks) if marks else set()
            for document in found:
                mine = wanted[document["_id"]]
                if any(document[name] != mine[name] for name in ("session_id", "role", "content")):
                    raise MessageConflictError(
                        f"the message id {document['_id']} is taken by another message"
                    )
                stored.add(document["_id"])
                of_batch = document.get("batch") in (None, mine.get("batch")) or document["batch"] in complete
                if document.get(SESSION_FIELD) == mine[SESSION_FIELD] and of_batch:
                    mine["write_order"] = _write_order(document)
                else:
                    await _take_over(messages, document, mine)
                    taken_over = True
        return [document for document in documents if document["_id"] not in stored], taken_over

    async def _end_open_edit(self, session_id: str) -> bool:
        """End the session's edit if it is committed, and still open; return whether it is."""
        found = await self.sessions.find_one({"session_id": session_id}, {"edit": 1})
        if found is None or not (found.get("edit") or {}).get("open"):
            return False
        await self._end_edit(session_id, found["_id"], token_of(found))
        return True


def _is_of_edit(document: Document) -> bool:
    return isinstance(document.get("batch"), ObjectId) or DROPPED_FIELD in document


def _write_order(document: Document) -> Int64:
    """Return the write order of a stored message; the previous release stored only a timestamp."""
    if (written := document.get("write_order")) is not None:
        return Int64(written)
    since_epoch = document["timestamp"] - NAIVE_EPOCH
    return Int64(since_epoch // MICROSECOND)


async def _take_over(messages: Any, found: Document, mine: Document) -> None:
    chosen: Document = {"_id": found["_id"], SESSION_FIELD: found.get(SESSION_FIELD)}
    update: Document = {"$set": {SESSION_FIELD: mine[SESSION_FIELD]}}
    if "batch" in mine:
        update["$set"]["batch"] = mine["batch"]
    else:
        update["$unset"] = {"batch": ""}
    await messages.update_one(chosen, update)
