"""Appends in SQLite, as the values that it stores: of one call, or of several in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from sessions.backends.sql.executing import Executor
from sessions.backends.sql.rows import MICROSECOND, encode_json
from sessions.core.identifiers import utc_now
from sessions.core.values import Append, MessageRow
from sessions.models.records import loaded_time, stored_time
from sessions.queries import Statements, parameters

__all__ = ["append_together", "insert_messages"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Target:
    """A session that a batch appends to."""

    __slots__ = ("calls", "rows", "user_id")

    def __init__(self, user_id: str | None) -> None:
        self.user_id = user_id
        self.calls = 0
        self.rows: list[MessageRow] = []


def append_together(transaction: Executor, statements: Statements, appends: Sequence[Append]) -> list[bool]:
    """Append as if one call after another; return of each whether its session exists and is its owner's."""
    targets: dict[str, _Target] = {}
    places: list[str | None] = []
    for append in appends:
        session_id = _digits(append.session_id)
        target = targets.get(session_id)
        if target is None:
            target = targets[session_id] = _Target(append.user_id)
        elif target.user_id != append.user_id:
            # One of them names the wrong owner.
            places.append(None)
            continue
        places.append(session_id)
        target.calls += 1
        target.rows += append.rows
    # Not before the transaction has the write lock: the messages that others store until then are earlier.
    first = utc_now()
    # The same for most sessions.
    times = _times(first, max(len(target.rows) for target in targets.values()))
    changes = {
        session_id: (target.user_id, times[len(target.rows) - 1], target.calls, len(target.rows))
        for session_id, target in targets.items()
    }
    listed = parameters(targets=json.dumps(changes, ensure_ascii=False), first=first)
    written = dict(map(tuple, transaction.rows(statements.touch_sessions, listed)))
    values: list[tuple[object, ...]] = []
    for session_id, last in written.items():
        rows = targets[session_id].rows
        if last == times[len(rows) - 1]:
            values += _values(session_id, rows, first, times)
        else:
            own = _first(loaded_time(last), rows)
            values += _values(session_id, rows, own, _times(own, len(rows)))
    if values:
        transaction.write_rows(statements.insert_message, values)
    return [session_id in written for session_id in places]


def insert_messages(
    transaction: Executor, statements: Statements, session_id: str, rows: Sequence[MessageRow], last: datetime
) -> None:
    """Store the messages of a session, of which the last is written at the given time."""
    first = _first(last, rows)
    values = _values(_digits(session_id), rows, first, _times(first, len(rows)))
    transaction.write_rows(statements.insert_message, values)


def _first(last: datetime, rows: Sequence[MessageRow]) -> datetime:
    return last - (len(rows) - 1) * MICROSECOND if len(rows) > 1 else last


def _values(
    session_id: str, rows: Sequence[MessageRow], first: datetime, times: Sequence[str]
) -> list[tuple[object, ...]]:
    """Return the values of messages, which are written at the given times, from the first on."""
    values: list[tuple[object, ...]] = []
    for place, (message_id, role, content, timestamp, metadata, payload, _) in enumerate(rows):
        written, write_order = times[place], 0
        if timestamp is not None:
            written, write_order = stored_time(timestamp), (first - EPOCH) // MICROSECOND + place
        text = encode_json(metadata) if metadata else "{}"
        values.append((_digits(message_id), session_id, role, content, written, text, payload, write_order))
    return values


def _times(first: datetime, count: int) -> list[str]:
    """Return the texts of so many times, each one microsecond after another."""
    return [stored_time(first + place * MICROSECOND) for place in range(count)]


def _digits(identifier: str) -> str:
    """Return a UUID as the type ``Uuid`` stores it in SQLite."""
    return identifier.replace("-", "")
