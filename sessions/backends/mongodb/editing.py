"""Changes of stored messages in MongoDB, each of them one edit of the session."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bson import Int64

from sessions.backends.mongodb.edits import Edit, MongoEdits, Plan
from sessions.backends.mongodb.mapping import (
    RESTORED_FIELD,
    is_same,
    message_document,
    plain,
    storable,
    to_messages,
)
from sessions.backends.mongodb.messages import not_updated
from sessions.backends.mongodb.ordering import IN_REVERSE, after, position_of
from sessions.backends.mongodb.reading import Document
from sessions.backends.mongodb.visibility import FIELDS
from sessions.backends.mongodb.write_order import write_time
from sessions.core.values import MessageChange, MessageRow
from sessions.errors import VersionConflictError
from sessions.models import UNSET, ChatMessage
from sessions.models.documents import aware
from sessions.validation import no_such_message

__all__ = ["MongoEditing"]

ONLY_FIELDS = [{"$project": FIELDS}]
# Ids in one query, which the server limits to 16 MB.
IDS_AT_ONCE = 10_000


class _UnfinishedAppendError(Exception):
    """A message is stored, and its append has not raised the version of the session yet.

    Attributes:
        session_oid: ``_id`` of the session's document.
        moment: When the message was written.
    """

    def __init__(self, session_oid: Any, moment: datetime) -> None:
        super().__init__()
        self.session_oid = session_oid
        self.moment = moment


class MongoEditing(MongoEdits):
    """Changes, removes and replaces messages."""

    async def update_message(
        self, session_id: str, user_id: str, message_id: str, change: MessageChange
    ) -> bool:
        async def plan(chat_session: Document, client_session: Any) -> Edit:
            found = await self._find_for_edit(chat_session, message_id, client_session)
            if found is None:
                return Edit(result=False)
            changed = _changed(found, change)
            if changed is None:
                return Edit(result=True)
            return Edit(result=True, revise=[changed])

        return bool(await self._edit(session_id, user_id, change.expected_version, plan))

    async def pop_message(self, session_id: str, user_id: str) -> ChatMessage | None:
        async def plan(chat_session: Document, client_session: Any) -> Edit:
            found = await self._read_for_edit(chat_session, {}, client_session, order=IN_REVERSE, limit=1)
            return Edit(result=to_messages(found)[0] if found else None, drop=found)

        popped: ChatMessage | None = await self._edit(session_id, user_id, None, plan)
        return popped

    async def delete_messages(self, session_id: str, user_id: str, message_ids: list[str]) -> int:
        async def plan(chat_session: Document, client_session: Any) -> Edit:
            found: list[Document] = []
            for start in range(0, len(message_ids), IDS_AT_ONCE):
                ids = message_ids[start : start + IDS_AT_ONCE]
                found += await self._find_ids(chat_session, ids, client_session)
            return Edit(result=len(found), drop=found)

        return int(await self._edit(session_id, user_id, None, plan) or 0)

    async def delete_messages_from(
        self, session_id: str, user_id: str, message_id: str, inclusive: bool
    ) -> int:
        async def plan(chat_session: Document, client_session: Any) -> Edit:
            found = await self._find_for_edit(chat_session, message_id, client_session)
            if found is None:
                raise no_such_message("message_id")
            where = after(position_of(found), inclusive=inclusive)
            gone = await self._read_for_edit(chat_session, where, client_session, order={}, then=ONLY_FIELDS)
            return Edit(result=len(gone), drop=gone)

        return int(await self._edit(session_id, user_id, None, plan) or 0)

    async def clear_messages(self, session_id: str, user_id: str, expected_version: int | None) -> int:
        async def plan(chat_session: Document, client_session: Any) -> Edit:
            gone = await self._read_for_edit(chat_session, {}, client_session, order={}, then=ONLY_FIELDS)
            if expected_version is not None:
                _check_appended(chat_session, gone)
            return Edit(result=len(gone), drop=gone)

        return int(await self._edit_version(session_id, user_id, expected_version, plan) or 0)

    async def replace_messages(
        self, session_id: str, user_id: str, rows: list[MessageRow], expected_version: int | None
    ) -> bool:
        async def plan(chat_session: Document, client_session: Any) -> Edit:
            new = {row.message_id: message_document(session_id, chat_session["_id"], row) for row in rows}
            await self._free(new, chat_session, client_session)
            stored = await self._read_for_edit(chat_session, {}, client_session, order={}, then=ONLY_FIELDS)
            if expected_version is not None:
                _check_appended(chat_session, stored)
            # Other programs have an ``_id`` of their own, which stays.
            kept = {document["message_id"]: document for document in stored if document["message_id"] in new}
            return Edit(
                result=True,
                drop=[document for document in stored if document["message_id"] not in new],
                add=[document for message_id, document in new.items() if message_id not in kept],
                revise=[
                    document | {"_id": kept[message_id]["_id"]}
                    for message_id, document in new.items()
                    if message_id in kept
                ],
            )

        return bool(await self._edit_version(session_id, user_id, expected_version, plan))

    async def _edit_version(
        self, session_id: str, user_id: str, expected_version: int | None, plan: Plan
    ) -> Any:
        """Edit a session as `_edit` does; finish an append that the plan has found unfinished.

        The version does not tell of such an append, so whoever expects it may not know the message, and an
        edit that drops it would lose what is acknowledged a moment later.
        """
        try:
            return await self._edit(session_id, user_id, expected_version, plan)
        except _UnfinishedAppendError as error:
            chosen = {"_id": error.session_oid, "session_id": session_id} | not_updated(error.moment)
            update = {"$max": {"updated_at": error.moment}, "$inc": {"version": Int64(1)}}
        await self.sessions.update_one(chosen, update)
        raise VersionConflictError("the session has another version than expected")

    async def _find_for_edit(
        self, chat_session: Document, message_id: str, client_session: Any
    ) -> Document | None:
        for where in ({"_id": message_id}, {"message_id": message_id}):
            found = await self._read_for_edit(chat_session, where, client_session, order={})
            if found:
                return found[0]
        return None

    async def _find_ids(self, chat_session: Document, ids: list[str], client_session: Any) -> list[Document]:
        found: list[Document] = []
        missing = set(ids)
        # Other programs have ids of their own: without one, the index serves all messages of the session.
        for name in ("_id", "message_id"):
            if missing:
                where = {name: {"$in": sorted(missing)}}
                found += await self._read_for_edit(
                    chat_session, where, client_session, order={}, then=ONLY_FIELDS
                )
                missing -= {document["message_id"] for document in found}
        return found


def _check_appended(chat_session: Document, messages: list[Document]) -> None:
    """Check that the appends of messages have raised the version of their session.

    Raises:
        _UnfinishedAppendError: One has not.
    """
    last = max((document.get("write_order") or 0 for document in messages), default=0)
    # The server stores milliseconds.
    moment = write_time(last - last % 1000)
    known = [chat_session["updated_at"], chat_session.get(RESTORED_FIELD)]
    if all(moment > aware(each) for each in known if each is not None):
        raise _UnfinishedAppendError(chat_session["_id"], moment)


def _changed(document: Document, change: MessageChange) -> Document | None:
    """Return the new version of a message, or None if no value changes."""
    new: Document = {}
    if change.content not in (None, document["content"]):
        new["content"] = change.content
    old = plain(document.get("metadata") or {})
    metadata = (old if change.metadata is None else change.metadata) | (change.merge or {})
    if not is_same(metadata, old):
        new["metadata"] = storable(metadata)
    if change.payload is not UNSET and change.payload != document.get("payload"):
        new["payload"] = change.payload
    if not new:
        return None
    changed = document | new
    if changed.get("payload", "") is None:
        del changed["payload"]
    return changed
