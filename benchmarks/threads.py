"""The raw blocking drivers, in threads: the driver's own pool, or one connection for each thread."""

from __future__ import annotations

import atexit
import functools
import sqlite3
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import uuid_utils
from psycopg_pool import ConnectionPool

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
_POOLS: dict[str, ConnectionPool] = {}
_OPENING = threading.Lock()


def blocking_append(backend: str, url: str, *, pooled: bool = True) -> Callable[[str], object]:
    """Return a function for one thread, which appends to a session with a backend's blocking driver.

    Args:
        backend: Name of the backend.
        url: Its database.
        pooled: Whether the threads share psycopg's pool as it comes. Otherwise each has a connection of
            its own, which commits by itself: two round trips less, and as many connections as threads.
    """
    if backend == "postgres":
        if pooled:
            return functools.partial(_append_in_pool, _pool(url))
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


def _pool(url: str) -> ConnectionPool:
    with _OPENING:  # The threads come at once.
        if url not in _POOLS:
            _POOLS[url] = ConnectionPool(url, open=True)
            atexit.register(_POOLS[url].close)
        return _POOLS[url]


def _append_in_pool(pool: ConnectionPool, session_id: str) -> None:
    with pool.connection() as connection:  # Its transaction ends with it.
        _append_to_postgres(connection, session_id)


def _append_to_postgres(connection: psycopg.Connection, session_id: str) -> None:
    message_id = uuid.UUID(str(uuid_utils.uuid7()))
    values = (datetime.now(UTC), uuid.UUID(session_id), message_id, "user", CONTENT)
    connection.execute(APPEND, values)


def _append_to_sqlite(connection: sqlite3.Connection, session_id: str) -> None:
    now, session_id = sqlite_time(), sqlite_id(session_id)
    with connection:
        connection.execute(SQLITE_TOUCH, (now, session_id))
        connection.execute(SQLITE_APPEND, (uuid_utils.uuid7().hex, session_id, "user", CONTENT, now))
