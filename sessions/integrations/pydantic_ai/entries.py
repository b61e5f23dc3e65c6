"""Entries of Pydantic AI's conversations as messages of a session, and records as text in its metadata."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, cast

import pydantic
from pydantic_ai.conversation_store import ConversationEntry, ConversationRecord
from pydantic_ai.messages import ModelMessage

from sessions.integrations.common import derived_id, new_message
from sessions.integrations.pydantic_ai.messages import facts_of, role_of, text_of
from sessions.models import ChatMessage, NewMessage

__all__ = [
    "ENTRY",
    "FRAMEWORK",
    "copied",
    "is_line",
    "line_to",
    "message_id_of",
    "minted_at",
    "to_entries",
    "to_messages",
    "to_record",
    "to_text",
    "under_own_id",
]

FRAMEWORK = "pydantic-ai"
# Keys of a message's metadata.
ENTRY, PARENT = "pydantic_ai.entry", "pydantic_ai.parent"

_CONFIG = pydantic.ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants", defer_build=True
)
_messages: pydantic.TypeAdapter[list[ModelMessage]] = pydantic.TypeAdapter(list[ModelMessage], config=_CONFIG)
_records: pydantic.TypeAdapter[list[ConversationRecord]] = pydantic.TypeAdapter(
    list[ConversationRecord], config=_CONFIG
)


def to_text(record: ConversationRecord) -> str:
    """Return a record as JSON text, in ASCII."""
    return json.dumps(_records.dump_python([record], mode="json")[0])


def to_record(text: str) -> ConversationRecord:
    """Return the record of a text."""
    return _records.validate_python([json.loads(text)])[0]


def to_messages(entries: Sequence[ConversationEntry]) -> list[NewMessage]:
    """Return entries as messages, each with the framework's message as its payload."""
    payloads: list[Any] = _messages.dump_python([entry.message for entry in entries], mode="json")
    return list(map(_to_message, entries, payloads))


def _to_message(entry: ConversationEntry, payload: Any) -> NewMessage:
    facts = {**facts_of(payload), ENTRY: entry.id, PARENT: entry.parent_id}
    return new_message(
        role_of(payload), text_of(payload), payload, metadata=facts, message_id=message_id_of(entry.id)
    )


def to_entries(messages: Sequence[ChatMessage]) -> list[ConversationEntry]:
    """Return the entries of messages."""
    found = _messages.validate_python([message.payload for message in messages])
    return [
        ConversationEntry(
            id=stored.metadata[ENTRY], parent_id=stored.metadata.get(PARENT), message=cast("Any", message)
        )
        for stored, message in zip(messages, found, strict=True)
    ]


def line_to(
    head_id: str, messages: Sequence[ChatMessage], limit: int | None = None
) -> list[ChatMessage] | None:
    """Return the messages from the first entry to the head, or the last of them; None if one is missing."""
    by_entry = {message.metadata.get(ENTRY): message for message in messages}
    line: list[ChatMessage] = []
    entry_id: str | None = head_id
    while entry_id is not None and (limit is None or len(line) < limit):
        message = by_entry.get(entry_id)
        if message is None:
            return None
        line.append(message)
        entry_id = message.metadata.get(PARENT)
    return line[::-1]


def is_line(entries: Sequence[ConversationEntry], head_id: str | None) -> bool:
    """Return whether each entry continues the one before it, and the last is the head."""
    pairs = pairwise(entries)
    return entries[-1].id == head_id and all(after.parent_id == before.id for before, after in pairs)


def minted_at(entry_id: str) -> datetime | None:
    """Return when an id was made that is a UUIDv7."""
    try:
        made = uuid.UUID(entry_id)
    except ValueError:
        return None
    return datetime.fromtimestamp((made.int >> 80) / 1000, UTC) if made.version == 7 else None


def message_id_of(entry_id: str) -> str:
    """Return the id of the message of an entry: its own, if it is a UUID."""
    try:
        if str(uuid.UUID(entry_id)) == entry_id:
            return entry_id
    except ValueError:
        pass
    return derived_id(FRAMEWORK, entry_id)


def copied(message: ChatMessage, session_id: str) -> NewMessage:
    """Return the message of an entry for another session, under an id of its own there."""
    return NewMessage(
        message.role,
        message.content,
        message_id=derived_id(FRAMEWORK, session_id, message.metadata[ENTRY]),
        timestamp=message.timestamp,
        metadata=message.metadata,
        payload=message.payload,
    )


def under_own_id(message: NewMessage, session_id: str) -> NewMessage:
    """Return a message under an id that no other session has."""
    entry_id = (message.metadata or {})[ENTRY]
    return replace(message, message_id=derived_id(FRAMEWORK, session_id, entry_id))
