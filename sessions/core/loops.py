"""What belongs to one event loop.

A connection pool works only on the loop that opened it. `LoopBound` gives every loop its own, and closes
it with the loop: an async generator holds the resource, and ``asyncio.run``, ``asyncio.Runner`` and uvloop
close the generators of a loop before the loop itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import warnings
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

from sessions.core.forks import on_fork
from sessions.core.steps import Steps, begin, hidden_task, patience

__all__ = ["LoopBound", "kept_on", "running_loop", "waiting_loop"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
Loop = asyncio.AbstractEventLoop

logger = logging.getLogger(__name__)

# How long a close from one loop waits for another, busy loop to close what belongs to it.
CLOSE_TIMEOUT_SECONDS = 10.0
# So many event loops that stand still are left to the garbage collector's own time.
STOPPED_LOOPS = 16

# The loop whose thread waits for the sync call at hand: to wait for it in turn would be a deadlock.
# What it holds is closed by itself as soon as it goes on.
waiting_loop: ContextVar[Loop | None] = ContextVar("sessions_waiting_loop", default=None)

_instances: weakref.WeakSet[LoopBound[Any]] = weakref.WeakSet()


def running_loop() -> Loop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def kept_on(loop: Loop) -> weakref.WeakKeyDictionary[object, Any]:
    """Return what this package keeps for an event loop, by owner.

    It hangs on the loop itself: a loop that nobody else holds goes, and what belongs to it goes with it.
    """
    try:
        kept: weakref.WeakKeyDictionary[object, Any] = loop._sessions_kept  # type: ignore[attr-defined]
    except AttributeError:
        kept = loop._sessions_kept = weakref.WeakKeyDictionary()  # type: ignore[attr-defined]
    return kept


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Entry(Generic[T]):
    """A resource of one event loop, and what holds it until that loop ends."""

    resource: T
    close_resource: Callable[[T], Awaitable[None]] | None
    steps: Steps = field(default_factory=Steps)
    guard: AsyncGenerator[None, None] | None = None
    closing: asyncio.Task[None] | None = None
    closed: bool = False

    async def hold(self, forget: Callable[[], None]) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            forget()
            if not self.closed:
                await self.aclose()

    async def aclose(self) -> None:
        """Close the resource, after the steps that go on; once, and also if the caller is cancelled."""
        if self.closing is None:
            self.closing = hidden_task(self._close())
        await asyncio.shield(self.closing)

    async def _close(self) -> None:
        try:
            await self.steps.finish()
            if self.close_resource is not None:
                async with asyncio.timeout(patience(CLOSE_TIMEOUT_SECONDS)):
                    await self.close_resource(self.resource)
        except TimeoutError:
            logger.warning("the connections of an event loop were given up, as closing them took too long")
        finally:
            self.closed = True
            if self.guard is not None:
                with contextlib.suppress(RuntimeError):  # The end of the loop is at it already.
                    await self.guard.aclose()

    def __del__(self) -> None:
        if self.close_resource is not None and not self.closed:
            warnings.warn(
                "an event loop has ended, and its connections were not closed: await aclose(), or end the "
                "loop as asyncio.run does, with loop.shutdown_asyncgens()",
                ResourceWarning,
                source=self,
                stacklevel=1,
            )


class LoopBound(Generic[T]):
    """One resource for each event loop, opened on first use and closed with its loop.

    Args:
        open_: Makes the resource; called on the running loop, must not block.
        close: Closes it; awaited on the loop it belongs to. None for what is not ours to close: that is
            held only as long as this object.
        parts: Returns what a fork must leave alone besides the resource, though it may let go of it.
    """

    def __init__(
        self,
        open_: Callable[[], T],
        close: Callable[[T], Awaitable[None]] | None,
        parts: Callable[[T], object] | None = None,
    ) -> None:
        self._open = open_
        self._close = close
        self._parts = parts
        self._loops: weakref.WeakSet[Loop] = weakref.WeakSet()
        self._collect_at = STOPPED_LOOPS
        _instances.add(self)

    def _entry_on(self, loop: Loop) -> _Entry[T] | None:
        entry: _Entry[T] | None = kept_on(loop).get(self)
        return entry

    async def get(self) -> T:
        """Return the running loop's resource, opening it if this is its first use there."""
        loop = asyncio.get_running_loop()
        return (self._entry_on(loop) or await self._new_entry(loop)).resource

    async def _new_entry(self, loop: Loop) -> _Entry[T]:
        # Nothing below suspends before the entry is in place, so two tasks cannot both open.
        self._collect_stopped_loops()
        entry = kept_on(loop)[self] = _Entry(self._open(), self._close)
        self._loops.add(loop)
        # Without a reference from the entry to this object, unless there is something to close.
        this = weakref.ref(self)

        def forget() -> None:
            if (bound := this()) is not None:
                bound._remove(loop, entry)

        entry.guard = entry.hold(forget)
        await begin(entry.guard)
        return entry

    def _remove(self, loop: Loop, entry: _Entry[T]) -> None:
        # Where `aclose` took it out first, the loop may have its next one by now.
        if self._entry_on(loop) is entry:
            del kept_on(loop)[self]

    def _collect_stopped_loops(self) -> None:
        """Have the loops collected that were dropped without being closed, before they are many.

        They are cycles, so they keep their connections until the garbage collector's next full run.
        """
        if len(self._loops) < self._collect_at:
            return
        if sum(not loop.is_running() for loop in tuple(self._loops)) >= STOPPED_LOOPS:
            gc.collect()
        self._collect_at = len(self._loops) + STOPPED_LOOPS

    def peek(self) -> T | None:
        """Return the running loop's resource if it has one."""
        loop = running_loop()
        entry = self._entry_on(loop) if loop else None
        return entry.resource if entry else None

    def resources(self) -> list[T]:
        """Return the resources of all loops."""
        entries = (self._entry_on(loop) for loop in tuple(self._loops))
        return [entry.resource for entry in entries if entry is not None]

    async def run(self, step: Callable[[], Awaitable[R]], *, interrupt: bool = False) -> R:
        """Await ``step()``, which uses the running loop's resource, as `Steps.run` does.

        A cancelled caller returns at once; the step goes on in the background, and closing the resource,
        by `aclose` or at the end of the loop, waits for it, at most `FINISH_SECONDS`.

        Args:
            step: What must not be cancelled half-way.
            interrupt: Cancel the step as well, and let only its clean-up go on.
        """
        loop = asyncio.get_running_loop()
        entry = self._entry_on(loop) or await self._new_entry(loop)
        return await entry.steps.run(step, interrupt=interrupt)

    def start(self, work: Callable[P, Awaitable[Any]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Await ``work(*args)`` in the background, for cleaning up after a cancelled call.

        It has to be bounded by itself. Closing the resource waits for it, as for the steps of `run`.
        """
        entry = self._entry_on(asyncio.get_running_loop())
        (entry.steps if entry else _others).start(work, *args, **kwargs)

    async def aclose(self) -> None:
        """Close the resources of all loops; a loop that uses this again opens a new one."""
        current, waiting = asyncio.get_running_loop(), waiting_loop.get()
        for loop in tuple(self._loops):
            self._loops.discard(loop)
            entry: _Entry[T] | None = kept_on(loop).pop(self, None)
            if entry is None or loop.is_closed():
                continue
            if loop is current:
                await entry.aclose()
            elif loop is waiting:
                loop.call_soon_threadsafe(_start_closing, loop, entry)
            elif loop.is_running():
                await self._close_elsewhere(loop, entry)
            else:
                # It stands still between two runs, and its thread is most likely this one, which is
                # busy with another loop: so it is run for a moment where neither is in the way.
                with contextlib.suppress(RuntimeError):
                    await asyncio.to_thread(loop.run_until_complete, entry.aclose())

    async def _close_elsewhere(self, loop: Loop, entry: _Entry[T]) -> None:
        closing = asyncio.run_coroutine_threadsafe(entry.aclose(), loop)
        try:
            await asyncio.wait_for(asyncio.wrap_future(closing), CLOSE_TIMEOUT_SECONDS)
        except (TimeoutError, RuntimeError) as error:
            # The loop stopped in between, or never gets to it; it closes its generators at its own end.
            logger.warning("a pool of another event loop was not closed: %s", type(error).__name__)

    def _all_parts(self) -> list[object]:
        return [self._parts(resource) for resource in self.resources()] if self._parts else []

    def _forget(self) -> list[object]:
        """Drop all entries without closing them; return what must not be finalised."""
        forgotten: list[object] = []
        for loop in tuple(self._loops):
            if (entry := kept_on(loop).pop(self, None)) is not None:
                entry.closed = True
                forgotten += [loop, entry]
        self._loops = weakref.WeakSet()
        return forgotten


# Of resources that are being closed already; nothing waits for them.
_others = Steps()
_closing_tasks: set[asyncio.Task[None]] = set()


def _start_closing(loop: Loop, entry: _Entry[Any]) -> None:
    task = loop.create_task(entry.aclose())
    _closing_tasks.add(task)
    task.add_done_callback(_closing_tasks.discard)


on_fork(
    before=lambda: [instance._all_parts() for instance in tuple(_instances)],
    in_child=lambda: [instance._forget() for instance in tuple(_instances)],
)
