"""Steps of a driver that outlive a cancelled caller.

PyMongo and aiosqlite leak a socket, or leave a transaction open, when they are cancelled half-way. So their
work runs in a task of the package's own: a caller that is cancelled returns at once, and the task goes on
until the driver is done. `Steps` holds such tasks for one resource of one event loop; what closes the
resource waits for them first, for a bounded time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from sessions.core.internals import hide

__all__ = ["FINISH_SECONDS", "Steps", "begin", "hidden_task", "lose_patience", "patience"]

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

# How long a close waits for steps whose callers were cancelled, before it cancels them, too.
FINISH_SECONDS = 3.0
# How long it then waits for what they do in return.
CANCEL_SECONDS = 2.5
# How long, after Ctrl-C, each of these waits takes at most; and for how long that holds, as the process may
# well go on, in a notebook for example.
HASTE_SECONDS = 0.2
HASTY_FOR_SECONDS = 5.0

_hasty_until = -math.inf
_in_step: ContextVar[bool] = ContextVar("sessions_in_step", default=False)


class _OutsideOfSteps:
    """Tells an event loop of the async generators that begin, but of none that belongs to a step.

    The end of a loop closes those that it knows of, whatever they are at. Drivers lend connections by
    generators, and a step would have its connection taken away.
    """

    __slots__ = ("_tell",)

    def __init__(self, tell: Callable[[Any], object]) -> None:
        self._tell = tell

    def __call__(self, generator: Any) -> None:
        if not _in_step.get():
            self._tell(generator)

    @classmethod
    def install(cls) -> None:
        """See to it in this thread, for as long as its event loop runs."""
        tell = sys.get_asyncgen_hooks().firstiter
        if tell is not None and not isinstance(tell, cls):
            sys.set_asyncgen_hooks(firstiter=cls(tell))


async def begin(generator: AsyncGenerator[R, None]) -> R:
    """Return what a generator yields first, and have the end of its event loop close it."""
    token = _in_step.set(False)
    try:
        return await anext(generator)
    finally:
        _in_step.reset(token)


def lose_patience() -> None:
    """Have what is closed in the next few seconds wait for next to nothing: somebody has pressed Ctrl-C."""
    global _hasty_until
    _hasty_until = time.monotonic() + HASTY_FOR_SECONDS


def patience(seconds: float) -> float:
    """Return how long to wait where one would wait so many seconds."""
    return min(seconds, HASTE_SECONDS) if time.monotonic() < _hasty_until else seconds


def hidden_task(work: Awaitable[R]) -> asyncio.Task[R]:
    """Start a task that ``asyncio.run`` does not cancel with all others when its main function is over.

    Whoever starts one has to await it before its event loop is closed.
    """

    async def run() -> R:
        return await work

    task = asyncio.get_running_loop().create_task(run())
    hide(task)
    return task


class Steps:
    """The steps that go on for one resource of one event loop although their callers were cancelled."""

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def run(self, work: Callable[[], Awaitable[R]], *, interrupt: bool = False) -> R:
        """Await ``work()``; a caller that is cancelled meanwhile gets its ``CancelledError`` at once.

        The cancellation is never held back and never swallowed, so an anyio scope that repeats it has
        nothing to repeat. The step itself goes on in the background, where only `finish` ends it, and
        what it returns or raises is of no interest to anybody.

        Args:
            work: Makes the awaitable; called in a task of its own, with the caller's context.
            interrupt: Cancel the step with its caller, and let only its clean-up go on in the background:
                for drivers that may be cancelled anywhere, but take their time for it.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        async def step() -> R:
            _in_step.set(True)
            try:
                return await work()
            finally:
                # Here and not when the task is done, which takes another turn of the loop.
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
        """Await ``work(*args)`` in the background, where no caller and no cancellation is in its way.

        For cleaning up after a cancelled statement. It must be bounded by itself; its errors are not told
        to anybody.
        """
        self._keep(hidden_task(work(*args, **kwargs)))

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Asking for the exception counts as having seen it. The class alone: a text may quote the row.
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("after its caller was cancelled, a step failed with %s", type(error).__name__)

    async def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Wait until no step is left; those that take longer are cancelled for real.

        Returns after ``seconds`` and a moment more at the latest.
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
