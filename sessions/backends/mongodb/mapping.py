"""MongoDB's documents: made from checked arguments, and mapped to what callers see."""

from __future__ import annotations

import hashlib
import os
import re
from datetime import datetime
from typing import Any

import bson
from bson import DBRef, Int64, MinKey, ObjectId

from sessions.core.identifiers import uuid7_time
from sessions.core.port import MessageRow, NewSession
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage, ChatSession
from sessions.models.documents import EPOCH, NAIVE_EPOCH, aware

__all__ = [
    "check_batch_size",
    "check_size",
    "first_object_id",
    "is_one_write",
    "is_uuid7",
    "message_document",
    "session_document",
    "session_object_id",
    "storable",
    "to_messages",
    "to_session",
]

# The server's limit of 16 MB for a document, less what our other fields can take.
MAX_VALUE_BYTES = 16 * 1024 * 1024 - 8 * 1024
# One insert command carries 48 MB and 100,000 documents; more would be several, which is not all or none.
MAX_BATCH_BYTES = 40 * 1024 * 1024
MAX_BATCH_MESSAGES = 50_000
# The server takes an insert command in storage transactions of up to 256 KB and, by version, 64 or 500
# documents; a smaller one is therefore stored whole or not at all.
ATOMIC_BYTES = 200 * 1024
ATOMIC_MESSAGES = 64
# What the fields besides the content take in a message, at the most.
FIELD_BYTES = 1024


def check_size(argument: str, value: str | dict[str, Any] | None) -> None:
    """Refuse a text or an object that does not fit one document.

    Raises:
        InvalidInputError: It is too large.
    """
    if isinstance(value, str):
        # A character takes four bytes at the most, so most texts need not be encoded to be measured.
        too_large = len(value) * 4 > MAX_VALUE_BYTES and len(value.encode()) > MAX_VALUE_BYTES
    else:
        too_large = bool(value) and len(bson.encode(value or {})) > MAX_VALUE_BYTES
    if too_large:
        raise InvalidInputError(argument, "is larger than MongoDB stores in one document (16 MB)")


def check_batch_size(rows: list[MessageRow]) -> None:
    """Refuse a batch that does not fit one insert command, or has a message that does not fit one document.

    Raises:
        InvalidInputError: It is too large.
    """
    for index, (_, _, content) in enumerate(rows):
        check_size(f"messages[{index}].content", content)
    if len(rows) > MAX_BATCH_MESSAGES:
        raise InvalidInputError("messages", f"are more than {MAX_BATCH_MESSAGES}")
    if _batch_bytes(rows) > MAX_BATCH_BYTES:
        raise InvalidInputError("messages", "are together larger than 40 MB")


def is_one_write(rows: list[MessageRow]) -> bool:
    """Return whether the server stores the batch in one go, as it does with small inserts."""
    return len(rows) <= ATOMIC_MESSAGES and _batch_bytes(rows) <= ATOMIC_BYTES


def _batch_bytes(rows: list[MessageRow]) -> int:
    return sum(len(content.encode()) + FIELD_BYTES for _, _, content in rows)


def session_object_id(new: NewSession) -> ObjectId:
    """Return the ``_id`` of a session whose id is not new: the same for each try, another for each call."""
    call = f"{new.session_id} {new.created_at.isoformat()} {os.getpid()} "
    return _object_id(new.created_at, call.encode(), _PROCESS)


def first_object_id(new: NewSession) -> ObjectId:
    """Return the ``_id`` of a session whose id is new, too, which tells that no session had it before."""
    return _object_id(new.created_at, b"first", new.session_id.encode())


def _is_first(incarnation: Any, session_id: str) -> bool:
    digest = _digest(b"first", session_id.encode())
    return isinstance(incarnation, ObjectId) and incarnation.binary[4:] == digest


def session_document(new: NewSession, object_id: ObjectId) -> dict[str, Any]:
    """Return the document of a new session."""
    return {
        "_id": object_id,
        "session_id": new.session_id,
        "title": new.title,
        "user_id": new.user_id,
        "created_at": new.created_at,
        "updated_at": new.created_at,
        "metadata": storable(new.metadata),
    }


def storable(value: Any) -> Any:
    """Return checked metadata in a form that comes back equal from `to_session`.

    BSON's decoder makes a reference of an object with the keys "$ref" and "$id", and then an absent "$db"
    and one that is None are the same. With another type there it leaves the object as it is.
    """
    if isinstance(value, list):
        return [storable(item) for item in value]
    if not isinstance(value, dict):
        return value
    stored = {key: storable(item) for key, item in value.items()}
    if "$ref" in stored and stored.get("$db", "") is None:
        stored["$db"] = MinKey()
    return stored


def message_document(session_id: str, incarnation: ObjectId, row: MessageRow) -> dict[str, Any]:
    """Return the document of a new message.

    Its ``_id`` is the same for each try within one incarnation of the session, and tells which one that
    was: see `to_messages`. Its ``timestamp`` is the time of its id, so that the two never order a process's
    messages differently.
    """
    message_id, role, content = row
    timestamp = uuid7_time(message_id)
    mixed = _random_bits(message_id) ^ _tag(incarnation)
    return {
        "_id": ObjectId(_seconds(timestamp) + mixed.to_bytes(8, "big")),
        "message_id": message_id,
        "session_id": session_id,
        "role": role,
        "content": content,
        "timestamp": timestamp,
    }


def _object_id(moment: datetime, *parts: bytes) -> ObjectId:
    # Seconds first, as in every ObjectId: new ones go to the right end of the index.
    return ObjectId(_seconds(moment) + _digest(*parts))


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=8).digest()


def _seconds(moment: datetime) -> bytes:
    return int(moment.timestamp()).to_bytes(4, "big")


def _random_bits(message_id: str) -> int:
    return int(message_id[19:23] + message_id[24:], 16)


def _tag(incarnation: Any) -> int:
    return int.from_bytes(hashlib.blake2b(str(incarnation).encode(), digest_size=4).digest(), "big")


def to_messages(documents: list[dict[str, Any]], incarnation: Any, session_id: str) -> list[ChatMessage]:
    """Return the messages that count for this incarnation of their session; all of them, if it is the first.

    Else one that was written for an earlier session of the same id may still be there: its writer is about
    to take it back, or died before it could. The ``_id`` of our messages holds the last 64 bits of their
    ids, the lower half mixed with the incarnation; a message of another writer counts for any.
    """
    tag, epoch, naive_epoch = _tag(incarnation), EPOCH, NAIVE_EPOCH
    if not _is_first(incarnation, session_id) and not _all_count(documents, tag):
        documents = [document for document in documents if _counts(document, tag)]
    # Without a call of ours, and no zone by the driver: of a long history this is most of the time.
    return [
        ChatMessage(
            document["message_id"],
            document["session_id"],
            document["role"],
            document["content"],
            epoch + (document["timestamp"] - naive_epoch),
        )
        for document in documents
    ]


def _all_count(documents: list[dict[str, Any]], tag: int) -> bool:
    """Return whether all messages are ours and of this incarnation: one look for what is nearly always so."""
    try:
        halves = int("".join([document["message_id"][28:] for document in documents]), 16)
        mixed = b"".join([document["_id"].binary[8:] for document in documents])
    except (AttributeError, ValueError):  # No ObjectId, no UUID.
        return False
    return halves ^ int.from_bytes(mixed, "big") == int.from_bytes(
        tag.to_bytes(4, "big") * len(documents), "big"
    )


def _counts(document: dict[str, Any], tag: int) -> bool:
    message_id = document["message_id"]
    try:
        mixed = int.from_bytes(document["_id"].binary[4:], "big")
        is_ours = message_id[14:15] == "7" and _random_bits(message_id) >> 32 == mixed >> 32
        return not is_ours or _random_bits(message_id) ^ tag == mixed
    except (AttributeError, ValueError):
        return True


# Tells hosts and processes apart; forks of one process differ by their number.
_PROCESS = ObjectId().binary
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# The last millisecond of the year 9999, where Python's datetimes end and the time in an id does not.
_LAST_TIME = "e677d21f-dbff"


def is_uuid7(message_id: str) -> bool:
    """Return whether a message id is like ours, which holds its timestamp."""
    return _UUID7.fullmatch(message_id) is not None and message_id[:13] <= _LAST_TIME


def to_session(document: dict[str, Any]) -> ChatSession:
    """Return the session of a document, which may be older than this package."""
    return ChatSession(
        session_id=document["session_id"],
        title=document["title"],
        user_id=document["user_id"],
        created_at=aware(document["created_at"]),
        updated_at=aware(document["updated_at"]),
        metadata=_plain(document.get("metadata") or {}),
    )


def _plain(value: Any) -> Any:
    """Return a value without the types that BSON's decoder makes of plain JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Int64):
        return int(value)
    if isinstance(value, MinKey):
        return None
    if isinstance(value, DBRef):
        # An object that has the keys "$ref" and "$id", as a JSON schema may.
        return {key: _plain(item) for key, item in value.as_doc().items()}
    return value
