"""A fair lock across the event loops and threads of a process: first come, first served.

An ``asyncio.Lock`` belongs to one event loop, and a ``threading.Lock`` blocks the loop that waits for it. A
`Turns` does neither: a waiter is a future of its own loop, and releasing the turn wakes the first one,
without polling.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Hashable

__all__ = ["TurnTimeoutError", "Turns", "turns_for"]


class TurnTimeoutError(TimeoutError):
    """The turn was not acquired in time."""


class _Waiter:
    __slots__ = ("future", "granted", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future = self.loop.create_future()
        self.granted = False

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Turns:
    """Grants the turn in the order of requests."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        # Never held during a wait. Reentrant: the garbage collector may close an abandoned coroutine, which
        # releases its turn, while the lock is held.
        self._lock = threading.RLock()
        self._waiting: deque[_Waiter] = deque()
        self._taken = False

    @contextlib.asynccontextmanager
    async def turn(self, seconds: float) -> AsyncIterator[float]:
        """Wait for the turn, at most so many seconds, and hold it for the length of a block.

        A cancelled waiter leaves the queue at once. Yields the seconds that it waited.

        Raises:
            TurnTimeoutError: The turn was not acquired within ``seconds``.
        """
        waited = await self.acquire(seconds)
        try:
            yield waited
        finally:
            self.release()

    async def acquire(self, seconds: float) -> float:
        """Wait for the turn as `turn` does, and return the seconds that it took. `release` ends the turn."""
        return 0.0 if self.take() else await self._wait(seconds)

    def take(self) -> bool:
        """Take the turn if nobody has it; return whether that worked. `release` ends the turn."""
        with self._lock:
            taken, self._taken = self._taken, True
        return not taken

    async def _wait(self, seconds: float) -> float:
        waiter = _Waiter()
        began = waiter.loop.time()
        with self._lock:
            if not self._taken:
                self._taken = True
                return 0.0
            self._waiting.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.future
            return waiter.loop.time() - began
        except BaseException as error:
            with self._lock:
                granted = waiter.granted
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
            if granted:
                self.release()
            if isinstance(error, TimeoutError):
                raise TurnTimeoutError("the turn did not come in time") from None
            raise

    def release(self) -> None:
        """Give the turn to the first waiter whose event loop is running."""
        with self._lock:
            for waiter in tuple(self._waiting):
                if waiter.loop.is_running():
                    if self._grant(waiter):
                        return
                # It would hold the turn until its loop runs again. It requests the turn again then.
                elif not self._call(waiter, self._offer, waiter):
                    self._waiting.remove(waiter)
            self._taken = False

    def _offer(self, waiter: _Waiter) -> None:
        with self._lock:
            if not self._taken and waiter in self._waiting:
                self._taken = self._grant(waiter)

    def _grant(self, waiter: _Waiter) -> bool:
        if waiter.future.done():  # Cancelled, and about to leave the queue.
            return False
        self._waiting.remove(waiter)
        waiter.granted = True
        return self._call(waiter, waiter.wake)

    @staticmethod
    def _call(waiter: _Waiter, callback: object, *arguments: object) -> bool:
        try:
            waiter.loop.call_soon_threadsafe(callback, *arguments)  # type: ignore[arg-type]
        except RuntimeError:  # The loop was closed.
            return False
        return True


# An entry exists as long as it is referenced.
_by_key: weakref.WeakValueDictionary[Hashable, Turns] = weakref.WeakValueDictionary()
_lock = threading.RLock()


def turns_for(key: Hashable) -> Turns:
    """Return the `Turns` of a key, one object for each key in this process."""
    with _lock:
        found = _by_key.get(key)
        if found is None:
            found = _by_key[key] = Turns()
        return found


def _after_fork_in_child() -> None:
    # The holder and the waiters exist only in the parent.
    global _lock
    _lock = threading.RLock()
    for turns in tuple(_by_key.values()):
        turns._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
