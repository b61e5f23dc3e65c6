"""Appends messages, with or without a check of the owner: what both interfaces share."""

from __future__ import annotations

from collections.abc import Awaitable, Hashable, Iterable
from datetime import datetime
from typing import Any

from sessions import validation
from sessions.core.calls import Calls, must_exist
from sessions.core.identifiers import Identifier, new_message_id
from sessions.core.values import Append, MessageRow
from sessions.models import NewMessage

__all__ = ["append_message", "append_messages", "message_rows"]

# About how large a message is apart from its content, metadata and payload, and a value of its metadata.
MESSAGE_BYTES = 100
VALUE_BYTES = 20


def message_rows(calls: Calls, messages: object) -> list[MessageRow]:
    """Return checked messages, each with the caller's id or a new one."""
    rows = [
        MessageRow(
            message.message_id or new_message_id(),
            message.role,
            message.content,
            message.timestamp,
            message.metadata,
            message.payload,
            message.message_id is None,
        )
        for message in validation.check_new_messages(messages, calls.check_id)
    ]
    calls.backend.check_batch_size(rows)
    return rows


async def append_message(
    calls: Calls,
    session_id: Identifier,
    user_id: str | None,
    role: str,
    content: str,
    *,
    message_id: Identifier | None,
    timestamp: datetime | None,
    metadata: dict[str, Any] | None,
    payload: Any,
    expected_version: int | None,
) -> str:
    """Append one message and return its id; `Operations.add_message` documents the arguments.

    Args:
        calls: The calls to the backend.
        session_id: The session.
        user_id: Owner; None for the session of any user.
        role: Role of the message.
        content: Content of the message.
        message_id: The caller's id; None for a new one.
        timestamp: The caller's; None for the time of writing.
        metadata: A JSON object; None for an empty one.
        payload: Any value that ``json.dumps`` can express; None for no payload.
        expected_version: The version that the session must have; None for any.
    """
    backend = calls.backend
    session_id = backend.check_id("session_id", session_id)
    row = MessageRow(
        new_message_id() if message_id is None else backend.check_id("message_id", message_id),
        validation.check_role(role),
        validation.check_content(content),
        None if timestamp is None else validation.check_timestamp("timestamp", timestamp),
        None if metadata is None else validation.check_message_metadata(metadata),
        None if payload is None else validation.encode_payload(payload),
        message_id is None,
    )
    backend.check_message_size(row)
    await _append(calls, "add_message", session_id, user_id, [row], None, expected_version)
    return row.message_id


async def append_messages(
    calls: Calls,
    session_id: Identifier,
    user_id: str | None,
    messages: Iterable[tuple[str, str] | NewMessage],
    merge_metadata: dict[str, Any] | None,
    expected_version: int | None,
) -> list[str]:
    """Append messages, all or none, and return their ids; `Operations.add_messages` documents them."""
    session_id = calls.check_id("session_id", session_id)
    rows = message_rows(calls, messages)
    merge = validation.check_merge(merge_metadata)
    await _append(calls, "add_messages", session_id, user_id, rows, merge, expected_version)
    return [row.message_id for row in rows]


def _append(
    calls: Calls,
    operation: str,
    session_id: str,
    user_id: str | None,
    rows: list[MessageRow],
    merge: dict[str, Any] | None,
    expected_version: int | None,
) -> Awaitable[bool]:
    """Append messages; of a session that does not exist, the result is an error."""
    user_id = None if user_id is None else validation.check_user_id(user_id)
    if expected_version is not None:
        expected_version = validation.check_expected_version(expected_version)
    elif rows and not merge:
        size = _size(rows[0]) if len(rows) == 1 else sum(map(_size, rows))
        key = _key(session_id, user_id, rows)
        return calls.append(operation, Append(session_id, user_id, rows, len(rows), size, key))
    # The ids make an attempt repeatable, but for an empty batch that only merges under a version.
    repeats = bool(rows) or expected_version is None
    arguments = session_id, user_id, rows, merge or None, expected_version
    work = calls.backend.append
    return calls.run(operation, work, *arguments, repeats_unknown=repeats, check=must_exist)


def _key(session_id: str, user_id: str | None, rows: list[MessageRow]) -> Hashable | None:
    """Return what calls have in common of which only the first one stores something."""
    if rows[0].has_new_id or any(row.has_new_id for row in rows):
        return None
    return session_id, user_id, *((row.message_id, row.role, row.content) for row in rows)


def _size(row: MessageRow) -> int:
    """Return about how many bytes a message takes, for the bounds of a batch."""
    metadata = _metadata_size(row.metadata) if row.metadata else 0
    return len(row.content) + (len(row.payload) if row.payload else 0) + metadata + MESSAGE_BYTES


def _metadata_size(value: object) -> int:
    if isinstance(value, str):
        return len(value) + VALUE_BYTES
    if isinstance(value, dict):
        return VALUE_BYTES + sum(len(key) + _metadata_size(item) for key, item in value.items())
    if isinstance(value, list):
        return VALUE_BYTES + sum(map(_metadata_size, value))
    return VALUE_BYTES
