"""What is taken from inside aiosqlite, because nothing public gives it.

`tests/sqlite/test_internals.py` fails when aiosqlite changes it.
"""

from __future__ import annotations

import threading
from typing import Any

import aiosqlite

__all__ = ["let_event_loop_go", "thread_of"]


def thread_of(connection: aiosqlite.Connection) -> threading.Thread:
    """Return the thread in which a connection calls SQLite.

    A connection that is not closed keeps the process alive unless its thread is a daemon, and only before it
    starts may that be said; and a connection that failed to open is gone only when its thread has ended.
    """
    # Up to aiosqlite 0.21 a connection is its thread.
    thread: Any = getattr(connection, "_thread", connection)
    if not isinstance(thread, threading.Thread):
        raise TypeError("aiosqlite keeps its thread elsewhere")
    return thread


class _Nobody:
    """Takes the result of what nobody waits for, in place of a future and its event loop."""

    def get_loop(self) -> _Nobody:
        return self

    def call_soon_threadsafe(self, *_: object) -> None:
        pass


def let_event_loop_go(connection: Any) -> None:
    """Let the thread of an idle connection forget the event loop that it worked for last.

    It holds the last future until the next one comes, and so a loop that was dropped without being closed.
    Every public call gives it a future of the running event loop; so it gets work with something else,
    through the connection's own queue.

    Args:
        connection: ``aiosqlite.Connection``.
    """
    connection._tx.put_nowait((_Nobody(), int))
