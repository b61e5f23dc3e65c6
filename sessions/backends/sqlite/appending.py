"""Appends in SQLite, as the values that it stores: of one call, or of several in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

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

    def __init__(self, user_id: str | None, rows: list[MessageRow]) -> None:
        self.user_id = user_id
        self.calls = 1
        self.rows = rows


def append_together(transaction: Executor, statements: Statements, appends: Sequence[Append]) -> list[bool]:
    """Append as if one call after another; return of each whether its session exists and is its owner's."""
    targets: dict[str, _Target] = {}
    places: list[str | None] = []
    for append in appends:
        if append.is_cancelled:
            places.append(None)
            continue
        session_id = _digits(append.session_id)
        target = targets.get(session_id)
        if target is None:
            targets[session_id] = _Target(append.user_id, [*append.rows])
        elif None in (append.user_id, target.user_id) or append.user_id == target.user_id:
            # For those that name no owner, too: if it is the wrong one, the batch stores none of them.
            target.user_id = target.user_id or append.user_id
            target.calls += 1
            target.rows += append.rows
        else:
            # One of them names the wrong owner.
            places.append(None)
            continue
        places.append(session_id)
    if not targets:
        return [False] * len(appends)
    # Not before the transaction has the write lock: the messages that others store until then are earlier.
    first = utc_now()
    times = _times(first, max(len(target.rows) for target in targets.values()))
    written = dict(map(tuple, transaction.rows(*_touch(statements, targets, first, times))))
    values: list[tuple[object, ...]] = []
    for session_id, last in written.items():
        rows = targets[session_id].rows
        if last == times[len(rows) - 1]:  # The same for most sessions.
            _add_values(values, session_id, rows, first, times)
        else:
            _add_values(values, session_id, rows, *_times_until(last, len(rows)))
    if values:
        transaction.write_rows(statements.insert_message, values)
    return [session_id in written for session_id in places]


def _touch(
    statements: Statements, targets: dict[str, _Target], first: datetime, times: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """Return the statement that bumps the sessions, and its parameters."""
    amounts = {(target.calls, len(target.rows)) for target in targets.values()}
    if len(amounts) == 1:  # As mostly.
        [(calls, steps)] = amounts
        owners = {session_id: target.user_id for session_id, target in targets.items()}
        now = first + (steps - 1) * MICROSECOND
        equal = parameters(targets=_json(owners), first=first, now=now, calls=calls, steps=steps)
        return statements.touch_sessions[True], equal
    changes = {
        session_id: (target.user_id, times[len(target.rows) - 1], target.calls, len(target.rows))
        for session_id, target in targets.items()
    }
    return statements.touch_sessions[False], parameters(targets=_json(changes), first=first)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def insert_messages(
    transaction: Executor, statements: Statements, session_id: str, rows: Sequence[MessageRow], last: str
) -> None:
    """Store the messages of a session.

    Args:
        transaction: Executes the statement.
        statements: The statements.
        session_id: The session.
        rows: Its messages.
        last: When the last of them is written, as SQLite stores it.
    """
    values: list[tuple[object, ...]] = []
    _add_values(values, _digits(session_id), rows, *_times_until(last, len(rows)))
    transaction.write_rows(statements.insert_message, values)


def _times_until(last: str, count: int) -> tuple[datetime, list[str]]:
    """Return the first of so many times, and the texts of all of them."""
    first = loaded_time(last)
    if count == 1:
        return first, [last]
    first -= (count - 1) * MICROSECOND
    return first, _times(first, count)


def _add_values(
    values: list[tuple[object, ...]],
    session_id: str,
    rows: Sequence[MessageRow],
    first: datetime,
    times: Sequence[str],
) -> None:
    """Add the values of messages, which are written at the given times, from the first on."""
    for place, (message_id, role, content, timestamp, metadata, payload, _) in enumerate(rows):
        written, write_order = times[place], 0
        if timestamp is not None:
            written, write_order = stored_time(timestamp), (first - EPOCH) // MICROSECOND + place
        text = encode_json(metadata) if metadata else "{}"
        values.append(
            (message_id.replace("-", ""), session_id, role, content, written, text, payload, write_order)
        )


def _times(first: datetime, count: int) -> list[str]:
    """Return the texts of so many times, each one microsecond after another."""
    return [stored_time(first + place * MICROSECOND) for place in range(count)]


def _digits(identifier: str) -> str:
    """Return a UUID as the type ``Uuid`` stores it in SQLite."""
    return identifier.replace("-", "")
