"""The raw blocking drivers, in threads: one connection for each thread, or the driver's own pool."""

from __future__ import annotations

import functools
import sqlite3
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import uuid_utils

from benchmarks.contenders import (
    CONTENT,
    SQLITE_APPEND,
    SQLITE_TOUCH,
    RawBlockingPyMongo,
    sqlite_id,
    sqlite_time,
)
from benchmarks.raw_redis import RawBlockingRedis

__all__ = ["blocking_append"]

APPEND = """
    WITH owner AS (
        UPDATE chat_sessions SET updated_at = %s WHERE session_id = %s RETURNING session_id, updated_at)
    INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
    SELECT %s, session_id, %s, %s, updated_at FROM owner"""
BUSY_SECONDS = 60.0


def blocking_append(backend: str, url: str) -> Callable[[str], object]:
    """Return a function for one thread, which appends to a session with a backend's blocking driver."""
    if backend == "postgres":
        return functools.partial(_append_to_postgres, psycopg.connect(url, autocommit=True))
    if backend == "mongodb":
        return _mongo(url).append
    if backend == "redis":
        return RawBlockingRedis(url).append
    # Of its own thread; the transaction begins with the first statement.
    connection = sqlite3.connect(
        url.removeprefix("sqlite:///"), timeout=BUSY_SECONDS, isolation_level="IMMEDIATE"
    )
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return functools.partial(_append_to_sqlite, connection)


@functools.cache
def _mongo(url: str) -> RawBlockingPyMongo:
    # Its client is for all threads.
    return RawBlockingPyMongo(url, "agenthub")


def _append_to_postgres(connection: psycopg.Connection, session_id: str) -> None:
    message_id = uuid.UUID(str(uuid_utils.uuid7()))
    values = (datetime.now(UTC), uuid.UUID(session_id), message_id, "user", CONTENT)
    connection.execute(APPEND, values)


def _append_to_sqlite(connection: sqlite3.Connection, session_id: str) -> None:
    now, session_id = sqlite_time(), sqlite_id(session_id)
    with connection:
        connection.execute(SQLITE_TOUCH, (now, session_id))
        connection.execute(SQLITE_APPEND, (uuid_utils.uuid7().hex, session_id, "user", CONTENT, now))
