"""One line of an exported file: a session and messages of it, with everything that they hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sessions.cli.conversation_lines import LINE, check_object
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage, ChatSession

__all__ = ["format_line", "parse_exported_line"]

SESSION_KEYS = frozenset(
    {"session_id", "user_id", "title", "created_at", "updated_at", "version", "metadata", "messages"}
)
MESSAGE_KEYS = frozenset({"message_id", "role", "content", "timestamp"})
OPTIONAL_MESSAGE_KEYS = frozenset({"metadata", "payload"})
# A line of any other file has no such key.
SIGN = "created_at"


def format_line(chat_session: ChatSession, messages: Iterable[ChatMessage]) -> bytes:
    """Return the line of a session and messages of it, in UTF-8, with its end."""
    fields = {
        "session_id": chat_session.session_id,
        "user_id": chat_session.user_id,
        "title": chat_session.title,
        "created_at": chat_session.created_at.isoformat(),
        "updated_at": chat_session.updated_at.isoformat(),
        "version": chat_session.version,
        "metadata": chat_session.metadata,
        "messages": [_message_fields(message) for message in messages],
    }
    try:
        text = json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # A payload may hold lone surrogates.
        text = json.dumps(fields).encode()
    return text + b"\n"


def _message_fields(message: ChatMessage) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "message_id": message.message_id,
        "role": message.role,
        "content": message.content,
        "timestamp": message.timestamp.isoformat(),
    }
    if message.metadata:
        fields["metadata"] = message.metadata
    if message.payload is not None:
        fields["payload"] = message.payload
    return fields


def parse_exported_line(line: bytes) -> tuple[ChatSession, list[ChatMessage]] | None:
    """Return the session and the messages of an exported line; None for a line of another file.

    Raises:
        InvalidInputError: A value is missing, unknown, or not a time.
    """
    if f'"{SIGN}"'.encode() not in line:
        return None
    try:
        decoded = json.loads(line)
    except (ValueError, RecursionError):
        return None  # The other parser reports what is wrong.
    if not isinstance(decoded, dict) or SIGN not in decoded:
        return None
    fields = check_object(LINE, decoded, SESSION_KEYS, SESSION_KEYS)
    if not isinstance(fields["messages"], list):
        raise InvalidInputError("messages", "must be a list")
    chat_session = ChatSession(
        fields["session_id"],
        fields["title"],
        fields["user_id"],
        _time("created_at", fields["created_at"]),
        _time("updated_at", fields["updated_at"]),
        fields["metadata"],
        fields["version"],
    )
    known = MESSAGE_KEYS | OPTIONAL_MESSAGE_KEYS
    return chat_session, [
        _message(
            chat_session.session_id,
            f"messages[{index}]",
            check_object(f"messages[{index}]", item, MESSAGE_KEYS, known),
        )
        for index, item in enumerate(fields["messages"])
    ]


def _message(session_id: str, place: str, fields: dict[str, Any]) -> ChatMessage:
    return ChatMessage(
        fields["message_id"],
        session_id,
        fields["role"],
        fields["content"],
        _time(f"{place}.timestamp", fields["timestamp"]),
        fields.get("metadata", {}),
        fields.get("payload"),
    )


def _time(argument: str, value: object) -> datetime:
    try:
        if isinstance(value, str):
            return datetime.fromisoformat(value)
    except ValueError:
        pass
    raise InvalidInputError(argument, "must be a time in ISO 8601")
