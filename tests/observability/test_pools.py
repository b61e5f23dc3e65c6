"""The metrics of the connection pools, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import BackendUnavailableError, RetryConfig, SessionRepositoryFactory
from tests.observability.conftest import Seen
from tests.support.databases import Backend

STATE, NAME = "db.client.connection.state", "db.client.connection.pool.name"
USER = "alice"


def counts(seen: Seen) -> dict[str, int]:
    return {point.attributes[STATE]: point.value for point in seen.points("db.client.connection.count")}


def value(seen: Seen, metric: str) -> int:
    return sum(point.value for point in seen.points(f"db.client.connection.{metric}"))


def count(seen: Seen, metric: str) -> int:
    return sum(point.count for point in seen.points(f"db.client.connection.{metric}"))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def test_connections_are_counted_by_state_with_their_waits_and_uses(
    backend: Backend, seen: Seen
) -> None:
    async with backend.repository(pool_size=2) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(3)]
        await until(lambda: counts(seen).get("used") == 0)
        assert counts(seen)["idle"] >= 1
        [limit] = seen.points("db.client.connection.max")
        assert limit.value >= 2
        assert value(seen, "pending_requests") == 0
        before = count(seen, "use_time")
        await asyncio.gather(*(repository.get_session_history(USER, each) for each in session_ids))
        assert count(seen, "use_time") >= before + 3
        # A caller that is cancelled while it waits has no use.
        assert count(seen, "wait_time") >= count(seen, "use_time")
        assert value(seen, "timeouts") == 0
        names = {
            point.attributes[NAME]
            for metric in ("count", "max", "wait_time", "use_time", "pending_requests")
            for point in seen.points(f"db.client.connection.{metric}")
        }
        [name] = names
        assert name == repository._connection_manager.target().pool_name
    assert not seen.points("db.client.connection.count")


async def test_a_caller_that_gets_no_connection_in_time_is_pending_then_counted(
    postgres_url: str, seen: Seen
) -> None:
    retry = RetryConfig(max_attempts=1)
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.5, "retry": retry}
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url, **options) as one:
        session_id = await one.create_session_async(USER)
        engine = await one._connection_manager.engine()
        async with engine.connect():  # Holds the only connection.
            waiting = asyncio.ensure_future(one.get_session(USER, session_id))
            await until(lambda: value(seen, "pending_requests") == 1)
            with pytest.raises(BackendUnavailableError):
                await waiting
        assert value(seen, "pending_requests") == 0
        assert value(seen, "timeouts") == 1


async def test_the_pool_of_a_service_s_own_engine_is_counted(postgres_url: str, seen: Seen) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"), pool_size=3)
    try:
        repository = SessionRepositoryFactory.create_repository("postgres", engine=engine)
        await repository.create_session_async(USER)
        await repository.count_sessions(USER)
        assert counts(seen) == {"used": 0, "idle": 1}
        assert count(seen, "use_time") >= 2
        assert not seen.points("db.client.connection.max")  # Only the service knows it.
    finally:
        await engine.dispose()
