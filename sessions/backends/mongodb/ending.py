"""Ends an edit that is committed: what is hidden is deleted, and what is new gets its final form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId
from pymongo import ReplaceOne

from sessions.backends.mongodb.collections import MongoCollections
from sessions.backends.mongodb.visibility import DROPPED_FIELD, REVISED_FIELD

__all__ = ["Document", "MongoEnding", "Prepared", "in_chunks", "new_version", "without_marks"]

IDS_AT_ONCE = 1000

Document = dict[str, Any]


@dataclass(slots=True)
class Prepared:
    """What was written for an edit before its commit.

    Attributes:
        dropped: ``_id`` of the marked messages: those to delete, and those with a new version.
        added: ``_id`` of the new messages.
        revised: Documents of the new versions.
    """

    dropped: list[Any] = field(default_factory=list)
    added: list[Any] = field(default_factory=list)
    revised: list[Document] = field(default_factory=list)


class MongoEnding(MongoCollections):
    """Ends edits, or takes back what was prepared for them."""

    async def _end_edit(
        self, session_id: str, session_oid: Any, token: Any, prepared: Prepared | None = None
    ) -> int:
        """End a committed edit. It may be ended several times, also later, by several processes at once.

        Args:
            session_id: The session.
            session_oid: ``_id`` of its document.
            token: Token of the edit.
            prepared: What was written for it, if that is known.

        Returns:
            How many new messages got their final form.
        """
        prepared = prepared or await self._find_prepared(session_id, token)
        if prepared.revised:
            # Once replaced, a message has no mark, and is not replaced again after a later edit.
            await self.messages.bulk_write(
                [
                    ReplaceOne(
                        {"_id": document[REVISED_FIELD], DROPPED_FIELD: token},
                        without_marks(document) | {"_id": document[REVISED_FIELD]},
                    )
                    for document in prepared.revised
                ]
            )
        replaced = {document[REVISED_FIELD] for document in prepared.revised}
        for part in in_chunks([one for one in prepared.dropped if one not in replaced]):
            await self.messages.delete_many({"_id": {"$in": part}, DROPPED_FIELD: token})
        for part in in_chunks([document["_id"] for document in prepared.revised]):
            await self.messages.delete_many({"_id": {"$in": part}})
        ended = 0
        for part in in_chunks(prepared.added):
            of_edit = {"_id": {"$in": part}, "batch": token}
            ended += (await self.messages.update_many(of_edit, {"$unset": {"batch": ""}})).matched_count
        of_edit = {"_id": session_oid, "edit.token": token}
        await self.sessions.update_one(of_edit, {"$unset": {"edit.open": ""}})
        return ended

    async def _take_back(self, session_id: str, token: Any, prepared: Prepared | None = None) -> int:
        """Remove what was prepared for an edit that is not committed; return how many messages."""
        prepared = prepared or await self._find_prepared(session_id, token)
        removed = 0
        for part in in_chunks([*prepared.added, *(document["_id"] for document in prepared.revised)]):
            of_edit = {"_id": {"$in": part}, "batch": token}
            removed += (await self.messages.delete_many(of_edit)).deleted_count
        for part in in_chunks(prepared.dropped):
            await self.messages.update_many({"_id": {"$in": part}}, {"$pull": {DROPPED_FIELD: token}})
        return removed

    async def _find_prepared(self, session_id: str, token: Any) -> Prepared:
        of_edit = {"session_id": session_id, "$or": [{"batch": token}, {DROPPED_FIELD: token}]}
        fields = {"batch": 1, DROPPED_FIELD: 1, REVISED_FIELD: 1}
        found = await self.messages.find(of_edit, fields).to_list(None)
        new = [document for document in found if document.get("batch") == token]
        revised: list[Document] = []
        for part in in_chunks([document["_id"] for document in new if REVISED_FIELD in document]):
            revised += await self.messages.find({"_id": {"$in": part}, "batch": token}).to_list(None)
        return Prepared(
            [document["_id"] for document in found if token in document.get(DROPPED_FIELD, ())],
            [document["_id"] for document in new if REVISED_FIELD not in document],
            revised,
        )

    async def _end_noted_edit(
        self, note: Document, there: Mapping[str, Document], *, is_old: bool, leaves: bool
    ) -> tuple[int, bool]:
        """End the edit of a note, or take it back if it is old.

        Args:
            note: The note.
            there: The sessions that exist, by id.
            is_old: Whether the edit is taken back if it is not committed.
            leaves: Whether to leave messages as they are.

        Returns:
            How many messages were removed, and whether the edit is over.
        """
        token, removed = note["edit"], 0
        for session_id in note.get("new_session_ids") or note["session_ids"]:
            found = there.get(session_id)
            last = (found or {}).get("edit") or {}
            is_committed = last.get("token") == token
            if is_committed and not last.get("open"):
                continue
            if leaves or not (is_committed or is_old):
                return removed, False
            if found is not None and is_committed:
                await self._end_edit(session_id, found["_id"], token)
            else:
                removed += await self._take_back(session_id, token)
        return removed, True


def without_marks(document: Document) -> Document:
    """Return a message without the marks of batches and edits."""
    marks = ("batch", DROPPED_FIELD, REVISED_FIELD)
    return {name: value for name, value in document.items() if name not in marks}


def in_chunks(ids: list[Any]) -> Iterator[list[Any]]:
    """Yield ids in parts that fit one command."""
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield ids[start : start + IDS_AT_ONCE]


def new_version(document: Document, token: Any) -> Document:
    """Return the document of a new version of a message, which is hidden until its edit is committed."""
    return without_marks(document) | {"_id": ObjectId(), REVISED_FIELD: document["_id"], "batch": token}
