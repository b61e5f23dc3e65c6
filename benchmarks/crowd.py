"""Many callers at once: appends a second, and the time of one, beside the raw driver as it comes.

Each measurement runs in a process of its own (``python -m benchmarks.crowd …``), so that contenders share the
server and nothing else; they alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from benchmarks.contenders import CONTENT, Ours, raw_client
from benchmarks.ratios import Target
from benchmarks.tables import milliseconds, table
from benchmarks.threads import blocking_append

__all__ = ["CROWDS", "Crowd", "measure"]

# At least; half of a longer measurement. By then the pools are open, and the plans are the ones that stay.
WARM_UP_SECONDS = 0.5
BACKENDS = ("postgres", "mongodb", "sqlite", "redis")


@dataclass(frozen=True)
class Crowd:
    """Callers that append at the same time.

    Attributes:
        name: As the table shows it.
        targets: Of PostgreSQL, MongoDB, SQLite and Redis.
        callers: In each process.
        sessions: That they append to, in turn.
        processes: Number of processes.
        threads: Whether the callers are threads that make blocking calls.
        value: What is compared: ``"rate"`` (appends a second), or the median or 99th percentile of one.
        raw: The raw contender: ``"raw"`` as it comes, or ``"unpooled"``, the driver with a connection for
            each thread.
        backends: That have it.
    """

    name: str
    targets: tuple[Target | None, ...]
    callers: int
    sessions: int
    processes: int = 1
    threads: bool = False
    value: str = "rate"
    raw: str = "raw"
    backends: tuple[str, ...] = BACKENDS


def _at_least(*values: float) -> Any:
    return tuple(Target(value, at_least=True) for value in values)


def _at_most(*values: float) -> Any:
    return tuple(map(Target, values))


CROWDS = (
    Crowd("one caller, p50", _at_most(1.0, 1.0, 1.2, 1.3), 1, 1, value="p50"),
    Crowd("32 callers", _at_least(2.5, 4, 10, 0.9), 32, 32),
    Crowd("64 callers", _at_least(4, 6, 12, 0.9), 64, 64),
    Crowd("256 callers", _at_least(6, 6, 15, 0.9), 256, 256),
    Crowd("p99 of one call, 32 callers", _at_most(0.7, 0.5, 0.3, 1.3), 32, 32, value="p99"),
    Crowd("32 callers, one session", _at_least(4, 4, 10, 0.9), 32, 1),
    Crowd("two processes of 32 callers, the same sessions", _at_least(2, 2, 2, 0.9), 32, 32, processes=2),
    Crowd("blocking calls from 32 threads", _at_least(2, 2, 5, 0.9), 32, 32, threads=True),
    Crowd(
        "blocking calls from 32 threads, raw: 32 connections",
        (None,),
        32,
        32,
        threads=True,
        raw="unpooled",
        backends=("postgres",),
    ),
)


def measure(
    backend: str,
    url: str,
    *,
    rounds: int,
    seconds: float,
    crowds: Sequence[Crowd] = CROWDS,
    warm_up: float = WARM_UP_SECONDS,
) -> str:
    """Return the table of one backend.

    Args:
        backend: ``"postgres"``, ``"mongodb"``, ``"sqlite"`` or ``"redis"``.
        url: Of a database that may be filled.
        rounds: Measurements of each contender, of which the table shows the medians.
        seconds: Duration of each.
        crowds: What to measure.
        warm_up: Seconds before it, at least.
    """
    rows = []
    for crowd in crowds:
        if backend not in crowd.backends:
            continue
        target = crowd.targets[crowd.backends.index(backend)]
        session_ids = asyncio.run(_create(backend, url, crowd.sessions))
        found: dict[str, list[float]] = {"ours": [], crowd.raw: []}
        for number in range(rounds):
            # Each goes first as often as the other.
            for contender in sorted(found, reverse=bool(number % 2)):
                measured = _race(contender, backend, url, crowd, session_ids, (seconds, warm_up))
                found[contender].append(measured[crowd.value])
        ours, raw = (statistics.median(found[contender]) for contender in ("ours", crowd.raw))
        show: Callable[[float], str] = _rate if crowd.value == "rate" else milliseconds
        judged = (f"{ours / raw:.2f}", "none") if target is None else target.judge(ours / raw)
        rows.append((f"`add_message`, {crowd.name}", show(ours), show(raw), *judged))
    return table(("operation", "ours", "raw driver", "ratio", "target"), rows)


def _rate(value: float) -> str:
    return f"{value:,.0f}/s"


async def _create(backend: str, url: str, number: int) -> list[str]:
    ours = Ours(backend, url)
    session_ids = [await ours.create() for _ in range(number)]
    await ours.close()
    return session_ids


def _race(
    contender: str,
    backend: str,
    url: str,
    crowd: Crowd,
    session_ids: Sequence[str],
    times: tuple[float, float],
) -> dict[str, float]:
    """Return the sum of the processes' rates, and the worst of their times."""
    command = [sys.executable, "-m", "benchmarks.crowd", contender, backend, url]
    command += ["--callers", str(crowd.callers), "--seconds", str(times[0]), "--warm-up", str(times[1])]
    if crowd.threads:
        command.append("--threads")
    with ExitStack() as stack:
        racers = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(crowd.processes)
        ]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write(json.dumps(session_ids))
            racer.stdin.close()
        found = [json.loads(racer.stdout.read()) for racer in racers if racer.stdout is not None]
    worst = {name: max(one[name] for one in found) for name in ("p50", "p99")}
    return worst | {"rate": sum(one["rate"] for one in found)}


class _Clock:
    """Collects the times of the calls after the warm-up."""

    def __init__(self, seconds: float, warm_up: float) -> None:
        self.began = perf_counter() + max(warm_up, seconds / 2)
        self.end = self.began + seconds
        self.seconds = seconds
        self.taken: list[float] = []

    def goes_on(self, now: float) -> bool:
        """Return whether there is another call; on a machine that is slow, there is always one to measure."""
        return now < self.end or not self.taken

    def note(self, started: float) -> None:
        if started >= self.began:
            self.taken.append(perf_counter() - started)

    def report(self) -> dict[str, float]:
        taken = sorted(self.taken)
        return {
            "rate": len(taken) / self.seconds,
            "p50": taken[len(taken) // 2],
            "p99": taken[len(taken) * 99 // 100],
        }


async def _tasks(
    contender: str, backend: str, url: str, session_ids: list[str], options: Any
) -> dict[str, float]:
    one: Any = Ours(backend, url) if contender == "ours" else await raw_client(backend, url)
    clock = _Clock(options.seconds, options.warm_up)

    async def caller(number: int) -> None:
        turn = number
        while clock.goes_on(started := perf_counter()):
            await one.append(session_ids[turn % len(session_ids)])
            clock.note(started)
            turn += options.callers if options.callers == len(session_ids) else 1

    await asyncio.gather(*map(caller, range(options.callers)))
    await one.close()
    return clock.report()


def _threads(
    contender: str, backend: str, url: str, session_ids: list[str], options: Any
) -> dict[str, float]:
    repository = Ours(backend, url).repository
    ready = threading.Barrier(options.callers)
    clocks: list[_Clock] = []

    def caller(number: int) -> None:
        session_id = session_ids[number % len(session_ids)]
        append: Callable[[str], object]
        if contender == "ours":
            append = lambda session_id: repository.add_message_sync(session_id, "user", CONTENT)  # noqa: E731
        else:
            append = blocking_append(backend, url, pooled=contender == "raw")
        append(session_id)
        ready.wait()
        clocks.append(clock := _Clock(options.seconds, options.warm_up))
        while clock.goes_on(started := perf_counter()):
            append(session_id)
            clock.note(started)

    with ThreadPoolExecutor(options.callers) as threads:
        list(threads.map(caller, range(options.callers)))
    repository.close()
    clocks[0].taken = [seconds for clock in clocks for seconds in clock.taken]
    return clocks[0].report()


def main() -> None:
    """Measure one contender; read the ids of the sessions, and print the measurements, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    parser.add_argument("contender", choices=("ours", "raw", "unpooled"))
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("url")
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up", type=float, default=WARM_UP_SECONDS)
    parser.add_argument("--threads", action="store_true")
    options = parser.parse_args()
    arguments = options.contender, options.backend, options.url, json.load(sys.stdin), options
    print(json.dumps(_threads(*arguments) if options.threads else asyncio.run(_tasks(*arguments))))


if __name__ == "__main__":
    main()
