"""aiosqlite's connections, made safe to fork.

SQLite keeps the locks of a process in that process's memory, by file. A fork copies them, and the child's own
connections to the same file then rely on locks that only the parent has: they are locked out for ever if the
parent was writing. If it was not, the parent may delete the log that the child goes on writing to, and with
it what the child has committed. SQLite's manual forbids to carry a connection into a child, even to close it
there. So there must be none while a process forks: before it does, the driver finishes what it is at, and
every connection is closed. The parent's pools then open new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import aiosqlite

from sessions.backends.sqlite.internals import thread_of

__all__ = ["is_closed", "is_ended_by_fork", "open_connection"]

P = ParamSpec("P")
R = TypeVar("R")

# How long a fork waits for statements and transactions under way.
FORK_SECONDS = 5.0


class EndedByForkError(sqlite3.OperationalError):
    """The process was forked before a statement began; its transaction was rolled back."""

    sqlite_errorcode = sqlite3.SQLITE_ABORT
    sqlite_errorname = "SQLITE_ABORT"


def is_ended_by_fork(error: BaseException | None) -> bool:
    """Return whether this is why a driver's statement has failed, so that it may be repeated at once."""
    return isinstance(error, EndedByForkError)


def is_closed(connection: aiosqlite.Connection) -> bool:
    """Return whether SQLite's connection is closed; costs no call into its thread."""
    try:
        connection.in_transaction  # noqa: B018 - raises
    except (sqlite3.ProgrammingError, ValueError):
        return True
    return False


class _Gate:
    """Counts the calls into SQLite, and lets no further one in while the process forks."""

    def __init__(self) -> None:
        # Guards all that the threads of connections share with one that forks.
        self.condition = threading.Condition()
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._forks = 0

    def enter(self, connection: _Connection) -> None:
        with self.condition:
            while self._forks and not connection.is_busy():
                self.condition.wait()
            connection.calling = True

    def leave(self, connection: _Connection) -> None:
        with self.condition:
            connection.calling = False
            if self._forks:
                self.condition.notify_all()

    def add(self, connection: _Connection) -> None:
        with self.condition:
            self._connections.add(connection)

    def discard(self, connection: _Connection) -> None:
        with self.condition:
            self._connections.discard(connection)

    def close(self) -> None:
        """Wait until SQLite has nothing to do, and close all connections."""
        try:
            current = asyncio.get_running_loop()
        except RuntimeError:
            current = None
        deadline = time.monotonic() + FORK_SECONDS
        with self.condition:
            self._forks += 1
            while any(connection.goes_on(current) for connection in tuple(self._connections)):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self.condition.wait(left)
            for connection in tuple(self._connections):
                if not connection.calling:
                    connection.end()
                    self._connections.discard(connection)

    def open(self) -> None:
        with self.condition:
            self._forks -= 1
            self.condition.notify_all()


_gate = _Gate()


class _Cursor(sqlite3.Cursor):
    """Calls SQLite through the gate."""

    has_rows = False

    @property
    def _gated(self) -> _Connection:
        return cast(_Connection, self.connection)

    def _call(self, *arguments: Any, **options: Any) -> Any:
        return self._gated.call(*arguments, **options)

    def execute(self, *arguments: Any) -> Any:
        self._call(super().execute, *arguments)
        self.has_rows = self.description is not None
        return self

    def executemany(self, *arguments: Any) -> Any:
        self._call(super().executemany, *arguments)
        return self

    def fetchall(self) -> list[Any]:
        rows: list[Any] = self._call(super().fetchall)
        self.has_rows = False
        return rows

    def fetchone(self) -> Any:
        return self._call(super().fetchone)

    def fetchmany(self, *arguments: Any, **options: Any) -> list[Any]:
        rows: list[Any] = self._call(super().fetchmany, *arguments, **options)
        return rows

    def close(self) -> None:
        self._gated.call_unless_ended(super().close)
        self.has_rows = False


class _Connection(sqlite3.Connection):
    """Calls SQLite through the gate, and may be closed by the thread that forks."""

    def __init__(self, *arguments: Any, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        self._loop = weakref.ref(loop)
        self._cursors: weakref.WeakSet[_Cursor] = weakref.WeakSet()
        self._opened = False
        self.calling = self.ended = False
        self.call(self._open, *arguments, **options)

    def _open(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._opened = True
        _gate.add(self)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        _gate.enter(self)
        try:
            if self.ended:
                raise EndedByForkError("the process was forked before the statement began")
            return function(*args, **kwargs)
        finally:
            _gate.leave(self)

    def call_unless_ended(self, function: Callable[[], object]) -> None:
        """Call what ending the connection has done already."""
        with contextlib.suppress(EndedByForkError):
            self.call(function)

    def is_busy(self) -> bool:
        """Return whether there is a transaction, or are rows to be read, from a call before."""
        if not self._opened or self.ended:
            return False
        return self.in_transaction or any(cursor.has_rows for cursor in tuple(self._cursors))

    def goes_on(self, current: asyncio.AbstractEventLoop | None) -> bool:
        """Return whether SQLite is at work for this connection, or will be soon without the given loop."""
        if self.calling:
            return True
        loop = self._loop()
        return loop is not None and loop is not current and loop.is_running() and self.is_busy()

    def end(self) -> None:
        """Close it from another thread than its own; an open transaction is rolled back."""
        self.ended = True
        for cursor in tuple(self._cursors):
            sqlite3.Cursor.close(cursor)
        with contextlib.suppress(sqlite3.Error):
            super().close()

    def cursor(self, factory: Any = _Cursor) -> Any:
        if self.ended:
            raise EndedByForkError("the process was forked before the statement began")
        cursor: Any = super().cursor(factory)
        with _gate.condition:
            self._cursors.add(cursor)
        return cursor

    def create_function(self, *arguments: Any, **options: Any) -> None:
        self.call(super().create_function, *arguments, **options)

    def commit(self) -> None:
        self.call(super().commit)

    def rollback(self) -> None:
        self.call_unless_ended(super().rollback)

    def close(self) -> None:
        self._opened = False
        _gate.discard(self)
        self.call_unless_ended(super().close)


async def open_connection(database: str, *, uri: bool, busy_timeout: float) -> aiosqlite.Connection:
    """Open a connection, whose thread does not keep the process alive.

    Args:
        database: Path of the file, or a URI.
        uri: Which of both.
        busy_timeout: Seconds to wait for another connection that locks the file.
    """
    connecting = aiosqlite.connect(
        database,
        uri=uri,
        timeout=busy_timeout,
        check_same_thread=False,
        factory=functools.partial(_Connection, loop=asyncio.get_running_loop()),
    )
    thread = thread_of(connecting)
    thread.daemon = True
    try:
        return await connecting
    except BaseException:
        # A failed connection tells its thread to end, which reports back to this event loop.
        await asyncio.to_thread(thread.join)
        raise


def _after_fork_in_child() -> None:
    # The threads that had calls under way, and whose locks these are, are the parent's.
    global _gate
    _gate = _Gate()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _gate.close(),
        after_in_parent=lambda: _gate.open(),
        after_in_child=_after_fork_in_child,
    )
