"""Sets up connections of SQLite: pragmas, WAL mode, and what happens when one is returned or closed."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from typing import Any

import aiosqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.backends.sqlite.driver import is_closed
from sessions.backends.sqlite.internals import release_event_loop

__all__ = [
    "KEEPS_NO_LOOP",
    "busy_timeout",
    "ensure_wal",
    "forget",
    "release_loop",
    "roll_back",
    "set_pragmas",
]

# In the information about a connection: its thread was used without aiosqlite's futures.
KEEPS_NO_LOOP = "sessions_keeps_no_loop"
WAL_PAUSE_SECONDS = 0.01


@contextlib.asynccontextmanager
async def busy_timeout(connection: AsyncConnection, seconds: float | None) -> AsyncIterator[None]:
    """Set the busy timeout of a connection for the block; None keeps it."""
    if seconds is None:
        yield
        return
    before = (await connection.exec_driver_sql("PRAGMA busy_timeout")).scalar()
    await connection.exec_driver_sql(f"PRAGMA busy_timeout={int(seconds * 1000)}")
    try:
        yield
    finally:
        await connection.exec_driver_sql(f"PRAGMA busy_timeout={before}")


def ensure_wal(seconds: float, cursor: sqlite3.Cursor) -> None:
    """Set WAL mode, which is persistent; a new file, or one of another program, may not have it.

    Waits for other processes that do the same, or migrate: SQLite itself does not wait here.

    Args:
        seconds: For at most so long.
        cursor: Of the connection, in its thread.
    """
    until = time.monotonic() + seconds
    while cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            cursor.execute("PRAGMA journal_mode=WAL").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(WAL_PAUSE_SECONDS)


def forget(opened: set[aiosqlite.Connection], dbapi_connection: Any, _record: object) -> None:
    """Drop the reference to a connection that is closed."""
    opened.discard(dbapi_connection.driver_connection)


def set_pragmas(dbapi_connection: Any, _record: object) -> None:
    """Make a new connection durable, and let it enforce foreign keys."""
    cursor = dbapi_connection.cursor()
    try:
        # In WAL mode a commit survives a crash of the process; NORMAL could lose it on power loss.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()


def release_loop(dbapi_connection: Any, record: Any) -> None:
    """Let a connection that is returned to the pool keep no event loop alive."""
    if dbapi_connection is not None and not record.info.pop(KEEPS_NO_LOOP, False):
        release_event_loop(dbapi_connection.driver_connection)


def roll_back(dbapi_connection: Any, _record: object, _state: object) -> None:
    """End a transaction that is open when its connection is returned to the pool."""
    connection = dbapi_connection.driver_connection
    # A fork closes connections.
    if not is_closed(connection) and connection.in_transaction:
        dbapi_connection.rollback()
