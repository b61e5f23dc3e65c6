from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sessions.observability import SessionsInstrumentor

KEY = "a secret of the service"


@dataclass
class Seen:
    """What the in-memory exporters have."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracers: TracerProvider

    def spans(self, operation: str | None = None) -> list[ReadableSpan]:
        found = self.exporter.get_finished_spans()
        return [span for span in found if operation in (None, span.attributes["db.operation.name"])]

    def points(self, metric: str) -> list[Any]:
        """Return the data points of a metric that is reported now."""
        data = self.reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics
        return [
            point
            for resource in found
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name == metric
            for point in one.data.data_points
        ]


@pytest.fixture
def seen() -> Iterator[Seen]:
    """The instrumentation, turned on with exporters in memory."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = SessionsInstrumentor()
    instrumentor.instrument(tracer_provider=tracers, meter_provider=meters, id_key=KEY)
    try:
        yield Seen(exporter, reader, tracers)
    finally:
        instrumentor.uninstrument()
        tracers.shutdown()
        meters.shutdown()
