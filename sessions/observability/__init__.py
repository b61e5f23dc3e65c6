"""See what happens: spans and metrics of OpenTelemetry, and log records with a correlation id.

Nothing here imports OpenTelemetry before `SessionsInstrumentor.instrument` is called. The extra ``[otel]``
installs its API; the SDK and an exporter are the service's choice.
"""

from sessions.correlation import CorrelationFilter, correlate, correlation_id
from sessions.observability.instrumentor import SessionsInstrumentor

__all__ = ["CorrelationFilter", "SessionsInstrumentor", "correlate", "correlation_id"]
