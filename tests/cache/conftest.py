from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sessions import CachedSessionRepository, MemoryCache, RedisCache, SessionRepositoryFactory
from sessions.cache import SessionCache, opening
from sessions.core.calls import Calls
from sessions.core.operations import Operations
from sessions.resilience import RetryConfig
from tests.contract.reference_backend import ReferenceBackend, ReferenceRepository


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Seconds that a test moves on."""
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> MemoryCache:
    return MemoryCache(ttl=60, clock=clock)


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[SessionCache]:
    """Each kind of cache; that on Redis waits for a busy machine."""
    found: SessionCache = MemoryCache()
    if request.param == "redis":
        found = RedisCache(request.getfixturevalue("redis_url"), timeout=20)
    yield found
    await found.aclose()


@pytest.fixture
def ready_sqlite_url(_ready_sqlite_url: str) -> str:
    return _ready_sqlite_url


@pytest.fixture
def ready_postgres_url(_ready_postgres_url: str) -> str:
    return _ready_postgres_url


@pytest.fixture
async def behind(_ready_sqlite_url: str) -> AsyncIterator[Any]:
    """A repository without a cache."""
    async with SessionRepositoryFactory.create_repository("sqlite", url=_ready_sqlite_url) as repository:
        yield repository


@pytest.fixture
def cached(behind: Any, cache: SessionCache) -> CachedSessionRepository:
    """A repository with a cache."""
    return CachedSessionRepository(behind, cache=cache)


@pytest.fixture(autouse=True)
def _no_cache_of_the_settings_outlives_its_test() -> Iterator[None]:
    yield
    opening._caches.clear()


class CountingBackend(ReferenceBackend):
    """Counts its calls, and lets a test hold them up."""

    def __init__(self, manager: Any) -> None:
        super().__init__(manager)
        self.calls: list[str] = []
        self.held: Any = None

    async def perform(self, work: Any, arguments: Any) -> Any:
        self.calls.append(work.__name__)
        if self.held is not None:
            await self.held.wait()
        return await work(*arguments)


@pytest.fixture
def counting() -> ReferenceRepository:
    """A repository in memory whose ``backend`` counts the calls."""
    repository = ReferenceRepository()
    repository.backend = CountingBackend(repository._connection_manager)
    repository._calls = Calls(repository.backend, lambda: RetryConfig(max_attempts=1))
    repository._operations = Operations(repository._calls)
    return repository
