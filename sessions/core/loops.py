"""Resources of one event loop.

A connection pool works only on the loop that opened it. `LoopBound` opens one for each loop, and closes it
with the loop: an async generator holds the resource, and ``asyncio.run``, ``asyncio.Runner`` and uvloop shut
down the async generators of a loop before they close it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

from sessions.core.forks import on_fork
from sessions.core.steps import Steps, begin, hidden_task, patience
from sessions.correlation import logger_of

__all__ = ["LoopBound", "kept_on", "running_loop", "waiting_loop"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
Loop = asyncio.AbstractEventLoop

logger = logger_of(__name__)

# Time limit for a close of another loop's resource.
CLOSE_TIMEOUT_SECONDS = 10.0
# With more stopped event loops than this, the garbage collector runs at once.
STOPPED_LOOPS = 16

# The loop whose thread waits for the current blocking call: waiting for it in turn would be a deadlock.
# It closes its resource itself as soon as it continues.
waiting_loop: ContextVar[Loop | None] = ContextVar("sessions_waiting_loop", default=None)

_instances: weakref.WeakSet[LoopBound[Any]] = weakref.WeakSet()


def running_loop() -> Loop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def kept_on(loop: Loop) -> weakref.WeakKeyDictionary[object, Any]:
    """Return the entries of an event loop, by owner.

    An attribute of the loop holds them, so they are collected together with a loop that is no longer
    referenced.
    """
    try:
        kept: weakref.WeakKeyDictionary[object, Any] = loop._sessions_kept  # type: ignore[attr-defined]
    except AttributeError:
        kept = loop._sessions_kept = weakref.WeakKeyDictionary()  # type: ignore[attr-defined]
    return kept


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Entry(Generic[T]):
    """A resource of one event loop, and the async generator that holds it."""

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
        """Close the resource once, after running steps, and also if the caller is cancelled."""
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
            logger.warning("the connections of an event loop were abandoned: closing them took too long")
        finally:
            self.closed = True
            if self.guard is not None:
                with contextlib.suppress(RuntimeError):  # `shutdown_asyncgens` is closing it already.
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
        open_: Opens the resource; called on the running loop, must not block.
        close: Closes it; awaited on its loop. None for a borrowed resource, which is held only as long
            as this object.
        parts: Returns parts of the resource that must not be finalized in a forked child.
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
        # Nothing below suspends before the entry is stored, so two tasks cannot both open one.
        self._collect_stopped_loops()
        entry = kept_on(loop)[self] = _Entry(self._open(), self._close)
        self._loops.add(loop)
        # The entry holds no strong reference to this object, unless there is something to close.
        this = weakref.ref(self)

        def forget() -> None:
            if (bound := this()) is not None:
                bound._remove(loop, entry)

        entry.guard = entry.hold(forget)
        await begin(entry.guard)
        return entry

    def _remove(self, loop: Loop, entry: _Entry[T]) -> None:
        # After `aclose` the loop may have a new one.
        if self._entry_on(loop) is entry:
            del kept_on(loop)[self]

    def _collect_stopped_loops(self) -> None:
        """Collect event loops that were dropped without being closed, before there are many.

        They are reference cycles, so their connections stay open until the next full collection.
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

        A cancelled caller returns at once; the step continues in the background, and closing the resource,
        by `aclose` or with the loop, waits for it for at most `FINISH_SECONDS`.

        Args:
            step: Coroutine function that must not be cancelled.
            interrupt: Cancel the step, too, and continue only its clean-up.
        """
        loop = asyncio.get_running_loop()
        entry = self._entry_on(loop) or await self._new_entry(loop)
        return await entry.steps.run(step, interrupt=interrupt)

    def start(self, work: Callable[P, Awaitable[Any]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Await ``work(*args)`` in the background, for cleaning up after a cancelled call.

        It must have its own time limit. Closing the resource waits for it, as for the steps of `run`.
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
                # It is stopped between two runs, and its thread is most likely this one, which runs
                # another loop, so it runs in a worker thread for a moment.
                with contextlib.suppress(RuntimeError):
                    await asyncio.to_thread(loop.run_until_complete, entry.aclose())

    async def _close_elsewhere(self, loop: Loop, entry: _Entry[T]) -> None:
        closing = asyncio.run_coroutine_threadsafe(entry.aclose(), loop)
        try:
            await asyncio.wait_for(asyncio.wrap_future(closing), CLOSE_TIMEOUT_SECONDS)
        except (TimeoutError, RuntimeError) as error:
            # The loop stopped, or is blocked; it shuts down its generators when it is closed.
            logger.warning("a pool of another event loop was not closed: %s", type(error).__name__)

    def _all_parts(self) -> list[object]:
        return [self._parts(resource) for resource in self.resources()] if self._parts else []

    def _forget(self) -> list[object]:
        """Drop all entries without closing them; return objects that must not be finalized."""
        forgotten: list[object] = []
        for loop in tuple(self._loops):
            if (entry := kept_on(loop).pop(self, None)) is not None:
                entry.closed = True
                forgotten += [loop, entry]
        self._loops = weakref.WeakSet()
        return forgotten


# Steps of resources that are being closed already; nothing waits for them.
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
