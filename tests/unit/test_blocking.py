"""Blocking calls from many threads: one wake-up of the loop for all, whatever interrupts a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sessions.core import blocking, threads
from sessions.core.blocking import run_blocking
from sessions.core.threads import WaitingThread

THREADS = 16


class Loop:
    """Passes wake-ups on to the background loop, and counts them."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self.wake_ups = 0
        self.interrupts = 0

    def call_soon_threadsafe(self, callback: Callable[..., object], *arguments: Any) -> None:
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        self.wake_ups += 1
        self._loop.call_soon_threadsafe(callback, *arguments)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    run_blocking(asyncio.sleep, 0)
    counting = Loop(blocking._background._loop)
    monkeypatch.setattr(blocking._background, "_loop", counting)
    monkeypatch.setattr(blocking, "lose_patience", lambda: None)  # Of the whole process.
    return counting


async def name(number: int) -> int:
    return number


def test_many_threads_wake_a_busy_loop_once(loop: Loop) -> None:
    entered, goes_on = threading.Event(), threading.Event()

    async def keep_busy() -> None:
        entered.set()
        goes_on.wait(30)  # As a loop that runs other callbacks.

    with ThreadPoolExecutor(THREADS + 1) as threads:
        busy = threads.submit(run_blocking, keep_busy)
        assert entered.wait(30)
        loop.wake_ups = 0
        calls = [threads.submit(run_blocking, name, number) for number in range(THREADS)]
        wait_until(lambda: len(blocking._background._submitted) == THREADS)
        assert loop.wake_ups == 1
        goes_on.set()
        assert [call.result() for call in calls] == list(range(THREADS))
        busy.result()


def test_an_interrupted_call_is_not_begun_and_keeps_no_thread_waiting(loop: Loop) -> None:
    begun: list[int] = []

    async def begin(number: int) -> None:
        begun.append(number)

    loop.interrupts = 1
    with pytest.raises(KeyboardInterrupt):
        run_blocking(begin, 1)
    run_blocking(begin, 2)
    # Also if the clean-up is interrupted, too.
    loop.interrupts = 2
    with pytest.raises(KeyboardInterrupt):
        run_blocking(begin, 3)
    with ThreadPoolExecutor(THREADS) as threads:
        assert list(threads.map(run_blocking, [name] * THREADS, range(THREADS))) == list(range(THREADS))
    assert begun == [2]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


def wake_a_thread_that_does_not_run() -> WaitingThread:
    woken = WaitingThread()

    async def wake() -> None:
        blocking._background._woken.wake(woken)

    run_blocking(wake)
    return woken


def test_the_last_thread_that_was_woken_wakes_the_loop_for_all(loop: Loop) -> None:
    background = blocking._background
    # A timer of an earlier call would wait for a moment only.
    wait_until(lambda: background._woken._timer is None)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(THREADS) as executor:
        patch.setattr(threads, "PATIENCE_SECONDS", 600.0)
        woken = wake_a_thread_that_does_not_run()
        loop.wake_ups = 0
        calls = [executor.submit(run_blocking, name, number) for number in range(THREADS)]
        wait_until(lambda: len(background._submitted) == THREADS)
        assert loop.wake_ups == 0
        background._woken.runs(woken)
        assert [call.result() for call in calls] == list(range(THREADS))
        assert loop.wake_ups == 1
    # The timer would wait for long.
    background._woken = threads.WokenThreads(background._wake_loop)


def test_a_thread_that_never_runs_delays_the_others_for_a_moment_only(loop: Loop) -> None:
    wake_a_thread_that_does_not_run()
    with ThreadPoolExecutor(THREADS) as executor:
        assert list(executor.map(run_blocking, [name] * THREADS, range(THREADS))) == list(range(THREADS))
    wait_until(lambda: blocking._background._woken._timer is None)
    assert not blocking._background._woken
