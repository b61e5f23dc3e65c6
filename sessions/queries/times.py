"""The times that the database orders: the new ``updated_at`` of a session."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, case, func, literal_column, type_coerce

from sessions.models.records import ChatSessionRecord, UtcDateTime
from sessions.queries.columns import time

__all__ = ["MICROSECOND", "ONE", "later"]

ONE: Any = literal_column("1")
MICROSECOND: Any = literal_column("interval '1 microsecond'")
# The parts of the text that SQLite stores; the default of the column has no microseconds.
SECONDS: Any = literal_column("substr(chat_sessions.updated_at, 1, 19)")
MICROSECONDS: Any = literal_column("substr(chat_sessions.updated_at, 21)")
MILLION: Any = literal_column("1000000")


def later(steps: Any = ONE, first: Any = None, now: Any = None, *, postgres: bool) -> ColumnElement[Any]:
    """Return the new ``updated_at`` of a session: now, and always later than the old one.

    Args:
        steps: By how many microseconds at least: one for each message.
        first: In SQLite, now less all steps but one; None for one step.
        now: In SQLite, the time; None for the parameter.
        postgres: Whether the dialect is PostgreSQL's.
    """
    if postgres:
        step = MICROSECOND if steps is ONE else MICROSECOND * steps
        return func.greatest(ChatSessionRecord.updated_at + step, time("now"), type_=UtcDateTime())
    # SQLite's own functions know milliseconds, and take longer than the rest of the statement.
    total = MICROSECONDS.op("+")(steps).self_group()
    seconds = func.datetime(SECONDS, total.op("/")(MILLION).concat(literal_column("' seconds'")))
    next_instant = func.printf(literal_column("'%s.%06d'"), seconds, total.op("%")(MILLION))
    now = time("now") if now is None else now
    is_later = ChatSessionRecord.updated_at < (now if first is None else first)
    return case((is_later, now), else_=type_coerce(next_instant, UtcDateTime()))
