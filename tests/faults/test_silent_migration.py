"""A migration has no time limit, but not on a server that does not respond."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from sessions import BackendUnavailableError, RetryConfig, SessionRepositoryFactory, migrations
from sessions.backends.postgres import connector
from tests.faults.breakable import Postgres
from tests.support.freezers import Freezer, freezable
from tests.support.timing import within

# Less than the wait of the migrations below.
QUICK = RetryConfig(max_attempts=2, base_delay=0.01, max_elapsed=1.5)


@pytest.fixture(scope="module")
def server() -> Iterator[Freezer]:
    with freezable(Postgres()) as freezer:
        yield freezer


@pytest.fixture(autouse=True)
def _watching_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "WATCH_SECONDS", 0.2)


@pytest.fixture
async def repository(server: Freezer) -> AsyncIterator[Any]:
    """A repository without a schema."""
    async with SessionRepositoryFactory.create_repository(
        "postgres", url=server.url, schema=f"s{uuid.uuid4().hex}", connect_timeout=2, retry=QUICK
    ) as repo:
        yield repo


@contextlib.asynccontextmanager
async def another_migration(server: Freezer) -> AsyncIterator[None]:
    """Hold the migration lock, so that every migration waits."""
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"SELECT pg_advisory_lock({migrations.LOCK_KEY})")
    try:
        yield
    finally:
        connection.terminate()


async def test_a_server_that_does_not_respond_ends_the_migration(server: Freezer, repository: Any) -> None:
    async with another_migration(server):
        calls = [asyncio.create_task(repository.count_sessions("alice")) for _ in range(3)]
        await asyncio.sleep(0.5)
        assert not any(call.done() for call in calls)
        server.freeze()
        try:
            with within(5):
                results = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            server.thaw()
    for result in results:
        assert isinstance(result, BackendUnavailableError)
        assert "connect_timeout" in str(result)
    assert await repository.count_sessions("alice") == 0


async def test_a_migration_continues_while_the_server_accepts_connections(
    server: Freezer, repository: Any
) -> None:
    async with another_migration(server):
        calls = [asyncio.create_task(repository.count_sessions("alice")) for _ in range(3)]
        await asyncio.sleep(3 * QUICK.max_elapsed)
        assert not any(call.done() for call in calls)
    assert await asyncio.gather(*calls) == [0, 0, 0]
