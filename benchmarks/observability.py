"""What the instrumentation costs each operation, turned off and on: ``python -m benchmarks.observability``.

The operation itself does nothing, so that what is measured is only the way to it, in CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.tables import table
from sessions.connections import AsyncBaseConnectionManager
from sessions.core.calls import Calls
from sessions.core.telemetry import PoolMeter, Target
from sessions.observability import SessionsInstrumentor
from sessions.resilience import RetryConfig

__all__ = ["measure"]


class _Manager(AsyncBaseConnectionManager):
    async def connect(self) -> None: ...

    async def disconnect(self) -> None: ...

    async def is_healthy(self) -> bool:
        return True


class _Backend:
    def __init__(self) -> None:
        self.manager = _Manager()

    def perform(self, work: Callable[..., Awaitable[Any]], arguments: Any) -> Awaitable[Any]:
        return work(*arguments)


async def _nothing() -> None: ...


def measure(quick: bool) -> str:
    """Return a Markdown table of the least of several measurements, in microseconds for each call."""
    rounds, calls = (3, 200) if quick else (15, 20_000)
    bare = asyncio.run(_least(rounds, calls, _attempts))
    off = asyncio.run(_least(rounds, calls, _operation))
    providers = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    SessionsInstrumentor().instrument(tracer_provider=providers[0], meter_provider=providers[1])
    try:
        on = asyncio.run(_least(rounds, calls // 10, _operation))
    finally:
        SessionsInstrumentor().uninstrument()
        for provider in providers:
            provider.shutdown()
    return table(
        ("instrumentation", "CPU time of a call that does nothing", "added", "target"),
        [
            ["none: the attempts alone", f"{bare:.2f} µs", "", ""],
            ["turned off", f"{off:.2f} µs", f"{off - bare:.2f} µs", "≤ 2 µs"],
            ["turned on, with the SDK", f"{on:.2f} µs", f"{on - bare:.2f} µs", ""],
        ],
    )


async def _least(rounds: int, count: int, call: Callable[[Calls, PoolMeter], Awaitable[None]]) -> float:
    backend: Any = _Backend()
    calls, meter = Calls(backend, RetryConfig), PoolMeter(Target("none"))
    least = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(count):
            await call(calls, meter)
        least = min(least, time.process_time() - began)
    return least / count * 1e6


async def _attempts(calls: Calls, _meter: PoolMeter) -> None:
    await calls._run_attempts("nothing", _nothing, calls.manager.is_transient, None, has_begun=True)


async def _operation(calls: Calls, meter: PoolMeter) -> None:
    await calls._run("nothing", _nothing, calls.manager.is_transient, _nothing, ())
    with meter.checkout(TimeoutError) as checkout:
        checkout.got()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observability", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few calls: to see that it runs")
    print(measure(parser.parse_args().quick))
