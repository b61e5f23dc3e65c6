"""The contract, and the model test, through a cache: nobody can tell that it is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from sessions import CachedSessionRepository, MemoryCache, RedisCache, SessionRepositoryFactory
from sessions.cache import SessionCache
from sessions.testing import SessionRepositoryContract
from sessions.testing.callers import AsyncCaller, Caller
from tests.contract.test_model import BUDGET, SessionMachine
from tests.support.databases import Backend

FULL_SIZE = pytest.mark.full_size


class AsyncContract(SessionRepositoryContract):
    """The contract in its async style: blocking twins are the same on each backend."""

    @pytest.fixture
    def chats(self, repository: Any) -> Caller:
        return AsyncCaller(repository)


class TestSqliteWithMemory(SessionRepositoryContract):
    @pytest.fixture
    async def repository(self, _ready_sqlite_url: str) -> AsyncIterator[Any]:
        behind = SessionRepositoryFactory.create_repository("sqlite", url=_ready_sqlite_url)
        async with CachedSessionRepository(behind, cache=MemoryCache()) as repository:
            yield repository


@FULL_SIZE
class TestPostgresWithRedis(AsyncContract):
    @pytest.fixture
    async def repository(self, _ready_postgres_url: str, redis_url: str) -> AsyncIterator[Any]:
        behind = SessionRepositoryFactory.create_repository("postgres", url=_ready_postgres_url)
        async with CachedSessionRepository(behind, cache=RedisCache(redis_url, timeout=20)) as repository:
            yield repository


@FULL_SIZE
class TestMongodbWithRedis(AsyncContract):
    takes_only_uuids = False

    @pytest.fixture
    async def repository(self, _ready_mongodb_url: str, redis_url: str) -> AsyncIterator[Any]:
        behind = SessionRepositoryFactory.create_repository("mongodb", url=_ready_mongodb_url)
        async with CachedSessionRepository(behind, cache=RedisCache(redis_url, timeout=20)) as repository:
            yield repository


@FULL_SIZE
class TestRedisWithMemory(AsyncContract):
    takes_only_uuids = False

    @pytest.fixture
    async def repository(self, redis_url: str) -> AsyncIterator[Any]:
        behind = SessionRepositoryFactory.create_repository("redis", url=redis_url)
        async with CachedSessionRepository(behind, cache=MemoryCache()) as repository:
            yield repository


@contextmanager
def _cache(kind: str, redis_url: str) -> Iterator[SessionCache]:
    yield MemoryCache() if kind == "memory" else RedisCache(redis_url, timeout=20)


@pytest.mark.parametrize(
    ("kind", "examples"),
    [("memory", 4), ("redis", 2), *(pytest.param(kind, 20, marks=FULL_SIZE) for kind in ("memory", "redis"))],
)
def test_every_operation_does_what_the_model_does(
    ready_sqlite_url: str, redis_url: str, kind: str, examples: int
) -> None:
    """Two repositories with one cache alternate: each makes invalid what the other one has read."""
    database = Backend("sqlite", "sqlite", ready_sqlite_url)
    with (
        _cache(kind, redis_url) as cache,
        CachedSessionRepository(database.repository(), cache=cache) as first,
        CachedSessionRepository(database.repository(pool_size=3), cache=cache) as second,
    ):

        class Machine(SessionMachine):
            repositories = [first, second]  # noqa: RUF012

        run_state_machine_as_test(Machine, settings=settings(BUDGET, max_examples=examples))
        assert cache.counts.hits > 100
