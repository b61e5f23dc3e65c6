"""Rows of the statements, as dataclasses, and the JSON text of their columns."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sessions.backends.sql.compiled import columns_of
from sessions.core.values import MessageRow, NewSession, Position, Where
from sessions.models import ChatMessage, ChatSession, SearchHit, SessionPreview
from sessions.queries import parameters
from sessions.validation import decode_payload, decode_payloads

__all__ = [
    "MICROSECOND",
    "are_complete",
    "canonical",
    "decode_json",
    "encode_json",
    "in_order",
    "list_parameters",
    "message_arrays",
    "new_row",
    "to_hit",
    "to_messages",
    "to_payloads",
    "to_preview",
    "to_session",
    "to_sessions",
    "where_parameters",
]

MICROSECOND = timedelta(microseconds=1)


def new_row(new: NewSession, messages: int = 0) -> dict[str, Any]:
    """Return the parameters of a new session row, which is changed last by so many messages."""
    return parameters(
        session_id=new.session_id,
        user_id=new.user_id,
        title=new.title,
        metadata=encode_json(new.metadata),
        now=new.created_at,
        updated_at=new.created_at + max(messages - 1, 0) * MICROSECOND,
    )


def message_arrays(rows: Sequence[MessageRow], *, complete: bool) -> dict[str, Any]:
    """Return the parameters of messages as arrays of texts, for PostgreSQL."""
    arrays = parameters(
        message_ids=[row.message_id for row in rows],
        roles=[row.role for row in rows],
        contents=[row.content for row in rows],
    )
    if complete:
        arrays |= parameters(
            timestamps=[row.timestamp and row.timestamp.isoformat() for row in rows],
            metadata_texts=[encode_json(row.metadata) if row.metadata else None for row in rows],
            payloads=[row.payload for row in rows],
        )
    return arrays


def are_complete(rows: Sequence[MessageRow]) -> bool:
    """Return whether one of the messages has a timestamp, metadata or a payload."""
    return any(timestamp or metadata or payload for _, _, _, timestamp, metadata, payload, _ in rows)


def list_parameters(
    user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
) -> dict[str, Any]:
    """Return the parameters of a page of sessions."""
    page = parameters(user_id=user_id, limit=limit) | where_parameters(where)
    if after is not None:
        page |= parameters(updated_at=after[0], after_id=after[1])
    return page


def where_parameters(where: Where | None) -> dict[str, Any]:
    """Return the parameters of the conditions on metadata; see `sessions.queries.metadata.has_values`."""
    values: dict[str, Any] = {}
    for number, (key, accepted) in enumerate((where or {}).items()):
        values |= parameters(**{f"key_{number}": key, f"accepted_{number}": encode_json(list(accepted))})
    return values


def to_session(row: Any) -> ChatSession:
    """Return the session of a row with `SESSION_COLUMNS`."""
    session_id, title, user_id, created_at, updated_at, metadata, version = row
    return ChatSession(
        str(session_id), title, user_id, created_at, updated_at, decode_json(metadata), version
    )


def to_sessions(rows: Sequence[Any]) -> list[ChatSession]:
    """Return the sessions of rows with `SESSION_COLUMNS`."""
    columns = columns_of(rows)
    if not columns:
        return []
    session_ids, titles, user_ids, created, updated, metadata, versions = columns
    # Without a loop in Python over the rows.
    return list(
        map(
            ChatSession,
            map(str, session_ids),
            titles,
            user_ids,
            created,
            updated,
            _decoded(metadata),
            versions,
        )
    )


def in_order(found: list[ChatSession], *, newest_first: bool) -> list[ChatSession]:
    """Return sessions in the order of a listing, or in the opposite one; the statement may be a union."""
    found.sort(key=lambda chat_session: chat_session.session_id, reverse=not newest_first)
    found.sort(key=lambda chat_session: chat_session.updated_at, reverse=newest_first)
    return found


def to_preview(row: Any) -> SessionPreview:
    """Return the preview of a row with `SESSION_COLUMNS`, then `MESSAGE_COLUMNS` or NULLs."""
    columns = tuple(row)
    chat_session, message = to_session(columns[:7]), columns[7:]
    if message[0] is None:
        return SessionPreview(chat_session, None)
    [last_message] = to_messages(chat_session.session_id, [message])
    return SessionPreview(chat_session, last_message)


def to_messages(session_id: str, rows: Iterable[Any]) -> list[ChatMessage]:
    """Return the messages of rows with `MESSAGE_COLUMNS`."""
    columns = columns_of(rows)
    if not columns:
        return []
    message_ids, roles, contents, timestamps, metadata, payloads = columns
    if any(payloads):
        payloads = [None if payload is None else decode_payload(payload) for payload in payloads]
    # Without a loop in Python over the rows.
    return list(
        map(
            ChatMessage,
            message_ids,
            itertools.repeat(session_id),
            roles,
            contents,
            timestamps,
            _decoded(metadata),
            payloads,
        )
    )


def to_payloads(session_id: str, rows: Sequence[Any]) -> list[Any]:
    """Return the payloads of rows with `MESSAGE_COLUMNS`; of one without a payload the message."""
    columns = columns_of(rows)
    if not columns:
        return []
    texts = columns[-1]
    if None not in texts:
        return decode_payloads(texts)
    without = [row for row, text in zip(rows, texts, strict=True) if text is None]
    whole = iter(to_messages(session_id, without))
    return [next(whole) if text is None else decode_payload(text) for text in texts]


def to_hit(row: Any) -> tuple[SearchHit, Position]:
    """Return the hit of a row of a search, and its position."""
    *of_session, message_id, role, content, timestamp, metadata, payload, write_order = row
    chat_session = to_session(of_session)
    fields = (str(message_id), role, content, timestamp, metadata, payload)
    [message] = to_messages(chat_session.session_id, [fields])
    return SearchHit(chat_session, message), (message.timestamp, write_order, message.message_id)


def encode_json(value: dict[str, Any] | list[Any]) -> str:
    """Return JSON text; the value is already checked."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if "e+" in text:
        # JSONB keeps decimal digits, and the shortest form of 1.2345678901234568e+18 is rounded: read as an
        # integer it is another number. With all digits and a point it stays the same float.
        text = _STRING_OR_LARGE_FLOAT.sub(
            lambda found: f"{float(found[1]):.1f}" if found[1] else found[0], text
        )
    return text


def canonical(metadata: dict[str, Any]) -> str:
    """Return text that is equal for the same metadata: as objects, 1 and 1.0 and True are equal."""
    return json.dumps(metadata, sort_keys=True)


def decode_json(text: str | None) -> dict[str, Any]:
    """Return the stored object; an old row may have none."""
    if text is None or text == "{}":
        return {}
    decoded = _decoder.decode(text)
    return decoded if isinstance(decoded, dict) else {}


def _decoded(texts: Sequence[str | None]) -> Iterable[dict[str, Any]]:
    """Return what `decode_json` returns for each text."""
    if texts.count("{}") == len(texts):  # As mostly.
        return [{} for _ in texts]
    return map(decode_json, texts)


def _parse_integer(digits: str) -> int | float:
    # JSONB returns 1e300 with all its zeros. Integers beyond 64 bits are rejected before they are stored, so
    # such a number was a float.
    number = int(digits) if len(digits) < 25 else float(digits)
    return number if -(2**63) <= number < 2**63 else float(number)


_STRING_OR_LARGE_FLOAT = re.compile(r'"(?:[^"\\]+|\\.)*"|(-?[0-9.]+e\+[0-9]+)')
_decoder = json.JSONDecoder(parse_int=_parse_integer)
