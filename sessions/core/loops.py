"""What belongs to one event loop, and the one background loop for callers that have none.

A connection pool works only on the loop that opened it. `LoopBound` gives every loop its own, and closes
it with the loop: an async generator holds the resource, and ``asyncio.run``, ``asyncio.Runner`` and uvloop
close the generators of a loop before the loop itself.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

from sessions.core.steps import Steps, hidden_task

__all__ = ["LoopBound", "run_blocking", "running_loop"]

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
Loop = asyncio.AbstractEventLoop

logger = logging.getLogger(__name__)

# How long a close from one loop waits for another, busy loop to close what belongs to it.
CLOSE_TIMEOUT_SECONDS = 10.0


def running_loop() -> Loop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    """A resource of one event loop, and what holds it until that loop ends."""

    resource: T
    close_resource: Callable[[T], Awaitable[None]]
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
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self.close_resource(self.resource)
        finally:
            self.closed = True
            if self.guard is not None:
                with contextlib.suppress(RuntimeError):  # The end of the loop is at it already.
                    await self.guard.aclose()


class LoopBound(Generic[T]):
    """One resource for each event loop, opened on first use and closed with its loop.

    Args:
        open_: Makes the resource; called on the running loop, must not block.
        close: Closes it; awaited on the loop it belongs to.
        parts: Returns what a fork must leave alone besides the resource, though it may let go of it.
    """

    def __init__(
        self,
        open_: Callable[[], T],
        close: Callable[[T], Awaitable[None]],
        parts: Callable[[T], object] | None = None,
    ) -> None:
        self._open = open_
        self._close = close
        self._parts = parts
        self._entries: dict[Loop, _Entry[T]] = {}
        _instances.add(self)

    async def get(self) -> T:
        """Return the running loop's resource, opening it if this is its first use there."""
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop)
        return (entry or await self._new_entry(loop)).resource

    async def _new_entry(self, loop: Loop) -> _Entry[T]:
        # Nothing below suspends before the entry is in place, so two tasks cannot both open.
        self._drop_closed_loops()
        entry = self._entries[loop] = _Entry(self._open(), self._close)
        entry.guard = entry.hold(lambda: self._remove(loop, entry))
        await anext(entry.guard)
        _close_before(loop)
        return entry

    def _remove(self, loop: Loop, entry: _Entry[T]) -> None:
        # Where `aclose` took it out first, the loop may have its next one by now.
        if self._entries.get(loop) is entry:
            del self._entries[loop]

    def peek(self) -> T | None:
        """Return the running loop's resource if it has one."""
        loop = running_loop()
        entry = self._entries.get(loop) if loop else None
        return entry.resource if entry else None

    def resources(self) -> list[T]:
        """Return the resources of all event loops."""
        return [entry.resource for entry in tuple(self._entries.values())]

    async def run(self, step: Callable[[], Awaitable[R]], *, interrupt: bool = False) -> R:
        """Await ``step()``, which uses the running loop's resource, as `Steps.run` does.

        A cancelled caller returns at once; the step goes on in the background, and closing the resource,
        by `aclose` or at the end of the loop, waits for it, at most `FINISH_SECONDS`.

        Args:
            step: What must not be cancelled half-way.
            interrupt: Cancel the step as well, and let only its clean-up go on.
        """
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop) or await self._new_entry(loop)
        return await entry.steps.run(step, interrupt=interrupt)

    def start(self, work: Callable[P, Awaitable[Any]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Await ``work(*args)`` in the background, for cleaning up after a cancelled call.

        It has to be bounded by itself. Closing the resource waits for it, as for the steps of `run`.
        """
        entry = self._entries.get(asyncio.get_running_loop())
        (entry.steps if entry else _others).start(work, *args, **kwargs)

    def _drop_closed_loops(self) -> None:
        for loop in [loop for loop in tuple(self._entries) if loop.is_closed()]:
            self._entries.pop(loop, None)

    async def aclose(self) -> None:
        """Close the resources of all loops; a loop that uses this again opens a new one."""
        self._drop_closed_loops()
        current, waiting = asyncio.get_running_loop(), _waiting_loop.get()
        for loop, entry in tuple(self._entries.items()):
            self._entries.pop(loop, None)
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
        parts = self._parts
        return [parts(entry.resource) for entry in tuple(self._entries.values())] if parts else []

    def _forget(self) -> dict[Loop, _Entry[T]]:
        entries, self._entries = self._entries, {}
        return entries


# Of resources that are being closed already; nothing waits for them.
_others = Steps()
_closing_tasks: set[asyncio.Task[None]] = set()


def _start_closing(loop: Loop, entry: _Entry[Any]) -> None:
    task = loop.create_task(entry.aclose())
    _closing_tasks.add(task)
    task.add_done_callback(_closing_tasks.discard)


def _close_before(loop: Loop) -> None:
    """Let a loop that is closed without closing its generators close ours first.

    ``loop.close()`` alone leaves them hanging, and a pool cannot be closed once its loop is: sockets
    would stay open, and the drivers' background tasks would be destroyed while pending.
    """
    if getattr(loop.close, "_closes_pools", False):
        return
    close = loop.close

    def close_pools_first() -> None:
        if not loop.is_closed() and not loop.is_running():
            for instance in tuple(_instances):
                if entry := instance._entries.get(loop):
                    loop.run_until_complete(entry.aclose())
        close()

    close_pools_first._closes_pools = True  # type: ignore[attr-defined]
    # A loop that allows no attributes keeps its own close; what it holds is then dropped unclosed.
    with contextlib.suppress(AttributeError):
        loop.close = close_pools_first  # type: ignore[method-assign]


def _uvloop_works() -> bool:
    try:
        from uvloop import new_event_loop  # noqa: F401
    except ImportError:
        return False
    return True


class _BackgroundLoop:
    """The loop that sync callers share, started on first use and stopped at interpreter exit.

    anyio's portal runs it, on uvloop where that is installed, and ends it. The portal's own calls cost
    more than many a statement, so they do not go through it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack: contextlib.ExitStack | None = None
        self._loop: Loop | None = None
        self._thread_id: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, function: Callable[[], Awaitable[R]]) -> R:
        loop = self._loop or self._start()
        if threading.get_ident() == self._thread_id:
            raise RuntimeError(
                "a sync method was called on the loop that runs the sync methods, which would wait for "
                "itself; await its async twin instead"
            )
        # Lighter than a future, which many may wait for.
        unfinished = threading.Lock()
        unfinished.acquire()
        results: list[R] = []
        failure: BaseException | None = None
        task: asyncio.Task[None]

        async def run() -> None:
            nonlocal failure
            try:
                results.append(await function())
            except BaseException as error:  # For the caller, who waits for it.
                failure = error
            finally:
                self._tasks.discard(task)
                unfinished.release()

        def start() -> None:
            nonlocal task
            task = loop.create_task(run())
            self._tasks.add(task)

        loop.call_soon_threadsafe(start)
        unfinished.acquire()
        if failure is None:
            return results[0]
        try:
            raise failure
        finally:
            failure = None  # Its traceback holds this frame.

    def _start(self) -> Loop:
        with self._lock:
            if self._loop is None:
                stack = contextlib.ExitStack()
                portal = stack.enter_context(
                    start_blocking_portal(
                        name="sessions-background-loop", backend_options={"use_uvloop": _uvloop_works()}
                    )
                )
                stack.callback(portal.call, self._finish_calls)
                self._thread_id = portal.call(threading.get_ident)
                self._stack, self._loop = stack, portal.call(asyncio.get_running_loop)
            return self._loop

    async def _finish_calls(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        with self._lock:
            stack, self._stack, self._loop, self._thread_id = self._stack, None, None, None
        if stack is not None:
            stack.close()

    def forget(self) -> object:
        """Start anew without touching the thread, which does not exist in this process."""
        remains = (self._stack, self._loop, self._tasks)
        self.__init__()  # type: ignore[misc]
        return remains


def run_blocking(function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a coroutine function on the background loop and wait for its result.

    May be called from any thread, also from one whose own event loop is running (which waits).

    Raises:
        RuntimeError: Called on the background loop itself.
    """
    waiting = running_loop()

    async def call() -> R:
        _waiting_loop.set(waiting)
        return await function(*args, **kwargs)

    return _background.call(call)


# The loop whose thread waits for the sync call at hand: to wait for it in turn would be a deadlock.
# What it holds is closed by itself as soon as it goes on.
_waiting_loop: ContextVar[Loop | None] = ContextVar("sessions_waiting_loop", default=None)
_instances: weakref.WeakSet[LoopBound[Any]] = weakref.WeakSet()
_background = _BackgroundLoop()


def _at_exit() -> None:
    _background.stop()
    for instance in tuple(_instances):
        instance._drop_closed_loops()


def _before_fork() -> None:
    _forked_parts[:] = [instance._all_parts() for instance in tuple(_instances)]


def _after_fork_in_child() -> None:
    # The parent goes on using these sockets and event loops. They must never be finalised here, not
    # even at exit: closing a transport would take the shared descriptor out of the parent's epoll set.
    entries = [instance._forget() for instance in tuple(_instances)]
    inherited = [_background.forget(), entries, tuple(_forked_parts)]
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))
    _forked_parts.clear()


# Held from before a fork until it is over, or for ever in the child.
_forked_parts: list[list[object]] = []

atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_forked_parts.clear, after_in_child=_after_fork_in_child
    )
