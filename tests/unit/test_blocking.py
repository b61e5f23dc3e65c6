"""Blocking calls from many threads: one wake-up of the loop for all, whatever interrupts a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sessions.core import blocking
from sessions.core.blocking import run_blocking

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
        deadline = time.monotonic() + 30
        while len(blocking._background._submitted) < THREADS and time.monotonic() < deadline:
            time.sleep(0.001)
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
