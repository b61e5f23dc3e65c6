"""Turns the instrumentation on and off, in the form that users of OpenTelemetry know."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from sessions import correlation
from sessions.core import telemetry
from sessions.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Collection

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from sessions.observability.recording import Recorder

__all__ = ["SessionsInstrumentor"]


class SessionsInstrumentor:
    """Reports every operation of every backend of this process to OpenTelemetry.

    It has the methods of ``opentelemetry.instrumentation``'s ``BaseInstrumentor``, and is registered as
    ``sessions`` for ``opentelemetry-instrument``, without depending on that package.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _recorder: ClassVar[Recorder | None] = None

    def instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        id_key: str | bytes | None = None,
        **_others: Any,
    ) -> None:
        """Report from now on; does nothing if it is on already.

        Args:
            tracer_provider: Makes the spans; None for the global one.
            meter_provider: Makes the metrics; None for the global one.
            id_key: A secret of the service, with which the ids of users and sessions are hashed for the
                spans; None leaves them out.
            **_others: What ``opentelemetry-instrument`` passes to all instrumentors.

        Raises:
            MissingDependencyError: OpenTelemetry's API is not installed.
        """
        try:
            from sessions.observability.recording import Recorder, current_trace_id
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "observability needs opentelemetry; install it with: pip install 'agenthub-sessions[otel]'"
            ) from error
        with self._lock:
            if self._recorder is None:
                recorder = Recorder(tracer_provider, meter_provider, id_key)
                type(self)._recorder = recorder
                telemetry.observe_with(recorder)
                correlation.find_trace_id_with(current_trace_id)

    def uninstrument(self, **_others: Any) -> None:
        """Report nothing from now on."""
        with self._lock:
            if self._recorder is not None:
                self._recorder.close()
                type(self)._recorder = None
                telemetry.observe_with(None)
                correlation.find_trace_id_with(None)

    @property
    def is_instrumented_by_opentelemetry(self) -> bool:
        """Whether it is on."""
        return self._recorder is not None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the packages that it instruments: only this one."""
        return ()
