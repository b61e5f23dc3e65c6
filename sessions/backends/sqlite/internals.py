"""Access to private parts of aiosqlite that have no public equivalent.

`tests/sqlite/test_internals.py` fails when aiosqlite changes it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import aiosqlite

__all__ = ["release_event_loop", "run_in_thread", "thread_of"]


def thread_of(connection: aiosqlite.Connection) -> threading.Thread:
    """Return the thread in which a connection calls SQLite.

    An open connection keeps the process alive unless its thread is a daemon, which must be set before it
    starts. A connection that failed to open is released only when its thread has ended.
    """
    # Up to aiosqlite 0.21 a connection is its thread.
    thread: Any = getattr(connection, "_thread", connection)
    if not isinstance(thread, threading.Thread):
        raise TypeError("aiosqlite keeps its thread elsewhere")
    return thread


R = TypeVar("R")


class _NoWaiter:
    """Takes a result that no caller awaits, in place of a future and its event loop."""

    def get_loop(self) -> _NoWaiter:
        return self

    def call_soon_threadsafe(self, *_: object) -> None:
        pass


def release_event_loop(connection: Any) -> None:
    """Drop the reference of an idle connection's thread to its last event loop.

    The thread references the last future until the next one, and so keeps alive a loop that was dropped
    without being closed. Every public call submits a future of the running event loop, so this submits a
    call without one through the connection's private queue.

    Args:
        connection: ``aiosqlite.Connection``.
    """
    connection._tx.put_nowait((_nobody, int))


class _Job:
    """A function that a connection's thread calls, and its caller's future."""

    __slots__ = ("_call",)

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], future: asyncio.Future[Any]
    ) -> None:
        self._call: tuple[Callable[..., Any], tuple[Any, ...], asyncio.Future[Any]] | None
        self._call = function, arguments, future

    def run(self) -> None:
        # The thread keeps a reference to this object until its next job, but to nothing that it held.
        assert self._call is not None
        function, arguments, future = self._call
        self._call = None
        result = error = None
        try:
            result = function(*arguments)
        except BaseException as raised:  # Raised in the caller's task.
            error = raised
        try:
            future.get_loop().call_soon_threadsafe(_settle, future, result, error)
        except RuntimeError:  # The loop is closed; nobody waits.
            pass
        finally:
            # The frame of the error's traceback would hold both in a cycle.
            del error, future


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():  # Cancelled.
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


_nobody = _NoWaiter()


def run_in_thread(connection: Any, function: Callable[..., R], *arguments: Any) -> asyncio.Future[R]:
    """Call a function of sqlite3's connection in the thread of an aiosqlite connection.

    aiosqlite's public methods call SQLite once each, and so change threads for each statement; none calls a
    function. The thread keeps no reference to the event loop afterwards, as it does after these methods.

    Args:
        connection: ``aiosqlite.Connection``, open.
        function: Called with sqlite3's connection and the arguments.
        *arguments: What follows the connection.

    Returns:
        The future of its result. The function runs to its end, also if the future is cancelled.

    Raises:
        sqlite3.ProgrammingError: The connection is closed.
    """
    future = asyncio.get_running_loop().create_future()
    raw = connection._connection
    if raw is None or not connection._running:
        raise sqlite3.ProgrammingError("the connection is closed")
    connection._tx.put_nowait((_nobody, _Job(function, (raw, *arguments), future).run))
    return future
