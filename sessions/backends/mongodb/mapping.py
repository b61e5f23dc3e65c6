"""Maps checked arguments to documents, and documents to the dataclasses that callers get."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import bson
from bson import DBRef, Int64, MinKey

from sessions.backends.mongodb.write_order import write_order, write_time
from sessions.core.values import MessageRow, NewSession, StoredMessage
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage, ChatSession
from sessions.models.documents import EPOCH, NAIVE_EPOCH, SESSION_FIELD
from sessions.validation import decode_payload

__all__ = [
    "RESTORED_FIELD",
    "check_batch_size",
    "check_message_size",
    "check_size",
    "fits_transaction",
    "is_one_write",
    "is_same",
    "is_uuid7",
    "message_bytes",
    "message_document",
    "plain",
    "session_document",
    "storable",
    "to_messages",
    "to_session",
]

# The server's limit of 16 MB for a document, less the maximum size of the other fields.
MAX_VALUE_BYTES = 16 * 1024 * 1024 - 8 * 1024
# The time of the last restore of a session, whose ``updated_at`` is the one that was restored.
RESTORED_FIELD = "restored_at"
# The server keeps an uncommitted transaction in its cache, which may be small.
TRANSACTION_BYTES = 16 * 1024 * 1024
TRANSACTION_MESSAGES = 5000
# The server takes an insert command in storage transactions of up to 256 KB and, by version, 64 or 500
# documents; a smaller one is therefore stored whole or not at all.
ATOMIC_BYTES = 200 * 1024
ATOMIC_MESSAGES = 64
# Maximum size of the fields of a message besides its id, content, metadata and payload.
FIELD_BYTES = 1280


def check_size(argument: str, value: str | dict[str, Any] | None) -> None:
    """Refuse a text or an object that does not fit one document.

    Raises:
        InvalidInputError: It is too large.
    """
    if isinstance(value, str):
        # A character takes at most four bytes, so most texts need not be encoded to be measured.
        too_large = len(value) * 4 > MAX_VALUE_BYTES and len(value.encode()) > MAX_VALUE_BYTES
    else:
        too_large = _object_bytes(value) > MAX_VALUE_BYTES
    if too_large:
        raise InvalidInputError(argument, "is larger than MongoDB stores in one document (16 MB)")


def check_message_size(row: MessageRow | StoredMessage, prefix: str = "") -> None:
    """Refuse a message that does not fit one document.

    Args:
        row: The message.
        prefix: What comes before the name of the argument in an error: ``"messages[3]."``.

    Raises:
        InvalidInputError: One of its values, or all of them together, are too large.
    """
    check_size(f"{prefix}content", row.content)
    if row.payload is None and not row.metadata:
        return
    check_size(f"{prefix}payload", row.payload)
    check_size(f"{prefix}metadata", row.metadata)
    sizes = {
        "content": len(row.content.encode()),
        "payload": len(row.payload or ""),
        "metadata": _object_bytes(row.metadata),
    }
    if sum(sizes.values()) > MAX_VALUE_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        reason = "is with the rest of the message larger than MongoDB stores in one document (16 MB)"
        raise InvalidInputError(f"{prefix}{largest}", reason)


def check_batch_size(rows: Sequence[MessageRow | StoredMessage]) -> None:
    """Refuse a batch with a message that does not fit one document.

    Raises:
        InvalidInputError: It is too large.
    """
    for index, row in enumerate(rows):
        check_message_size(row, f"messages[{index}].")


def is_one_write(rows: list[MessageRow]) -> bool:
    """Return whether the server inserts the batch atomically, as it does with small inserts."""
    return len(rows) <= ATOMIC_MESSAGES and _batch_bytes(rows) <= ATOMIC_BYTES


def fits_transaction(rows: list[MessageRow]) -> bool:
    """Return whether a transaction may hold the batch on a server of any size."""
    return len(rows) <= TRANSACTION_MESSAGES and _batch_bytes(rows) <= TRANSACTION_BYTES


def _batch_bytes(rows: list[MessageRow]) -> int:
    return sum(message_bytes(row) for row in rows)


def message_bytes(row: MessageRow) -> int:
    """Return about how many bytes the document of a message has, rather more than less."""
    # The id is stored twice. A payload is ASCII.
    text = len(row.content.encode()) + 2 * len(row.message_id.encode()) + len(row.payload or "")
    return text + _object_bytes(row.metadata) + FIELD_BYTES


def _object_bytes(metadata: dict[str, Any] | None) -> int:
    return len(bson.encode(storable(metadata))) if metadata else 0


def session_document(new: NewSession) -> dict[str, Any]:
    """Return the document of a new session."""
    return {
        "_id": new.key,
        "session_id": new.session_id,
        "title": new.title,
        "user_id": new.user_id,
        "created_at": new.created_at,
        "updated_at": new.created_at,
        "metadata": storable(new.metadata),
        "version": Int64(0),
    }


def storable(value: Any) -> Any:
    """Return checked metadata in a form that comes back equal from `to_session`.

    BSON's decoder makes a reference of an object with the keys "$ref" and "$id", and then an absent "$db"
    and one that is None are the same. With another type there it leaves the object as it is. Also without
    "$ref", which a later change may merge into the object.
    """
    if isinstance(value, list):
        return [storable(item) for item in value]
    if not isinstance(value, dict):
        return value
    stored = {key: storable(item) for key, item in value.items()}
    if stored.get("$db", "") is None:
        stored["$db"] = MinKey()
    return stored


def message_document(session_id: str, session_oid: Any, row: MessageRow) -> dict[str, Any]:
    """Return the document of a new message.

    Its ``_id`` is the message's id, so the insert is idempotent. ``session_oid`` is the ``_id`` of the
    session's document. A ``timestamp`` that the caller does not give is the time of its ``write_order``.
    """
    written = write_order(row.message_id if row.has_new_id else None)
    document = {
        "_id": row.message_id,
        "message_id": row.message_id,
        "session_id": session_id,
        SESSION_FIELD: session_oid,
        "role": row.role,
        "content": row.content,
        "timestamp": write_time(written) if row.timestamp is None else row.timestamp,
        "write_order": Int64(written),
    }
    if row.metadata:
        document["metadata"] = storable(row.metadata)
    if row.payload is not None:
        document["payload"] = row.payload
    return document


def to_messages(documents: list[dict[str, Any]], session_id: str = "") -> list[ChatMessage]:
    """Return the messages of visible documents.

    Args:
        documents: The documents.
        session_id: The session of all of them; empty if they say it.
    """
    epoch, naive_epoch = EPOCH, NAIVE_EPOCH
    # Without a function call, and with naive datetimes from the driver: for a long history this is most of
    # the time.
    return [
        ChatMessage(
            document["message_id"],
            session_id or document["session_id"],
            document["role"],
            document["content"],
            epoch + (document["timestamp"] - naive_epoch),
            plain(document["metadata"]) if document.get("metadata") else {},
            decode_payload(document["payload"]) if "payload" in document else None,
        )
        for document in documents
    ]


_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# The last millisecond of the year 9999, where Python's datetimes end and the time in an id does not.
_LAST_TIME = "e677d21f-dbff"


def is_uuid7(message_id: str) -> bool:
    """Return whether a message id is a UUIDv7, which holds its timestamp."""
    return _UUID7.fullmatch(message_id) is not None and message_id[:13] <= _LAST_TIME


def to_session(document: dict[str, Any]) -> ChatSession:
    """Return the session of a document, which another program may have written."""
    metadata, version = document.get("metadata"), document.get("version")
    # As for the messages, without function calls that do nothing for most sessions.
    return ChatSession(
        document["session_id"],
        document["title"],
        document["user_id"],
        EPOCH + (document["created_at"] - NAIVE_EPOCH),
        EPOCH + (document["updated_at"] - NAIVE_EPOCH),
        plain(metadata) if metadata else {},
        int(version) if version else 0,
    )


def plain(value: Any) -> Any:
    """Return plain JSON in place of the types that BSON's decoder returns."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Int64):
        return int(value)
    if isinstance(value, MinKey):
        return None
    if isinstance(value, DBRef):
        # An object with the keys "$ref" and "$id", as in a JSON schema.
        return {key: plain(item) for key, item in value.as_doc().items()}
    return value


def is_same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal; in Python True equals 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other
