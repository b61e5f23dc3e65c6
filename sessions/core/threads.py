"""Threads that wait for an event loop, and what the loop knows of those that it has woken.

Threads that a batch has woken call again, one after another, as each gets the interpreter's lock. If the
first of them woke the loop, that would wait for the lock between any two of them, and begin a few of their
calls each time. So the last one wakes the loop, for the calls of all.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

__all__ = ["WaitingThread", "WokenThreads"]

# How long the loop waits for a thread that it has woken: a signal may have interrupted the thread.
PATIENCE_SECONDS = 0.05


class WaitingThread:
    """A thread that waits, until it is woken once."""

    __slots__ = ("_asleep",)

    def __init__(self) -> None:
        # Cheaper than a `threading.Event`; one thread waits.
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def sleep(self) -> None:
        """Wait until another thread wakes this one."""
        self._asleep.acquire()

    def wake(self) -> None:
        """Wake the thread."""
        with contextlib.suppress(RuntimeError):  # It is awake.
            self._asleep.release()


class WokenThreads:
    """The threads that an event loop has woken, and that have not run yet.

    Args:
        when_all_run: Called when none is left, by the last one.
    """

    __slots__ = ("_threads", "_timer", "_when_all_run")

    def __init__(self, when_all_run: Callable[[], object]) -> None:
        self._when_all_run = when_all_run
        # Changed by several threads: each operation on a set is one step.
        self._threads: set[WaitingThread] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._threads)

    def wake(self, thread: WaitingThread) -> None:
        """Wake a thread; called on the event loop."""
        self._threads.add(thread)
        if self._timer is None:
            self._watch()
        thread.wake()

    def runs(self, thread: WaitingThread) -> None:
        """Note that a thread runs, whether or not it was woken."""
        self._threads.discard(thread)
        if not self._threads:
            self._when_all_run()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PATIENCE_SECONDS, self._look, frozenset(self._threads))

    def _look(self, earlier: frozenset[WaitingThread]) -> None:
        """Wait no longer for threads that were woken a while ago."""
        self._threads -= earlier
        self._timer = None
        if self._threads:
            self._watch()
        else:
            self._when_all_run()
