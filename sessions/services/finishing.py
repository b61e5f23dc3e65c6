"""Work that a caller's cancellation does not cut short: it is awaited for a moment, then left to finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio

from sessions.core.blocking import run_blocking
from sessions.correlation import logger_of

__all__ = ["CLOSE_SECONDS", "STORE_SECONDS", "Finishing"]

R = TypeVar("R")

logger = logger_of(__name__)

# A caller that is cancelled waits so long for what it has to store, and so long for each of the agent's
# stream and its claims: together less than the second within which every call ends.
STORE_SECONDS = 0.4
CLOSE_SECONDS = 0.15
# Time limit of a close for all that is left: that of an operation with its retries.
FINISH_SECONDS = 30.0


class Finishing:
    """Runs work in tasks of its own; those whose callers were cancelled are waited for at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Await work that continues if the caller is cancelled, who then waits only a moment for it."""
        task = self._start(work)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.add_done_callback(_log_error)
            await _wait(task, STORE_SECONDS)
            raise
        return task.result()

    async def at_end(self, work: Callable[[], Coroutine[Any, Any, Any]], seconds: float | None) -> None:
        """Do work at the end of a turn; its errors are only logged.

        Args:
            work: What to do.
            seconds: For a caller that is being cancelled, or closed: wait at most so long. None waits for the
                end, unless the caller is cancelled meanwhile.
        """
        is_ending = seconds is not None and _is_ending()
        task = self._start(asyncio.to_thread(run_blocking, work) if is_ending else work())
        task.add_done_callback(_log_error)
        if seconds is not None:
            await _wait(task, seconds)
            return
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            await _wait(task, CLOSE_SECONDS)
            raise

    @staticmethod
    async def close(close: Callable[[], Awaitable[Any]], seconds: float) -> None:
        """Close something in this task, which may be cancelled, for at most so many seconds."""
        with anyio.move_on_after(seconds, shield=True):
            await close()

    def _start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self) -> None:
        """Wait for what callers that were cancelled have left, on this event loop."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + FINISH_SECONDS
        while tasks := [task for task in tuple(self._tasks) if task.get_loop() is loop]:
            await asyncio.wait(tasks, timeout=max(0.0, deadline - loop.time()))
            if loop.time() > deadline:
                break
            # What is stored is followed by the release of the turn's claims.
            await asyncio.sleep(0.01)


def _is_ending() -> bool:
    """Return whether the running loop closes its generators, and with them its connections.

    An operation would open others, that nobody closes: the loop for callers without one does it instead.
    """
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return any(name.endswith(".shutdown_asyncgens") for name in names)


async def _wait(task: asyncio.Task[Any], seconds: float) -> None:
    # Shielded: an anyio scope would cancel this wait again and again.
    with anyio.move_on_after(seconds, shield=True):
        await asyncio.wait((task,))


def _log_error(task: asyncio.Task[Any]) -> None:
    # `exception()` also marks it as retrieved. Only the class is logged: the text may quote a message.
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("the end of a turn failed, and nobody waits for it: %s", type(error).__name__)
