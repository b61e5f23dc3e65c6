"""What a Prometheus server scrapes over HTTP."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from wsgiref.simple_server import WSGIServer

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server
from prometheus_client.parser import text_string_to_metric_families

from sessions.observability import SessionsInstrumentor
from tests.support.databases import Backend


@pytest.fixture
def address() -> Iterator[str]:
    """The URL of a scraped endpoint, with the instrumentation turned on."""
    reader = PrometheusMetricReader()
    meters = MeterProvider([reader])
    SessionsInstrumentor().instrument(meter_provider=meters)
    server: WSGIServer
    server, thread = start_http_server(0, addr="127.0.0.1")
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        SessionsInstrumentor().uninstrument()
        meters.shutdown()


def scraped(address: str) -> dict[str, dict[tuple[str, str], float]]:
    """Return the samples by name, then by operation or state."""
    with urllib.request.urlopen(address) as response:
        text = response.read().decode()
    found: dict[str, dict[tuple[str, str], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            key = labels.get("db_operation_name", "") or labels.get("db_client_connection_state", "")
            found.setdefault(sample.name, {})[key, labels.get("le", "")] = sample.value
    return found


def test_a_scrape_shows_operations_and_pools(backend: Backend, address: str) -> None:
    with backend.repository() as repository:
        session_id = repository.create_session("alice", None)
        for _ in range(3):
            repository.add_message_sync(session_id, "user", "Hello")
        found = scraped(address)
        durations = "db_client_operation_duration_seconds"
        assert found[f"{durations}_count"]["add_message", ""] == 3
        assert found[f"{durations}_bucket"]["add_message", "+Inf"] == 3
        assert ("add_message", "0.001") in found[f"{durations}_bucket"]
        assert found["db_client_connection_count"]["used", ""] == 0
        assert found["db_client_connection_count"]["idle", ""] >= 1
        assert "db_client_connection_wait_time_seconds_count" in found
        repository.add_message_sync(session_id, "user", "Hello")
        assert scraped(address)[f"{durations}_count"]["add_message", ""] == 4
