"""Spans and durations of every operation, on every backend."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from sessions import (
    AsyncChats,
    BackendUnavailableError,
    RetryConfig,
    SessionNotFoundError,
    SessionRepositoryFactory,
)
from sessions.observability import SessionsInstrumentor
from sessions.observability.ids import HashedIds
from tests.observability.conftest import KEY, Seen
from tests.support.databases import Backend

USER, SECRET = "alice@example.org", "a secret message"
SYSTEMS = {"postgres": "postgresql", "sqlite": "sqlite", "mongodb": "mongodb", "redis": "redis"}
THEN = datetime(2020, 1, 1, tzinfo=UTC)


async def call_everything(chats: AsyncChats) -> set[str]:
    """Call each operation once; return their names."""
    a = await chats.create_session(USER, title=SECRET)
    called = {"create_session"}

    async def call(name: str, *arguments: Any, **options: Any) -> Any:
        called.add(name)
        return await getattr(chats, name)(*arguments, **options)

    await call("ensure_ready")
    await call("is_healthy")
    await call("ensure_session_exists", USER, a)
    await call("get_session", USER, a)
    await call("update_session", USER, a, title=f"{SECRET} 2")
    await call("list_sessions", USER)
    await call("list_session_previews", USER)
    await call("count_sessions", USER)
    await call("add_message", USER, a, "user", SECRET)
    ids = await call("add_messages", USER, a, [("user", SECRET), ("assistant", SECRET), ("user", SECRET)])
    await call("get_session_history", USER, a)
    await call("get_message", USER, a, ids[0])
    await call("count_messages", USER, a)
    await call("get_session_payloads", USER, a)
    await call("update_message", USER, a, ids[0], content=f"{SECRET} 3")
    await call("search_messages", USER, "secret")
    await call("fork_session", USER, a)
    await call("pop_message", USER, a)
    await call("delete_messages", USER, a, [ids[0]])
    await call("delete_messages_from", USER, a, ids[1])
    await call("replace_messages", USER, a, [("user", SECRET)])
    await call("clear_messages", USER, a)
    called.add("export_user")
    assert [one async for one in chats.export_user(USER)]
    await call("keep_latest_sessions", USER, 1)
    await call("delete_sessions_older_than", USER, THEN)
    b = await chats.create_session(USER)
    await call("delete_session", USER, b)
    await call("delete_user", USER)
    return called


async def administer(chats: AsyncChats) -> set[str]:
    admin = chats.admin
    owner = await chats.create_session(USER)
    chat_session = await chats.get_session(USER, owner)
    assert chat_session is not None
    assert [one async for one in admin.iter_users()]
    assert [one async for one in admin.iter_sessions()]
    assert [one async for one in admin.export()]
    await admin.restore(chat_session, [])
    await admin.restore_many([(chat_session, [])])
    await admin.sizes()
    await admin.statistics()
    return {"iter_users", "iter_sessions", "export", "restore", "restore_many", "sizes", "statistics"}


async def test_each_operation_has_a_span_and_a_duration_without_content(
    backend: Backend, repository: Any, seen: Seen
) -> None:
    chats = repository.chats
    called = await call_everything(chats)
    offered = {
        name
        for name, _ in inspect.getmembers(AsyncChats, callable)
        if not name.startswith("_") and name not in ("aclose", "using", "run_in_transaction")
    }
    assert called == offered
    called |= await administer(chats)

    spans = seen.spans()
    names = {span.attributes["db.operation.name"] for span in spans}
    assert {name for name in called if name not in names} == set()
    points = seen.points("db.client.operation.duration")
    assert {point.attributes["db.operation.name"] for point in points} == names
    assert sum(point.count for point in points) == len(spans)
    assert points[0].explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    system = SYSTEMS[backend.repository_type]
    for attributes in [*(span.attributes for span in spans), *(point.attributes for point in points)]:
        assert attributes["db.system.name"] == system
        assert attributes["db.namespace"]
        assert "error.type" not in attributes
        if system != "sqlite":
            address = attributes["server.address"]
            assert address.startswith("/") or attributes["server.port"] > 0  # A socket has no port.
    assert all(span.kind is SpanKind.CLIENT and not span.events for span in spans)
    text = "".join(span.to_json() for span in spans) + json.dumps(
        [dict(point.attributes) for point in points]
    )
    for hidden in ("secret", USER, "alice"):
        assert hidden not in text
    [named] = seen.spans("get_message")
    assert named.attributes["user.hash"] == HashedIds(KEY).hashed(USER)
    assert named.attributes["sessions.session.hash"] != named.attributes["user.hash"]
    assert not any("hash" in name for point in points for name in point.attributes)


def test_a_blocking_call_belongs_to_the_trace_of_its_thread(backend: Backend, seen: Seen) -> None:
    tracer = seen.tracers.get_tracer("service")
    parents: dict[int, set[int]] = {}

    def serve() -> None:
        for _ in range(5):
            with tracer.start_as_current_span("request", attributes={"db.operation.name": "none"}) as request:
                session_id = repository.create_session(USER, None)
                repository.get_session_history_sync(USER, session_id)
            trace_id = request.get_span_context().trace_id
            parents[trace_id] = {request.get_span_context().span_id}

    with backend.repository() as repository:
        threads = [threading.Thread(target=serve) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    spans = seen.spans("create_session") + seen.spans("get_session_history")
    assert len(spans) == 40
    for span in spans:
        assert span.parent is not None
        assert {span.parent.span_id} == parents[span.context.trace_id]


async def test_a_batch_has_a_span_with_links_to_those_of_its_callers(repository: Any, seen: Seen) -> None:
    session_ids = [await repository.create_session_async(USER) for _ in range(40)]
    tracer = seen.tracers.get_tracer("service")

    async def caller(session_id: str) -> int:
        with tracer.start_as_current_span("request", attributes={"db.operation.name": "none"}) as request:
            await repository.add_message(session_id, "user", SECRET)
        return request.get_span_context().trace_id

    traces = await asyncio.gather(*map(caller, session_ids))
    calls = seen.spans("add_message")
    assert sorted(span.context.trace_id for span in calls) == sorted(traces)
    batches = seen.spans("BATCH append")
    assert batches
    by_id = {span.context.span_id: span for span in calls}
    linked = [by_id[link.context.span_id] for batch in batches for link in batch.links]
    assert len(linked) == len({span.context.span_id for span in linked})
    for batch in batches:
        assert batch.parent is None
        assert batch.attributes.get("db.operation.batch.size", 1) == len(batch.links)
        for link in batch.links:
            # The span of the caller covers its wait.
            call = by_id[link.context.span_id]
            assert call.start_time <= batch.start_time <= batch.end_time <= call.end_time
    [durations] = [
        point
        for point in seen.points("db.client.operation.duration")
        if point.attributes["db.operation.name"] == "add_message"
    ]
    assert durations.count == 40


async def test_an_operation_that_fails_has_the_class_of_its_error(repository: Any, seen: Seen) -> None:
    with pytest.raises(SessionNotFoundError):
        await repository.add_message(
            await repository.create_session_async("bob"), "user", SECRET, user_id=USER
        )
    [span] = seen.spans("add_message")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "SessionNotFoundError"
    assert not span.events
    [failed] = [
        point for point in seen.points("db.client.operation.duration") if "error.type" in point.attributes
    ]
    assert (failed.count, failed.attributes["error.type"]) == (1, "SessionNotFoundError")


@pytest.mark.parametrize(
    ("repository_type", "url", "code"),
    [
        ("postgres", "postgresql://u:p%40ss@127.0.0.1:9/d", "111"),
        ("redis", "redis://:p%40ss@127.0.0.1:9/3", None),
        ("mongodb", "mongodb://u:p%40ss@127.0.0.1:9/d?serverSelectionTimeoutMS=100", None),
    ],
)
async def test_retries_are_counted_by_the_class_of_the_error(
    repository_type: str, url: str, code: str | None, seen: Seen
) -> None:
    retry = RetryConfig(max_attempts=3, base_delay=0.01)
    async with SessionRepositoryFactory.create_repository(
        repository_type, url=url, retry=retry
    ) as repository:
        with pytest.raises(BackendUnavailableError):
            await repository.get_session(USER, "00000000-0000-4000-8000-000000000000")
    retried = seen.points("sessions.client.operation.retries")
    assert {point.attributes["db.operation.name"] for point in retried} == {"get_session"}
    assert sum(point.value for point in retried) == 2
    assert all(point.attributes["error.type"] for point in retried)
    [span] = seen.spans()
    assert span.attributes["error.type"] == "BackendUnavailableError"
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ("127.0.0.1", 9)
    assert span.attributes["db.namespace"] == ("3" if repository_type == "redis" else "d")
    assert "p@ss" not in span.to_json()


async def test_the_code_of_the_database_is_reported(postgres_url: str, seen: Seen) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=f"{postgres_url}") as repository:
        await repository.ensure_ready()
        engine = await repository._connection_manager.engine()
        async with engine.connect() as connection:
            await connection.exec_driver_sql("ALTER TABLE chat_sessions RENAME COLUMN title TO other")
        with pytest.raises(Exception, match=r".+"):
            await repository.get_session(USER, "00000000-0000-4000-8000-000000000000")
    [span] = seen.spans("get_session")
    assert span.attributes["db.response.status_code"] == "42703"


async def test_a_transaction_of_the_caller_belongs_to_its_database(postgres_url: str, seen: Seen) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        engine = await repository._connection_manager.engine()
        await repository.ensure_ready()
        async with engine.connect() as connection:
            await repository.using(connection).create_session_async(USER)
    [span] = seen.spans("create_session")
    assert span.attributes["db.system.name"] == "postgresql"
    assert span.attributes["server.address"]


async def test_nothing_is_reported_before_and_after(repository: Any, seen: Seen) -> None:
    SessionsInstrumentor().uninstrument()
    await repository.create_session_async(USER)
    assert not SessionsInstrumentor().is_instrumented_by_opentelemetry
    assert not seen.spans()
    assert not seen.points("db.client.connection.count")
    assert trace.get_current_span() is trace.INVALID_SPAN
