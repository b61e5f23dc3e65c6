"""Spans and metrics by OpenTelemetry's semantic conventions for database clients.

An operation is one call of the database client: its span and its duration cover all attempts, and the wait
for a connection or in the queue of appends. Nothing that a conversation holds is an attribute.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from time import perf_counter
from typing import TypeVar

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider

from sessions.core.telemetry import Call, Observable, Target, status_code
from sessions.core.values import Append
from sessions.observability.caches import Caches
from sessions.observability.ids import HashedIds
from sessions.observability.pools import Pools

__all__ = ["Recorder", "current_trace_id"]

R = TypeVar("R")
Attributes = dict[str, str | int]

SCOPE = "sessions"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.40.0"
# In seconds; those that the conventions give.
DURATIONS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
# The operations that read or write this table or collection alone.
SESSIONS = "chat_sessions"
OF_SESSIONS = frozenset(
    {
        "count_sessions",
        "ensure_session_exists",
        "get_session",
        "iter_sessions",
        "iter_users",
        "list_paginated_sessions",
        "list_sessions",
        "update_session",
    }
)
WITHOUT_COLLECTIONS = ("redis",)


def current_trace_id() -> str | None:
    """Return the id of the current trace in hexadecimal; None outside of any."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


class Recorder:
    """Observes operations and pools, and reports them.

    Args:
        tracer_provider: Makes the spans; None for the global one.
        meter_provider: Makes the metrics; None for the global one.
        id_key: Key for the hashes of ids; None for no ids.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        id_key: str | bytes | None,
    ) -> None:
        own_version = version("agenthub-sessions")
        self._tracer = trace.get_tracer(SCOPE, own_version, tracer_provider, SCHEMA_URL)
        meter = get_meter(SCOPE, own_version, meter_provider, SCHEMA_URL)
        self._durations = meter.create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=DURATIONS,
        )
        self._retries = meter.create_counter(
            "sessions.client.operation.retries",
            unit="{retry}",
            description="The number of attempts of operations that were retried after a transient error.",
        )
        self._ids = None if id_key is None else HashedIds(id_key)
        self._pools = Pools(meter, meter_provider)
        self._caches = Caches(meter, meter_provider)

    def close(self) -> None:
        """Report nothing from now on, also of the pools and the caches."""
        self._pools.close()
        self._caches.close()

    # -- Operations --------------------------------------------------------------------------------

    async def observe(self, call: Call, work: Callable[[], Awaitable[R]]) -> R:
        """Await an operation in a span, and record its duration."""
        self._pools.note(call.manager)
        target = call.manager.target()
        attributes = _attributes(target, call.operation)
        name = _span_name(target, attributes)
        # What is known only to the span: metrics have no ids.
        of_span = attributes if self._ids is None else attributes | self._ids.attributes(call)
        with self._span(name, of_span) as span:
            if span.is_recording():
                for argument in call.arguments:
                    if isinstance(argument, Append):
                        argument.link = span.get_span_context()
            began = perf_counter()
            try:
                return await work()
            except BaseException as error:
                failure = _failure(error)
                attributes |= failure
                _fail(span, failure)
                raise
            finally:
                self._durations.record(perf_counter() - began, attributes)

    async def observe_batch(
        self, manager: Observable, appends: Sequence[Append], work: Callable[[], Awaitable[R]]
    ) -> R:
        """Await an attempt to append the messages of several calls, in a span with links to theirs."""
        target = manager.target()
        attributes = _attributes(target, "BATCH append")
        if len(appends) > 1:
            attributes["db.operation.batch.size"] = len(appends)
        links = [Link(append.link) for append in appends if append.link is not None]
        with self._span(_span_name(target, attributes), attributes, links) as span:
            try:
                return await work()
            except BaseException as error:
                _fail(span, _failure(error))
                raise

    @contextlib.contextmanager
    def _span(self, name: str, attributes: Attributes, links: Sequence[Link] = ()) -> Iterator[Span]:
        # Without the error's text and traceback, which are the service's to log.
        with self._tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    def retried(self, operation: str, manager: Observable, error: BaseException) -> None:
        """Count a retry, by the class of the error."""
        attributes = _attributes(manager.target(), operation) | {"error.type": type(error).__qualname__}
        self._retries.add(1, attributes)

    # -- Pools -------------------------------------------------------------------------------------

    def waited(self, target: Target, seconds: float) -> None:
        """Record how long a caller waited for a connection."""
        self._pools.waited(target, seconds)

    def used(self, target: Target, seconds: float) -> None:
        """Record how long a connection was checked out."""
        self._pools.used(target, seconds)

    def timed_out(self, target: Target) -> None:
        """Count a caller that got no connection in time."""
        self._pools.timed_out(target)


def _attributes(target: Target, operation: str) -> Attributes:
    found: Attributes = {"db.system.name": target.system, "db.operation.name": operation}
    if target.namespace is not None:
        found["db.namespace"] = target.namespace
    if target.address is not None:
        found["server.address"] = target.address
        if target.port is not None:
            found["server.port"] = target.port
    if operation in OF_SESSIONS and target.system not in WITHOUT_COLLECTIONS:
        found["db.collection.name"] = SESSIONS
    return found


def _span_name(target: Target, attributes: Attributes) -> str:
    what = attributes.get("db.collection.name") or target.namespace
    operation = attributes["db.operation.name"]
    return f"{operation} {what}" if what else str(operation)


def _failure(error: BaseException) -> Attributes:
    found: Attributes = {"error.type": type(error).__qualname__}
    if (code := status_code(error)) is not None:
        found["db.response.status_code"] = code
    return found


def _fail(span: Span, failure: Attributes) -> None:
    span.set_attributes(failure)
    span.set_status(StatusCode.ERROR)
