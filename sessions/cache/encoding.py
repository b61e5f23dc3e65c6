"""Values of the cache as bytes: a JSON text in each line.

Each caller gets objects of its own, whatever is done with those of another one. JSON and not pickle: whoever
can write to the cache server must not be able to run code here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sessions.errors import SessionsError
from sessions.models import ChatMessage, ChatSession, SessionPreview
from sessions.validation import decode_payload

__all__ = [
    "UnreadableError",
    "decode_history",
    "decode_previews",
    "decode_session",
    "decode_sessions",
    "encode_lines",
]

R = TypeVar("R")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UnreadableError(Exception):
    """A value of the cache is not what was stored, or belongs to another user; it is not used."""


def _session(chat_session: ChatSession) -> list[Any]:
    return [
        chat_session.session_id,
        chat_session.title,
        chat_session.user_id,
        (chat_session.created_at - _EPOCH) // _MICROSECOND,
        (chat_session.updated_at - _EPOCH) // _MICROSECOND,
        chat_session.metadata,
        chat_session.version,
    ]


def _message(message: ChatMessage) -> list[Any]:
    row: list[Any] = [
        message.message_id,
        message.role,
        message.content,
        (message.timestamp - _EPOCH) // _MICROSECOND,
    ]
    if message.metadata or message.payload is not None:
        row.append(message.metadata)
    if message.payload is not None:
        # A text in the text: `decode_payload` reads what `json.loads` does not.
        row.append(_dumps(message.payload))
    return row


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def encode_lines(head: Sequence[str], items: Sequence[Any]) -> bytes | None:
    """Return a value as bytes; None if it has a value that JSON text cannot express here.

    Args:
        head: The user, and the session of a history; checked by the decoder.
        items: Sessions, messages or previews.
    """
    try:
        lines = [_dumps(head), *(_dumps(_row(item)) for item in items)]
    except (ValueError, TypeError, RecursionError):
        # An integer with more digits than Python writes, or a payload as deep as the stack.
        return None
    return "\n".join(lines).encode()


def _row(item: Any) -> list[Any]:
    if isinstance(item, ChatMessage):
        return _message(item)
    if isinstance(item, SessionPreview):
        last = item.last_message
        return [_session(item.session), None if last is None else _message(last)]
    return _session(item)


def _lines_of(payload: bytes, head: Sequence[str], newest: int | None = None) -> list[Any]:
    """Return the decoded lines after the head, or the last of them.

    Args:
        payload: Bytes of `encode_lines`.
        head: What they must begin with.
        newest: At most so many; None for all.

    Raises:
        UnreadableError: They are not such bytes, or begin with another head.
    """
    first, separator, rest = payload.partition(b"\n")
    try:
        if json.loads(first) != list(head):
            raise UnreadableError
        if not separator:
            return []
        lines = rest.split(b"\n") if newest is None else rest.rsplit(b"\n", newest)[-newest:]
        found: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError) as error:
        raise UnreadableError from error
    return found


def decode_session(payload: bytes, user_id: str, session_id: str) -> ChatSession:
    """Return a session of this user.

    Raises:
        UnreadableError: The bytes do not have one.
    """
    found = decode_sessions(payload, user_id)
    if len(found) != 1 or found[0].session_id != session_id:
        raise UnreadableError
    return found[0]


def decode_history(payload: bytes, user_id: str, session_id: str, newest: int | None) -> list[ChatMessage]:
    """Return messages of a session of this user, oldest first.

    Raises:
        UnreadableError: The bytes do not have them.
    """
    rows = _lines_of(payload, (user_id, session_id), newest)
    return _converted(lambda row: _to_message(session_id, *row), rows)


def decode_sessions(payload: bytes, user_id: str) -> list[ChatSession]:
    """Return sessions of this user.

    Raises:
        UnreadableError: The bytes do not have them, or have one of another user.
    """
    return _converted(lambda row: _to_session(user_id, *row), _lines_of(payload, (user_id,)))


def decode_previews(payload: bytes, user_id: str) -> list[SessionPreview]:
    """Return previews of sessions of this user.

    Raises:
        UnreadableError: The bytes do not have them, or have one of another user.
    """

    def preview(row: Any) -> SessionPreview:
        session_row, message_row = row
        chat_session = _to_session(user_id, *session_row)
        last = None if message_row is None else _to_message(chat_session.session_id, *message_row)
        return SessionPreview(chat_session, last)

    return _converted(preview, _lines_of(payload, (user_id,)))


def _converted(convert: Callable[[Any], R], rows: list[Any]) -> list[R]:
    try:
        return [convert(row) for row in rows]
    except (ValueError, TypeError, OverflowError, SessionsError) as error:
        raise UnreadableError from error


def _to_session(
    user_id: str,
    session_id: str,
    title: str,
    owner: str,
    created: int,
    updated: int,
    metadata: dict[str, Any],
    version: int,
) -> ChatSession:
    if owner != user_id:
        raise UnreadableError
    return ChatSession(
        session_id,
        title,
        owner,
        _EPOCH + timedelta(microseconds=created),
        _EPOCH + timedelta(microseconds=updated),
        metadata,
        version,
    )


def _to_message(
    session_id: str,
    message_id: str,
    role: Any,
    content: str,
    timestamp: int,
    metadata: dict[str, Any] | None = None,
    payload: str | None = None,
) -> ChatMessage:
    return ChatMessage(
        message_id,
        session_id,
        role,
        content,
        _EPOCH + timedelta(microseconds=timestamp),
        {} if metadata is None else metadata,
        decode_payload(payload),
    )
