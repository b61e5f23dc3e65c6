"""Rows of the statements, as dataclasses, and the JSON text of their columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from sessions.core.values import NewSession, Position
from sessions.models import ChatMessage, ChatSession, SearchHit
from sessions.queries import parameters
from sessions.validation import decode_payload

__all__ = ["decode_json", "encode_json", "in_order", "new_row", "to_hit", "to_messages", "to_session"]


def new_row(new: NewSession) -> dict[str, Any]:
    """Return the parameters of a new session row."""
    return parameters(
        session_id=new.session_id,
        user_id=new.user_id,
        title=new.title,
        metadata=encode_json(new.metadata),
        now=new.created_at,
    )


def to_session(row: Any) -> ChatSession:
    """Return the session of a row with `SESSION_COLUMNS`."""
    session_id, title, user_id, created_at, updated_at, metadata, version = row
    return ChatSession(
        str(session_id), title, user_id, created_at, updated_at, decode_json(metadata), version
    )


def in_order(found: list[ChatSession], *, newest_first: bool) -> list[ChatSession]:
    """Return sessions in the order of a listing, or in the opposite one; the statement may be a union."""
    found.sort(key=lambda chat_session: chat_session.session_id, reverse=not newest_first)
    found.sort(key=lambda chat_session: chat_session.updated_at, reverse=newest_first)
    return found


def to_messages(session_id: str, rows: Iterable[Any]) -> list[ChatMessage]:
    """Return the messages of rows with `MESSAGE_COLUMNS`."""
    return [
        ChatMessage(
            message_id,
            session_id,
            role,
            content,
            timestamp,
            decode_json(metadata),
            None if payload is None else decode_payload(payload),
        )
        for message_id, role, content, timestamp, metadata, payload in rows
    ]


def to_hit(row: Any) -> tuple[SearchHit, Position]:
    """Return the hit of a row of a search, and its position."""
    *of_session, message_id, role, content, timestamp, metadata, payload, write_order = row
    chat_session = to_session(of_session)
    fields = (str(message_id), role, content, timestamp, metadata, payload)
    [message] = to_messages(chat_session.session_id, [fields])
    return SearchHit(chat_session, message), (message.timestamp, write_order, message.message_id)


def encode_json(metadata: dict[str, Any]) -> str:
    """Return JSON text; the metadata is already checked."""
    text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if "e+" in text:
        # JSONB keeps decimal digits, and the shortest form of 1.2345678901234568e+18 is rounded: read as an
        # integer it is another number. With all digits and a point it stays the same float.
        text = _STRING_OR_LARGE_FLOAT.sub(
            lambda found: f"{float(found[1]):.1f}" if found[1] else found[0], text
        )
    return text


def decode_json(text: str | None) -> dict[str, Any]:
    """Return the stored object; an old row may have none."""
    if text is None or text == "{}":
        return {}
    decoded = _decoder.decode(text)
    return decoded if isinstance(decoded, dict) else {}


def _parse_integer(digits: str) -> int | float:
    # JSONB returns 1e300 with all its zeros. Integers beyond 64 bits are rejected before they are stored, so
    # such a number was a float.
    number = int(digits) if len(digits) < 25 else float(digits)
    return number if -(2**63) <= number < 2**63 else float(number)


_STRING_OR_LARGE_FLOAT = re.compile(r'"(?:[^"\\]+|\\.)*"|(-?[0-9.]+e\+[0-9]+)')
_decoder = json.JSONDecoder(parse_int=_parse_integer)
