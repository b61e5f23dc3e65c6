"""Steps of a driver that continue after their caller is cancelled.

PyMongo and aiosqlite leak a socket, or leave a transaction open, when they are cancelled. So their calls run
in a task of this package: a caller that is cancelled returns at once, and the task continues until the driver
is done. `Steps` holds these tasks for one resource of one event loop; closing the resource waits for them
first, for a bounded time.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import Context, ContextVar
from typing import Any, ParamSpec, TypeVar

from sessions.core.internals import hide
from sessions.correlation import logger_of

__all__ = ["FINISH_SECONDS", "Steps", "begin", "hidden_task", "lose_patience", "patience"]

P = ParamSpec("P")
R = TypeVar("R")

logger = logger_of(__name__)

# Time limit of a close for steps whose callers were cancelled; then it cancels the steps.
FINISH_SECONDS = 3.0
# Time limit for their cancellation.
CANCEL_SECONDS = 2.5
# Time limit of each of these waits after Ctrl-C, and how long it applies: the process may continue, for
# example in a notebook.
HASTE_SECONDS = 0.2
HASTY_FOR_SECONDS = 5.0

_hasty_until = -math.inf
_in_step: ContextVar[bool] = ContextVar("sessions_in_step", default=False)


class _OutsideOfSteps:
    """Hides the async generators of steps from their event loop.

    ``shutdown_asyncgens`` closes all generators that the loop knows. Drivers lend connections with
    generators, and a running step would lose its connection.
    """

    __slots__ = ("_tell",)

    def __init__(self, tell: Callable[[Any], object]) -> None:
        self._tell = tell

    def __call__(self, generator: Any) -> None:
        if not _in_step.get():
            self._tell(generator)

    @classmethod
    def install(cls) -> None:
        """Install the hook in this thread, for as long as its event loop runs."""
        tell = sys.get_asyncgen_hooks().firstiter
        if tell is not None and not isinstance(tell, cls):
            sys.set_asyncgen_hooks(firstiter=cls(tell))


async def begin(generator: AsyncGenerator[R, None]) -> R:
    """Start a generator that its event loop shuts down; return the first value."""
    token = _in_step.set(False)
    try:
        return await anext(generator)
    finally:
        _in_step.reset(token)


def lose_patience() -> None:
    """Shorten the waits of every close in the next few seconds, after Ctrl-C."""
    global _hasty_until
    _hasty_until = time.monotonic() + HASTY_FOR_SECONDS


def patience(seconds: float) -> float:
    """Return a time limit in seconds, shortened after Ctrl-C."""
    return min(seconds, HASTE_SECONDS) if time.monotonic() < _hasty_until else seconds


def hidden_task(work: Awaitable[R], context: Context | None = None) -> asyncio.Task[R]:
    """Start a task that ``asyncio.run`` does not cancel with all others when its main coroutine ends.

    It must be awaited before its event loop is closed.
    """

    async def run() -> R:
        return await work

    task = asyncio.get_running_loop().create_task(run(), context=context)
    hide(task)
    return task


class Steps:
    """The steps of one resource of one event loop whose callers were cancelled."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Callable[[], Awaitable[R]], *, interrupt: bool = False) -> R:
        """Await ``work()``; a caller that is cancelled gets its ``CancelledError`` at once.

        The cancellation is neither delayed nor suppressed, so an anyio cancel scope need not repeat it.
        The step continues in the background, where only `finish` ends it, and its result is discarded.

        Args:
            work: Coroutine function; runs in its own task, in the caller's context.
            interrupt: Cancel the step with its caller, and continue only its clean-up in the background:
                for drivers that support cancellation, but respond to it slowly.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        async def step() -> R:
            _in_step.set(True)
            try:
                return await work()
            finally:
                # Not in a done callback of the task, which takes another iteration of the loop.
                if not done.done():
                    done.set_result(None)

        _OutsideOfSteps.install()
        task = loop.create_task(step())
        hide(task)
        try:
            await done
        except asyncio.CancelledError:
            if interrupt:
                task.cancel()
            self._keep(task)
            raise
        return task.result()

    def start(self, work: Callable[P, Awaitable[Any]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Await ``work(*args)`` in the background, independent of callers and their cancellation.

        For the clean-up after a cancelled statement, and for work of several callers. It does not have their
        time limits, and must have its own; its errors are only logged.
        """
        self._keep(hidden_task(work(*args, **kwargs), Context()))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # `exception()` also marks it as retrieved. Only the class is logged: the text may quote the row.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("after its caller was cancelled, a step failed with %s", type(error).__name__)

    async def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Wait for all steps; cancel those that take longer than ``seconds``.

        Returns within ``seconds`` and the time limit of a cancellation.
        """
        loop = asyncio.get_running_loop()
        seconds = patience(seconds)
        deadline = loop.time() + seconds
        while self._tasks and (left := deadline - loop.time()) > 0:
            await asyncio.wait(tuple(self._tasks), timeout=left)
        if late := tuple(self._tasks):
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=patience(CANCEL_SECONDS))
            logger.warning(
                "%d cancelled calls did not end within %g s, and were given up", len(late), seconds
            )
