"""Metrics of the connection pools."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from sessions.core.telemetry import Observable, PoolUse, Target

__all__ = ["Pools"]

POOL_NAME, STATE = "db.client.connection.pool.name", "db.client.connection.state"
# In seconds. The conventions give none; a wait is mostly shorter than an operation.
WAITS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
# A pool may be opened in another thread while they are counted.
ATTEMPTS = 3

Gauge = Callable[[str, PoolUse], Iterator[Observation]]


class Pools:
    """The pools of the databases that were used.

    Args:
        meter: Makes the instruments.
        provider: The provider of the meter; None for the global one.
    """

    # The pools of each provider, by its id: an SDK keeps the first callback of an instrument.
    of_provider: ClassVar[dict[int | None, Pools]] = {}

    def __init__(self, meter: Meter, provider: MeterProvider | None) -> None:
        self._managers: weakref.WeakSet[Observable] = weakref.WeakSet()
        self._waits = meter.create_histogram(
            "db.client.connection.wait_time",
            unit="s",
            description="The time it took to obtain an open connection from the pool.",
            explicit_bucket_boundaries_advisory=WAITS,
        )
        self._uses = meter.create_histogram(
            "db.client.connection.use_time",
            unit="s",
            description="The time between borrowing a connection and returning it to the pool.",
            explicit_bucket_boundaries_advisory=WAITS,
        )
        self._timeouts = meter.create_counter(
            "db.client.connection.timeouts",
            unit="{timeout}",
            description="The number of times that no connection could be obtained from the pool in time.",
        )
        self._key = None if provider is None else id(provider)
        self.of_provider[self._key] = self
        for name, unit, description, gauge in (
            ("count", "{connection}", "The number of connections, by state.", _count),
            ("max", "{connection}", "The maximum number of open connections allowed.", _limit),
            ("pending_requests", "{request}", "The number of callers that wait for a connection.", _pending),
        ):
            meter.create_observable_up_down_counter(
                f"db.client.connection.{name}",
                [_observer(self._key, gauge)],
                unit=unit,
                description=description,
            )

    def close(self) -> None:
        """Observe no pools from now on."""
        if self.of_provider.get(self._key) is self:
            del self.of_provider[self._key]

    def note(self, manager: Observable) -> None:
        """Observe the pools of a manager from now on."""
        if manager not in self._managers:
            self._managers.add(manager)

    def waited(self, target: Target, seconds: float) -> None:
        """Record how long a caller waited for a connection."""
        self._waits.record(seconds, {POOL_NAME: target.pool_name})

    def used(self, target: Target, seconds: float) -> None:
        """Record how long a connection was checked out."""
        self._uses.record(seconds, {POOL_NAME: target.pool_name})

    def timed_out(self, target: Target) -> None:
        """Count a caller that got no connection in time."""
        self._timeouts.add(1, {POOL_NAME: target.pool_name})

    def totals(self) -> dict[str, PoolUse]:
        """Return the use of all event loops' pools, by the name of the pool."""
        totals: dict[str, PoolUse] = {}
        for manager in list(self._managers):
            pools = _pools_of(manager)
            if not pools:
                continue
            name = manager.target().pool_name
            if name in totals:  # Two managers of one database, with different settings.
                pools.append(totals[name])
            totals[name] = _sum(pools)
        return totals


def _observer(key: int | None, gauge: Gauge) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        pools = Pools.of_provider.get(key)
        totals = {} if pools is None else pools.totals()
        return [found for name, use in totals.items() for found in gauge(name, use)]

    return observe


def _pools_of(manager: Observable) -> list[PoolUse]:
    for _ in range(ATTEMPTS):
        try:
            return manager.pools()
        except RuntimeError:
            continue
    return []


def _sum(pools: list[PoolUse]) -> PoolUse:
    limits = [pool.limit for pool in pools if pool.limit is not None]
    return PoolUse(
        sum(pool.used for pool in pools),
        sum(pool.idle for pool in pools),
        sum(limits) if limits else None,
        sum(pool.pending for pool in pools),
    )


def _count(name: str, use: PoolUse) -> Iterator[Observation]:
    yield Observation(use.used, {POOL_NAME: name, STATE: "used"})
    yield Observation(use.idle, {POOL_NAME: name, STATE: "idle"})


def _limit(name: str, use: PoolUse) -> Iterator[Observation]:
    if use.limit is not None:
        yield Observation(use.limit, {POOL_NAME: name})


def _pending(name: str, use: PoolUse) -> Iterator[Observation]:
    yield Observation(use.pending, {POOL_NAME: name})
