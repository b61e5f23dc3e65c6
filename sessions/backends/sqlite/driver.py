"""aiosqlite's connections, made safe to fork.

SQLite keeps the locks of a process in that process's memory, by file. A fork copies them, and the child's own
connections to the same file then rely on locks that only the parent holds: they are locked out for ever if
the parent was writing. If it was not, the parent may delete the WAL that the child writes to, and with it the
child's commits. SQLite's manual forbids carrying a connection across a fork, even to close it in the child.
So every connection is closed before a fork, after running statements and transactions have ended. The
parent's pools then open new ones.
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

from sessions.backends.sqlite.internals import run_in_thread, thread_of

__all__ = ["call_in_thread", "is_closed", "is_ended_by_fork", "open_connection"]

P = ParamSpec("P")
R = TypeVar("R")

# Time limit of a fork's wait for statements and transactions in progress.
FORK_SECONDS = 5.0


class EndedByForkError(sqlite3.OperationalError):
    """The process was forked before a statement began; its transaction was rolled back."""

    sqlite_errorcode = sqlite3.SQLITE_ABORT
    sqlite_errorname = "SQLITE_ABORT"


def is_ended_by_fork(error: BaseException | None) -> bool:
    """Return whether a fork ended a statement before it began, so that it may be repeated at once."""
    return isinstance(error, EndedByForkError)


def is_closed(connection: aiosqlite.Connection) -> bool:
    """Return whether SQLite's connection is closed, without a call into its thread."""
    try:
        connection.in_transaction  # noqa: B018 - raises
    except (sqlite3.ProgrammingError, ValueError):
        return True
    return False


class _Gate:
    """Counts the calls into SQLite, and blocks new ones while the process forks."""

    def __init__(self) -> None:
        # Guards the state that connection threads share with a thread that forks.
        self._lock = threading.RLock()
        self.condition = threading.Condition(self._lock)
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._forks = 0

    def enter(self, connection: _Connection) -> None:
        with self._lock:
            # A call within a call, by `run`, goes on: the fork waits for its end.
            while self._forks and not connection.calling and not connection.is_busy():
                self.condition.wait()
            connection.calling += 1

    def leave(self, connection: _Connection) -> None:
        with self._lock:
            connection.calling -= 1
            if self._forks:
                self.condition.notify_all()

    def add(self, connection: _Connection) -> None:
        with self.condition:
            self._connections.add(connection)

    def discard(self, connection: _Connection) -> None:
        with self.condition:
            self._connections.discard(connection)

    def close(self) -> None:
        """Wait until SQLite is idle, and close all connections."""
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
    """Calls SQLite through the gate; the thread that forks may close it."""

    def __init__(self, *arguments: Any, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        self._loop = weakref.ref(loop)
        self._cursors: weakref.WeakSet[_Cursor] = weakref.WeakSet()
        self._opened = self.ended = False
        # How many calls are running, one within the other.
        self.calling = 0
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

    def run(self, work: Callable[..., R], *arguments: Any) -> R:
        """Call a function of a cursor, as one call: a fork waits for its end.

        Args:
            work: Called with the arguments and a cursor.
            *arguments: What precedes the cursor.
        """
        # As `call` does, without the frames of two more functions.
        _gate.enter(self)
        try:
            if self.ended:
                raise EndedByForkError("the process was forked before the statement began")
            cursor = super().cursor(sqlite3.Cursor)
            try:
                return work(*arguments, cursor)
            finally:
                cursor.close()
        finally:
            _gate.leave(self)

    def call_unless_ended(self, function: Callable[[], object]) -> None:
        """Call a clean-up function, unless the connection has ended."""
        with contextlib.suppress(EndedByForkError):
            self.call(function)

    def is_busy(self) -> bool:
        """Return whether an earlier call left an open transaction or unread rows."""
        if not self._opened or self.ended:
            return False
        return self.in_transaction or any(cursor.has_rows for cursor in tuple(self._cursors))

    def goes_on(self, current: asyncio.AbstractEventLoop | None) -> bool:
        """Return whether a call is running, or another loop than the given one will make one soon."""
        if self.calling > 0:
            return True
        loop = self._loop()
        return loop is not None and loop is not current and loop.is_running() and self.is_busy()

    def end(self) -> None:
        """Close it from any thread; an open transaction is rolled back."""
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
    """Open a connection with a daemon thread.

    Args:
        database: Path of the file, or a URI.
        uri: Whether it is a URI.
        busy_timeout: Seconds to wait for the lock of another connection.
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
        # A failed connection stops its thread, which calls back into this event loop.
        await asyncio.to_thread(thread.join)
        raise


def call_in_thread(connection: Any, work: Callable[..., R], *arguments: Any) -> asyncio.Future[R]:
    """Call a function of a cursor in the thread of a connection of `open_connection`.

    It runs to its end, also if the future is cancelled.

    Args:
        connection: The connection.
        work: Called with the arguments and a cursor.
        *arguments: What precedes the cursor.
    """
    return run_in_thread(connection, _Connection.run, work, *arguments)


def _after_fork_in_child() -> None:
    # The threads that hold these locks exist only in the parent.
    global _gate
    _gate = _Gate()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _gate.close(),
        after_in_parent=lambda: _gate.open(),
        after_in_child=_after_fork_in_child,
    )
