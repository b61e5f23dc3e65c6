"""The instrumentation is turned on as users of OpenTelemetry expect, and costs nothing before."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from sessions import ConfigurationError
from sessions.core import telemetry
from sessions.core.failures import Place
from sessions.core.telemetry import PoolMeter, Target, target_of
from sessions.observability import SessionsInstrumentor
from tests.observability.conftest import Seen


def test_opentelemetry_instrument_finds_it() -> None:
    [found] = entry_points(group="opentelemetry_instrumentor", name="sessions")
    instrumentor = found.load()()
    assert list(instrumentor.instrumentation_dependencies()) == []
    instrumentor.instrument(skip_dep_check=True)
    try:
        assert instrumentor.is_instrumented_by_opentelemetry
    finally:
        instrumentor.uninstrument()


def test_a_second_time_changes_nothing(seen: Seen) -> None:
    observer = telemetry.observer
    SessionsInstrumentor().instrument()
    assert telemetry.observer is observer is not None


def test_opentelemetry_is_imported_when_it_is_turned_on_alone() -> None:
    program = """if True:
        import sys
        import sessions
        from sessions.observability import SessionsInstrumentor
        sessions.Chats("sqlite://").create_session("u")
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
        sys.modules["opentelemetry"] = None
        try:
            SessionsInstrumentor().instrument()
        except sessions.MissingDependencyError as error:
            print(error)
        """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "agenthub-sessions[otel]" in done.stdout


def test_a_pool_is_not_measured_while_nobody_observes() -> None:
    meter = PoolMeter(Target("postgresql"))
    assert telemetry.observer is None
    with meter.checkout(OSError) as one, meter.checkout(OSError) as other:
        assert one is other
        assert meter.pending == 0


@pytest.mark.parametrize("key", ["", "x" * 65])
def test_a_key_of_another_length_is_refused(key: str) -> None:
    with pytest.raises(ConfigurationError, match="id_key"):
        SessionsInstrumentor().instrument(id_key=key)
    assert telemetry.observer is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("db.example.org:5432", ("db.example.org", 5432)),
        ("[::1]:5432", ("::1", 5432)),
        ("/run/.s.PGSQL.5432", ("/run/.s.PGSQL.5432", None)),
        ("cluster.example.org", ("cluster.example.org", None)),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, expected: tuple[str, int | None]) -> None:
    target = target_of("x", Place("X", (address, "other:1"), "d"))
    assert (target.address, target.port) == expected
