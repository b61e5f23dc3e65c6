"""Turns: one holder at a time, first come first served, across the event loops and threads of a process.

An ``asyncio.Lock`` belongs to one event loop, and a ``threading.Lock`` blocks the loop that waits for it. A
`Turns` is neither: a waiter is a future of its own loop, and whoever gives the turn back wakes the first one.
Nothing is polled.
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
    """The turn did not come in time."""


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
    """Hands out a turn in the order in which it was asked for."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        # Held for a few steps only, which never wait. Re-entrant, because the garbage collector may close
        # an abandoned coroutine, which gives its turn back, in the middle of them.
        self._lock = threading.RLock()
        self._waiting: deque[_Waiter] = deque()
        self._taken = False

    @contextlib.asynccontextmanager
    async def turn(self, seconds: float) -> AsyncIterator[float]:
        """Wait for the turn, at most so many seconds, and hold it for the length of a block.

        A cancelled waiter leaves the queue at once. The block is told how many seconds it has waited.

        Raises:
            TurnTimeoutError: Others held it for too long.
        """
        waited = 0.0 if self._take() else await self._wait(seconds)
        try:
            yield waited
        finally:
            self._pass_on()

    def _take(self) -> bool:
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
                self._pass_on()
            if isinstance(error, TimeoutError):
                raise TurnTimeoutError("the turn did not come in time") from None
            raise

    def _pass_on(self) -> None:
        """Give the turn to the first waiter whose event loop is running."""
        with self._lock:
            for waiter in tuple(self._waiting):
                if waiter.loop.is_running():
                    if self._grant(waiter):
                        return
                # It would keep the turn until somebody runs its loop again. It asks again then.
                elif not self._call(waiter, self._offer, waiter):
                    self._waiting.remove(waiter)
            self._taken = False

    def _offer(self, waiter: _Waiter) -> None:
        with self._lock:
            if not self._taken and waiter in self._waiting:
                self._taken = self._grant(waiter)

    def _grant(self, waiter: _Waiter) -> bool:
        if waiter.future.done():  # Cancelled, and about to leave the queue by itself.
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


# As long as somebody holds one for its key.
_by_key: weakref.WeakValueDictionary[Hashable, Turns] = weakref.WeakValueDictionary()
_lock = threading.RLock()


def turns_for(key: Hashable) -> Turns:
    """Return the turns of a key, the same ones for everybody in this process."""
    with _lock:
        found = _by_key.get(key)
        if found is None:
            found = _by_key[key] = Turns()
        return found


def _after_fork_in_child() -> None:
    # The holders and the waiters are the parent's.
    global _lock
    _lock = threading.RLock()
    for turns in tuple(_by_key.values()):
        turns._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
