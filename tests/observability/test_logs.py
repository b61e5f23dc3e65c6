"""Log records have the operation and a correlation id, and no content."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from sessions import BackendUnavailableError, InvalidInputError, RetryConfig, SessionRepositoryFactory
from sessions.observability import CorrelationFilter, correlate, correlation_id
from tests.observability.conftest import Seen

USER, NOWHERE = "alice", "postgresql://u@127.0.0.1:9/d"
SOME_ID = "00000000-0000-4000-8000-000000000000"


def of_operations(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name == "sessions.operations"]


async def test_a_record_of_an_operation_is_structured(
    repository: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sessions.operations")
    with correlate("request-7"):
        session_id = await repository.create_session_async(USER)
        await repository.add_message(session_id, "user", "a secret")
    await repository.count_sessions(USER)
    created, added, counted = of_operations(caplog)
    assert [created.operation, added.operation, counted.operation] == [
        "create_session",
        "add_message",
        "count_sessions",
    ]
    assert created.correlation_id == added.correlation_id == "request-7"
    assert len(counted.correlation_id) == 32
    assert added.error_type is None
    assert added.duration > 0
    assert added.db_system in added.getMessage()
    assert "secret" not in caplog.text
    assert correlation_id() is None


async def test_a_retry_has_the_operation_and_one_generated_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sessions.operations")
    retry = RetryConfig(max_attempts=3, base_delay=0.01)
    async with SessionRepositoryFactory.create_repository("postgres", url=NOWHERE, retry=retry) as repository:
        with pytest.raises(BackendUnavailableError):
            await repository.get_session(USER, SOME_ID)
    records: list[Any] = [record for record in caplog.records if record.name.startswith("sessions.")]
    assert [record.name for record in records] == ["sessions.resilience"] * 2 + ["sessions.operations"]
    assert {record.operation for record in records} == {"get_session"}
    assert len({record.correlation_id for record in records}) == 1
    assert [record.attempt for record in records[:2]] == [1, 2]
    assert records[2].error_type == "BackendUnavailableError"


async def test_the_id_is_that_of_the_trace_if_there_is_one(
    repository: Any, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sessions.operations")
    await repository.count_sessions(USER)
    with seen.tracers.get_tracer("service").start_as_current_span("x", attributes={"db.operation.name": ""}):
        await repository.count_sessions(USER)
    traces = [f"{span.context.trace_id:032x}" for span in seen.spans("count_sessions")]
    assert [record.correlation_id for record in of_operations(caplog)] == traces
    assert len(set(traces)) == 2


def test_a_handler_with_the_filter_correlates_the_records_of_a_service() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(CorrelationFilter())
    form = '{"text": "%(message)s", "operation": "%(operation)s", "id": "%(correlation_id)s"}'
    handler.setFormatter(logging.Formatter(form))
    logger = logging.getLogger("a.service")
    logger.addHandler(handler)
    try:
        with correlate() as chosen:
            logger.warning("Hello")
        logger.warning("Bye")
    finally:
        logger.removeHandler(handler)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {"text": "Hello", "operation": "None", "id": chosen}
    assert lines[1]["id"] == "None"


@pytest.mark.parametrize("given", ["", "a\nb", "a b", "é", "x" * 256, 7])
def test_a_correlation_id_is_one_printable_word(given: Any) -> None:
    with pytest.raises(InvalidInputError, match="correlation_id"), correlate(given):
        pass
