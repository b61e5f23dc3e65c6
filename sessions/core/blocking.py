"""Blocking calls: the one background loop for callers that have no event loop.

Works from any thread: while a loop runs in the caller's thread, after a fork, in a greenlet of gevent, from
``atexit`` and ``__del__``. During interpreter shutdown it raises instead of blocking.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

from sessions.core import greenlets
from sessions.core.forks import ProcessLock, on_fork
from sessions.core.loops import running_loop, waiting_loop
from sessions.core.steps import FINISH_SECONDS, lose_patience, patience
from sessions.core.threads import WaitingThread, WokenThreads

__all__ = ["run_blocking"]

P = ParamSpec("P")
R = TypeVar("R")

# Time limit at interpreter exit for the calls, the steps and the connections.
STOP_SECONDS = 20.0
STOP_TURNS = 3


def _uvloop_works() -> bool:
    try:
        from uvloop import new_event_loop  # noqa: F401
    except ImportError:
        return False
    return True


class _Call(WaitingThread, Generic[R]):
    """A call that a thread waits for."""

    __slots__ = ("_woken", "context", "failure", "function", "results", "task")

    def __init__(self, function: Callable[[], Awaitable[R]], woken: WokenThreads) -> None:
        super().__init__()
        self.function = function
        self._woken = woken
        # That of the caller, for its trace: one wake-up of the loop begins the calls of many threads.
        self.context = contextvars.copy_context()
        self.results: list[R] = []
        self.failure: BaseException | None = None
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        try:
            self.results.append(await self.function())
        except BaseException as error:  # Raised in the caller's thread.
            self.failure = error
        finally:
            self._woken.wake(self)

    def wait(self) -> R:
        try:
            self.sleep()
        finally:
            # Also after an interrupt, which may have come just as this thread was woken.
            self._woken.runs(self)
        if self.results:
            return self.results[0]
        failure, self.failure = self.failure, None  # Its traceback holds this frame.
        if failure is None or isinstance(failure, asyncio.CancelledError):
            raise RuntimeError("the call was not done before the process ended its blocking calls")
        try:
            raise failure
        finally:
            del failure


class _BackgroundLoop:
    """The loop that sync callers share, started on first use and stopped at interpreter exit.

    anyio's portal runs and stops it, on uvloop if that is installed. Calls do not use the portal, whose
    overhead exceeds the time of many statements.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._exiting = False
        self._reset()

    def _reset(self) -> None:
        self._stack: contextlib.ExitStack | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id: int | None = None
        self._calls: set[_Call[Any]] = set()
        # Calls that the loop has not begun, and whether it is to begin them: one wake-up for many threads.
        self._submitted: deque[_Call[Any]] = deque()
        self._is_to_begin = False
        self._woken = WokenThreads(self._wake_loop)
        self._starting = False

    def call(self, function: Callable[[], Awaitable[R]]) -> R:
        if sys.is_finalizing():
            # Daemon threads no longer run.
            raise RuntimeError("the interpreter is shutting down: a blocking call comes too late")
        loop = self._loop or self._start()
        if threading.get_ident() == self._thread_id:
            raise RuntimeError(
                "a sync method was called on the loop that runs the sync methods, which would wait for "
                "itself; await its async twin instead"
            )
        call = _Call(function, self._woken)
        self._calls.add(call)
        try:
            self._submitted.append(call)
            # The last of the threads that are woken wakes the loop, for all that call again meanwhile.
            if not self._woken:
                self._wake_loop()
            return call.wait()
        except (KeyboardInterrupt, SystemExit):
            # Raised in this thread by a signal, or by the call: close fast.
            lose_patience()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._cancel, call)
            raise
        finally:
            self._calls.discard(call)
            if call.task is None:
                self._withdraw(call, loop)
            if self._exiting:
                self.stop()

    def _wake_loop(self) -> None:
        """Let the loop begin what is submitted, if there is something."""
        if self._submitted and not self._is_to_begin and (loop := self._loop) is not None:
            self._is_to_begin = True
            # Raises if the loop is closed. If it stops before it runs this, `stop` wakes the caller.
            loop.call_soon_threadsafe(self._begin)

    def _withdraw(self, call: _Call[Any], loop: asyncio.AbstractEventLoop) -> None:
        """Do not begin a call whose thread was interrupted, or whose loop is closed."""
        with contextlib.suppress(ValueError):
            self._submitted.remove(call)
        # The interrupt may have come before the wake-up of the loop, for which other threads wait, too.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        """Begin what is submitted; a thread that submits from now on wakes the loop again."""
        self._is_to_begin = False
        loop = asyncio.get_running_loop()
        while self._submitted:
            call = self._submitted.popleft()
            call.task = loop.create_task(call.run(), context=call.context)

    def _cancel(self, call: _Call[Any]) -> None:
        self._begin()
        if call.task is not None:
            call.task.cancel()

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                if self._starting:  # By this thread: a finalizer has interrupted it.
                    raise RuntimeError("the background loop is not started yet")
                self._starting = True
                try:
                    self._serve()
                finally:
                    self._starting = False
            assert self._loop is not None
            return self._loop

    def _serve(self) -> None:
        options: dict[str, Any] = {"use_uvloop": _uvloop_works()}
        if greenlets.are_used():
            options = {"loop_factory": greenlets.new_event_loop}
        stack = contextlib.ExitStack()
        portal = stack.enter_context(
            start_blocking_portal(name="sessions-background-loop", backend_options=options)
        )
        stack.callback(portal.call, self._finish_calls)
        self._thread_id = portal.call(threading.get_ident)
        self._woken = WokenThreads(self._wake_loop)
        self._stack, self._loop = stack, portal.call(asyncio.get_running_loop)

    async def _finish_calls(self) -> None:
        """Wait for running calls for a bounded time, and cancel the rest."""
        self._begin()
        tasks = [call.task for call in tuple(self._calls) if call.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience(FINISH_SECONDS))
            for task in late:
                task.cancel()

    def stop(self) -> None:
        with self._lock:
            stack, self._stack, self._loop, self._thread_id = self._stack, None, None, None
        if stack is not None:
            # Bounded also if the loop blocks in a driver's clean-up: its thread is a daemon.
            closing = threading.Thread(target=stack.close, name="sessions-closing", daemon=True)
            try:
                closing.start()
            except RuntimeError:  # No thread can start during shutdown.
                stack.close()
            else:
                closing.join(STOP_TURNS * patience(STOP_SECONDS / STOP_TURNS))
            self._submitted.clear()
            self._is_to_begin = False
            for call in tuple(self._calls):
                call.wake()  # Also if it will not run.

    def exit(self) -> None:
        """Stop now and after each later call: ``atexit`` functions that were registered earlier run later."""
        self._exiting = True
        self.stop()

    def forget(self) -> object:
        """Reset after a fork, without touching the thread, which does not exist in this process."""
        remains = (self._stack, self._loop, self._calls, self._submitted, self._woken)
        self._reset()
        return remains


def run_blocking(function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a coroutine function on the background loop and wait for its result.

    May be called from any thread, also from one whose own event loop is running, which it blocks.

    Raises:
        RuntimeError: Called on the background loop itself, or during interpreter shutdown.
    """
    waiting = running_loop()

    async def call() -> R:
        waiting_loop.set(waiting)
        return await function(*args, **kwargs)

    return _background.call(call)


_background = _BackgroundLoop()

atexit.register(_background.exit)
on_fork(in_child=_background.forget)
