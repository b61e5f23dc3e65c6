"""Where every operation, every batch and every checkout of a connection can be observed.

Without an `Observer` each of these places compares one variable with None. `sessions.observability` sets one
that reports to OpenTelemetry.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, TypeVar

from sessions.core.failures import Place
from sessions.core.values import Append
from sessions.correlation import logger_of

__all__ = [
    "CacheUse",
    "Call",
    "Checkout",
    "Observable",
    "ObservableCache",
    "Observer",
    "PoolMeter",
    "PoolUse",
    "Target",
    "caches",
    "observe_with",
    "observer",
    "operations_log",
    "run_logged",
    "status_code",
    "target_of",
]

R = TypeVar("R")

operations_log = logger_of("sessions.operations")
"""One record for each operation, of level DEBUG."""


@dataclass(frozen=True, slots=True)
class Target:
    """A database, as telemetry names it. Holds no secret.

    Attributes:
        system: The value of ``db.system.name``: ``postgresql``.
        namespace: The database; with a dot and a bar as its backend writes them. None if it is not known.
        address: Host, path of a socket, or None.
        port: Port, or None.
    """

    system: str
    namespace: str | None = None
    address: str | None = None
    port: int | None = None

    @property
    def pool_name(self) -> str:
        """The name of its connection pool: ``address:port/namespace``."""
        port = "" if self.port is None else f":{self.port}"
        place = f"{self.address or self.system}{port}"
        return place if self.namespace is None else f"{place}/{self.namespace}"


def target_of(system: str, place: Place, *, namespace: str | None = None) -> Target:
    """Return the target of a place that error texts name; of several addresses the first.

    Args:
        system: The value of ``db.system.name``.
        place: Its addresses and its database.
        namespace: In place of the name of its database.
    """
    address, port = (place.addresses or (None,))[0], None
    if address is not None and (found := re.fullmatch(r"\[?([^/]*?)\]?:(\d+)", address)):
        address, port = found[1], int(found[2])
    return Target(system, namespace or place.database, address, port)


@dataclass(frozen=True, slots=True)
class PoolUse:
    """The connections of one pool.

    Attributes:
        used: How many are checked out.
        idle: How many are open and not in use.
        limit: How many it opens at most; None if that is not known.
        pending: How many callers wait for one.
    """

    used: int
    idle: int
    limit: int | None
    pending: int


@dataclass(frozen=True, slots=True)
class CacheUse:
    """The use of a cache by this process.

    Attributes:
        hits: Reads that the cache answered.
        misses: Reads of which it had no value.
        bypasses: Reads that went to the database because the cache could not be used.
        entries: How many values and tags it has; None if that is not known.
        size: How many bytes they take; None if that is not known.
        limit: How many they take at most; None if that is not known.
    """

    hits: int
    misses: int
    bypasses: int
    entries: int | None = None
    size: int | None = None
    limit: int | None = None


class ObservableCache(Protocol):
    """The part of a cache that an observer asks."""

    name: str

    def statistics(self) -> CacheUse:
        """Return its use."""
        ...


class Observable(Protocol):
    """The part of a connection manager that an observer asks."""

    def target(self) -> Target:
        """Return its database."""
        ...

    def pools(self) -> list[PoolUse]:
        """Return the use of its pools, one for each event loop."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """An operation under way.

    Attributes:
        operation: Its public name.
        manager: The manager of its database.
        work: Method of the backend; None for one that has none.
        arguments: Arguments of the method.
    """

    operation: str
    manager: Observable
    work: Callable[..., Any] | None = None
    arguments: Sequence[Any] = ()


class Observer(Protocol):
    """Observes operations and pools; its methods must not raise."""

    async def observe(self, call: Call, work: Callable[[], Awaitable[R]]) -> R:
        """Await ``work()``, an operation with all its attempts and waits."""
        ...

    async def observe_batch(
        self, manager: Observable, appends: Sequence[Append], work: Callable[[], Awaitable[R]]
    ) -> R:
        """Await ``work()``, one attempt to append the messages of several calls."""
        ...

    def retried(self, operation: str, manager: Observable, error: BaseException) -> None:
        """Note that an attempt has failed, and that there is another one."""
        ...

    def waited(self, target: Target, seconds: float) -> None:
        """Note how long a caller waited for a connection."""
        ...

    def used(self, target: Target, seconds: float) -> None:
        """Note how long a connection was checked out."""
        ...

    def timed_out(self, target: Target) -> None:
        """Note that a caller got no connection in time."""
        ...


caches: weakref.WeakSet[ObservableCache] = weakref.WeakSet()
"""The caches of this process."""

observer: Observer | None = None
"""What observes now; read as an attribute of this module, which `observe_with` sets."""


def observe_with(new: Observer | None) -> None:
    """Set what observes from now on; None for nothing."""
    global observer
    observer = new


class Checkout:
    """A wait for a connection, and its use: a context manager around both.

    This one measures nothing.
    """

    __slots__ = ()

    def got(self) -> None:
        """Note the end of the wait."""

    def __enter__(self) -> Checkout:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return


class _Measured(Checkout):
    __slots__ = ("_is_waiting", "_meter", "_since", "_target", "_timeout")

    def __init__(self, meter: PoolMeter, target: Target, timeout: type[BaseException]) -> None:
        self._meter, self._target, self._timeout = meter, target, timeout
        self._is_waiting = True
        self._since = perf_counter()
        meter.pending += 1

    def got(self) -> None:
        now = perf_counter()
        self._is_waiting = False
        self._meter.pending -= 1
        if observer is not None:
            observer.waited(self._target, now - self._since)
        self._since = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_waiting:
            self._meter.pending -= 1
            if observer is not None and isinstance(error, self._timeout):
                observer.timed_out(self._target)
        elif observer is not None:
            observer.used(self._target, perf_counter() - self._since)


_UNMEASURED = Checkout()


class PoolMeter:
    """Measures the waits for the connections of one pool, and their use.

    Args:
        target: The database of the pool; None for a pool that is not measured.
    """

    __slots__ = ("_target", "pending")

    def __init__(self, target: Target | None = None) -> None:
        self._target = target
        self.pending = 0

    def checkout(self, timeout: type[BaseException]) -> Checkout:
        """Return a context manager around a wait for a connection and its use.

        Args:
            timeout: Class of the error of a wait that takes too long.
        """
        if observer is None or self._target is None:
            return _UNMEASURED
        return _Measured(self, self._target, timeout)


async def run_logged(call: Call, work: Callable[[], Awaitable[R]]) -> R:
    """Await an operation, and log its end: never what it reads or writes."""
    began = perf_counter()
    error_type: str | None = None
    try:
        return await work()
    except BaseException as error:
        error_type = type(error).__qualname__
        raise
    finally:
        seconds = perf_counter() - began
        system = call.manager.target().system
        operations_log.log(
            logging.DEBUG,
            "%s on %s: %s after %.1f ms",
            call.operation,
            system,
            error_type or "done",
            seconds * 1000,
            extra={"db_system": system, "duration": seconds, "error_type": error_type},
        )


def status_code(error: BaseException) -> str | None:
    """Return the code of the database for an error of an operation: a SQLSTATE, a name or a number."""
    of_driver = error.__cause__ or error
    for name in ("sqlstate", "sqlite_errorname", "code"):
        if (code := getattr(of_driver, name, None)) is not None:
            return str(code)
    return None
