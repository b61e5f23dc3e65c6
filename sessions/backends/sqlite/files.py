"""Detects that a database file was deleted or replaced while connections to it are open.

SQLite continues to write into the old file, which has no path any more, and reports success.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, cast

from sqlalchemy import Engine, PoolProxiedConnection, event, exc
from sqlalchemy.ext.asyncio import AsyncEngine

from sessions.backends.sqlite.driver import is_closed

__all__ = [
    "FileId",
    "file_id",
    "idle_connection",
    "is_missing",
    "is_usable",
    "path_of_engine",
    "replace_stale_connections",
]

FileId = tuple[int, int]
KEY = "sessions_file"


# Whether a connection is checked out without `replace_stale_connections`.
_is_unchecked: ContextVar[bool] = ContextVar("sessions_is_unchecked", default=False)


def idle_connection(pool: Any, current: FileId | None) -> PoolProxiedConnection | None:
    """Check out an idle connection, outside of SQLAlchemy's greenlet, in which a pool may replace it.

    Args:
        pool: SQLAlchemy's pool.
        current: The file at the path now.

    Returns:
        The connection; None if there is no idle one, or if it is not usable, and has gone back to the pool.
    """
    token = _is_unchecked.set(True)
    try:
        connection: PoolProxiedConnection = pool.connect()
    finally:
        _is_unchecked.reset(token)
    if is_usable(connection, current):
        return connection
    connection.close()
    return None


def is_usable(connection: PoolProxiedConnection, current: FileId | None) -> bool:
    """Return whether a connection is open, to the file that is at the path now."""
    return connection.info.get(KEY) == current and not is_closed(cast(Any, connection.driver_connection))


def file_id(path: str) -> FileId | None:
    """Return the device and inode of the file at a path; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_missing(path: str) -> bool:
    """Return whether the file does not exist, but its directory does."""
    return not os.path.lexists(path) and os.path.isdir(os.path.dirname(path))


def path_of_engine(engine: AsyncEngine) -> str | None:
    """Return the absolute path that a service's own engine opens; None if its URL has none."""
    name = engine.url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        return None
    return os.path.abspath(name)


def replace_stale_connections(engine: Engine, path: Callable[[], str]) -> None:
    """Replace a pooled connection whose file was deleted or replaced by a new connection.

    Costs one ``stat``, some microseconds, for each checkout.
    """

    def note(_dbapi_connection: object, record: Any) -> None:
        record.info[KEY] = file_id(path())

    def check(dbapi_connection: Any, record: Any, _proxy: object) -> None:
        if _is_unchecked.get():
            return
        now = file_id(path())
        # A service's engine may have opened it before the listener was added.
        if record.info.setdefault(KEY, now) != now:
            raise exc.InvalidatePoolError("the database file was deleted or replaced")
        if is_closed(dbapi_connection.driver_connection):
            raise exc.DisconnectionError("the connection was closed by a fork")

    event.listen(engine, "connect", note)
    event.listen(engine, "checkout", check)
