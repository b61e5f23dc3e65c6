"""Access to private parts of aiosqlite that have no public equivalent.

`tests/sqlite/test_internals.py` fails when aiosqlite changes it.
"""

from __future__ import annotations

import threading
from typing import Any

import aiosqlite

__all__ = ["release_event_loop", "thread_of"]


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
    connection._tx.put_nowait((_NoWaiter(), int))
