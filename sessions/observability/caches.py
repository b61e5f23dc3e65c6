"""Metrics of the caches in front of repositories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from sessions.core import telemetry
from sessions.core.telemetry import CacheUse

__all__ = ["Caches"]

NAME, RESULT = "sessions.cache.name", "sessions.cache.result"
# A cache may be created in another thread while they are listed.
ATTEMPTS = 3

Gauge = Callable[[str, CacheUse], Iterator[Observation]]


class Caches:
    """The caches of this process.

    Args:
        meter: Makes the instruments.
        provider: The provider of the meter; None for the global one.
    """

    # The providers that are reported to, by their id: an SDK keeps the first callback of an instrument.
    reported: ClassVar[set[int | None]] = set()

    def __init__(self, meter: Meter, provider: MeterProvider | None) -> None:
        self._key = None if provider is None else id(provider)
        self.reported.add(self._key)
        meter.create_observable_counter(
            "sessions.cache.requests",
            [_observer(self._key, _requests)],
            unit="{request}",
            description="The number of reads that a cache was asked for, by its result.",
        )
        for name, unit, description, gauge in (
            ("entries", "{entry}", "The number of entries of a cache in memory.", _entries),
            ("size", "By", "The memory that a cache in memory takes.", _size),
            ("limit", "By", "The memory that a cache in memory takes at most.", _limit),
        ):
            meter.create_observable_up_down_counter(
                f"sessions.cache.{name}", [_observer(self._key, gauge)], unit=unit, description=description
            )

    def close(self) -> None:
        """Observe no caches from now on."""
        self.reported.discard(self._key)


def _observer(key: int | None, gauge: Gauge) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        totals = _totals() if key in Caches.reported else {}
        return [found for name, use in totals.items() for found in gauge(name, use)]

    return observe


def _totals() -> dict[str, CacheUse]:
    """Return the use of all caches of a name."""
    totals: dict[str, CacheUse] = {}
    for cache in _caches():
        use = cache.statistics()
        totals[cache.name] = _sum(totals[cache.name], use) if cache.name in totals else use
    return totals


def _caches() -> list[telemetry.ObservableCache]:
    for _ in range(ATTEMPTS):
        try:
            return list(telemetry.caches)
        except RuntimeError:
            continue
    return []


def _sum(one: CacheUse, other: CacheUse) -> CacheUse:
    def added(first: int | None, second: int | None) -> int | None:
        return first if second is None else second + (first or 0)

    return CacheUse(
        one.hits + other.hits,
        one.misses + other.misses,
        one.bypasses + other.bypasses,
        added(one.entries, other.entries),
        added(one.size, other.size),
        added(one.limit, other.limit),
    )


def _requests(name: str, use: CacheUse) -> Iterator[Observation]:
    for result, count in (("hit", use.hits), ("miss", use.misses), ("bypass", use.bypasses)):
        yield Observation(count, {NAME: name, RESULT: result})


def _entries(name: str, use: CacheUse) -> Iterator[Observation]:
    if use.entries is not None:
        yield Observation(use.entries, {NAME: name})


def _size(name: str, use: CacheUse) -> Iterator[Observation]:
    if use.size is not None:
        yield Observation(use.size, {NAME: name})


def _limit(name: str, use: CacheUse) -> Iterator[Observation]:
    if use.limit is not None:
        yield Observation(use.limit, {NAME: name})
