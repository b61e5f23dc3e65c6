"""Transactions in the thread of a connection: one change of threads for all of their statements.

SQLAlchemy and aiosqlite change threads for each step of each statement, which takes several times as long as
SQLite itself.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import uuid_utils
from sqlalchemy import Executable, Uuid
from sqlalchemy.dialects.sqlite import aiosqlite

from sessions.backends.sql.compiled import CompiledStatements
from sessions.backends.sql.executing import Executor, Parameters
from sessions.models.records import UtcDateTime, loaded_times

__all__ = ["CursorExecutor", "compiled", "execute_alone", "execute_in_transaction", "fetch_all"]

R = TypeVar("R")


# Of a UUID: the places of its digits in the text with hyphens, a space after each text.
DIGITS = tuple(place for place in range(36) if place not in (8, 13, 18, 23))
# From here on one copy for each place takes less time than an object for each UUID.
MANY = 80


def _with_hyphens(digits: str | None) -> str | None:
    return None if digits is None else str(uuid_utils.UUID(digits))


def _all_with_hyphens(values: Sequence[str | None]) -> list[str | None]:
    """Return the texts of UUIDs that are stored as digits."""
    if len(values) < MANY or None in values:
        return list(map(_with_hyphens, values))
    digits = "".join(cast(Sequence[str], values)).encode()
    if len(digits) != len(DIGITS) * len(values):
        return list(map(_with_hyphens, values))
    texts = bytearray(b"-" * 36 + b" ") * len(values)
    for source, place in enumerate(DIGITS):
        texts[place::37] = digits[source :: len(DIGITS)]
    return texts.decode().split()  # type: ignore[return-value]


_AS_IT_IS = contextlib.nullcontext()

compiled = CompiledStatements(
    aiosqlite.dialect(), columns={Uuid: _all_with_hyphens, UtcDateTime: loaded_times}
)


class CursorExecutor:
    """Executes statements with a cursor of sqlite3, in autocommit unless a transaction has begun."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    def rows(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute a statement and return its rows, each with its columns in order."""
        query = compiled(statement)
        return query.rows(fetch_all(query.query, query.arguments(parameters), self._cursor))

    def write(self, statement: Executable, parameters: Parameters) -> int:
        """Execute a statement, once for each of several sets of parameters; return how many rows it wrote."""
        query = compiled(statement)
        if isinstance(parameters, Mapping):
            return self._cursor.execute(query.query, query.arguments(parameters)).rowcount
        return self._cursor.executemany(query.query, map(query.arguments, parameters)).rowcount

    def write_text(self, sql: str, values: tuple[Any, ...]) -> None:
        """Execute SQL with the driver's placeholders, and values as they are stored."""
        self._cursor.execute(sql, values)

    def write_rows(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        """Execute SQL as `write_text` does, once for each of several rows of values."""
        self._cursor.executemany(sql, rows)


def fetch_all(query: str, arguments: Sequence[Any], cursor: sqlite3.Cursor) -> list[Any]:
    """Execute one statement and return SQLite's rows."""
    return cursor.execute(query, arguments).fetchall()


def _busy_timeout(cursor: sqlite3.Cursor, seconds: float | None) -> contextlib.AbstractContextManager[None]:
    """Set the busy timeout for the block; None keeps it."""
    return _AS_IT_IS if seconds is None else _with_busy_timeout(cursor, seconds)


@contextlib.contextmanager
def _with_busy_timeout(cursor: sqlite3.Cursor, seconds: float) -> Iterator[None]:
    [before] = cursor.execute("PRAGMA busy_timeout").fetchone()
    cursor.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}").fetchall()
    try:
        yield
    finally:
        cursor.execute(f"PRAGMA busy_timeout={before}").fetchall()


def execute_alone(
    statement: Executable, parameters: Mapping[str, Any], seconds: float | None, cursor: sqlite3.Cursor
) -> int:
    """Execute one statement as its own transaction; return how many rows it wrote."""
    with _busy_timeout(cursor, seconds):
        return CursorExecutor(cursor).write(statement, parameters)


def execute_in_transaction(work: Callable[[Executor], R], seconds: float | None, cursor: sqlite3.Cursor) -> R:
    """Call a function in a write transaction; commit it, or roll it back on an error.

    Args:
        work: Executes the statements.
        seconds: How long to wait for the write lock; None for the connection's busy timeout.
        cursor: Of the connection.
    """
    with _busy_timeout(cursor, seconds):
        # IMMEDIATE acquires the write lock now: a read lock may fail to be upgraded later.
        cursor.execute("BEGIN IMMEDIATE")
    try:
        result = work(CursorExecutor(cursor))
        cursor.execute("COMMIT")
    except BaseException:
        if cursor.connection.in_transaction:  # SQLite itself rolls back where the disk is full.
            cursor.execute("ROLLBACK")
        raise
    return result
