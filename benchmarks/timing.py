"""Times alternating calls, so that other load on the machine affects all contenders equally."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

__all__ = [
    "Batch",
    "Effort",
    "one_caller",
    "rounds_of",
    "timed_awaits",
    "timed_in_thread",
    "timed_together",
]

Call = Callable[[], Awaitable[object]]
# Makes the given number of calls and returns the seconds of each.
Batch = Callable[[int], Awaitable[list[float]]]


@dataclass(frozen=True)
class Effort:
    """The number of measurements.

    Attributes:
        rounds: Rounds of each contender, after one to warm up.
        calls: Calls in a round.
        callers: Concurrent callers, where there are several.
    """

    rounds: int = 40
    calls: int = 25
    callers: int = 32

    def divided(self, by: int) -> Effort:
        """Return the effort for calls that take longer."""
        return Effort(max(2, self.rounds // by), self.calls, self.callers)


async def one_caller(contenders: Mapping[str, Call], effort: Effort) -> dict[str, float]:
    """Return the median seconds of a call of each contender, one call after another."""
    return await rounds_of({name: timed_awaits(call) for name, call in contenders.items()}, effort)


def timed_awaits(call: Call) -> Batch:
    """Return a function that awaits a call a number of times and times each."""

    async def batch(calls: int) -> list[float]:
        seconds = []
        for _ in range(calls):
            started = perf_counter()
            await call()
            seconds.append(perf_counter() - started)
        return seconds

    return batch


def timed_in_thread(call: Callable[[], object]) -> Batch:
    """Return a function that makes and times a number of blocking calls in a thread without a loop."""

    def batch(calls: int) -> list[float]:
        seconds = []
        for _ in range(calls):
            started = perf_counter()
            call()
            seconds.append(perf_counter() - started)
        return seconds

    return lambda calls: asyncio.to_thread(batch, calls)


def timed_together(contender: Any, session_ids: Sequence[str], *, blocking: bool) -> Batch:
    """Return a function that appends to each session so many times, all at once.

    It returns the seconds for an append: the duration of all, divided by their number.
    """

    def thread(session_id: str, calls: int) -> None:
        for _ in range(calls):
            contender.append_blocking(session_id)

    async def caller(session_id: str, calls: int) -> None:
        for _ in range(calls):
            await contender.append(session_id)

    async def batch(calls: int) -> list[float]:
        started = perf_counter()
        if blocking:
            with ThreadPoolExecutor(len(session_ids)) as threads:
                loop = asyncio.get_running_loop()
                every = [loop.run_in_executor(threads, thread, each, calls) for each in session_ids]
                await asyncio.gather(*every)
        else:
            await asyncio.gather(*(caller(each, calls) for each in session_ids))
        return [(perf_counter() - started) / calls / len(session_ids)]

    return batch


async def rounds_of(contenders: Mapping[str, Batch], effort: Effort) -> dict[str, float]:
    """Return the median seconds of a call of each contender, each of which times its own calls."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for batch in contenders.values():
        await batch(effort.calls)
    for turn in range(effort.rounds):
        # Each goes first as often as the others.
        for name in sorted(contenders, reverse=bool(turn % 2)):
            seconds[name] += await contenders[name](effort.calls)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
