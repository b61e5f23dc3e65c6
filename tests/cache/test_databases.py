"""What tells the databases of a cache apart: an identity that each says itself, or a namespace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pymongo import MongoClient
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sessions import (
    AsyncSessionRepository,
    CachedSessionRepository,
    MemoryCache,
    SessionRepositoryFactory,
)
from sessions.cache import databases
from tests.cache.conftest import Clock
from tests.conftest import _DATABASES
from tests.support.databases import Backend, as_role, execute_postgres, redis_database

ALICE = "alice"


@pytest.fixture
def other(backend: Backend, request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Another database of the same kind, where it is easily made a copy: its tables have the same OIDs."""
    if backend.repository_type == "sqlite":
        copied = f"{backend.url}.copy"
        shutil.copy(backend.url.removeprefix("sqlite:///"), copied.removeprefix("sqlite:///"))
        yield Backend(backend.name, "sqlite", copied)
    elif backend.repository_type == "redis":
        with redis_database(backend.url.rpartition("/")[0]) as url:
            yield Backend(backend.name, "redis", url)
    else:
        yield Backend(
            backend.name, backend.repository_type, request.getfixturevalue(_DATABASES[backend.name][1])
        )


def process(backend: Backend, cache: MemoryCache, **options: Any) -> CachedSessionRepository:
    """Return a repository that shares nothing but the cache with others."""
    return CachedSessionRepository(backend.repository(**options), cache=cache)


async def titles(repository: Any, user_id: str = ALICE) -> list[str]:
    return [each.title for each in (await repository.list_sessions(user_id)).sessions]


async def identity_of(repository: Any) -> str | None:
    found: str | None = await repository._connection_manager.identity()
    return found


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


# -- On each backend -------------------------------------------------------------------------------


async def test_a_cache_shows_nothing_of_one_database_to_another_one(
    backend: Backend, other: Backend, memory: MemoryCache
) -> None:
    session_id = str(uuid.uuid4())
    async with process(backend, memory) as one, process(other, memory) as two:
        for each, title in ((one, "production"), (two, "staging")):
            await each.create_session_async(ALICE, {"title": title}, session_id=session_id)
            await each.add_message(session_id, "user", title)
        for _ in range(2):
            for each, title in ((one, "production"), (two, "staging")):
                found = await each.get_session(ALICE, session_id)
                assert found is not None
                assert found.title == title
                assert [item.content for item in await each.get_session_history(ALICE, session_id)] == [title]
                assert await titles(each) == [title]
        assert memory.counts.hits == 6
        assert await one.delete_user(ALICE) == 1
        assert await titles(one) == []
        assert await titles(two) == ["staging"]
        assert memory.counts.hits == 7


async def test_whatever_reaches_a_database_shares_what_is_cached_of_it(
    backend: Backend, memory: MemoryCache
) -> None:
    async with process(backend, memory) as one, process(backend, memory, append_batch_messages=77) as two:
        assert one._connection_manager is not two._connection_manager
        assert await identity_of(one) == await identity_of(two) is not None
        session_id = await one.create_session_async(ALICE, {"title": "old"})
        assert await titles(one) == await titles(two) == ["old"]
        assert memory.counts.hits == 1
        await two.update_session_async(ALICE, session_id, {"title": "new"})
        assert await titles(one) == ["new"]


# -- PostgreSQL ------------------------------------------------------------------------------------


@contextlib.contextmanager
def ordinary_role(url: str) -> Iterator[str]:
    """Yield a URL with a role that may use the tables, and nothing else."""
    role = f"role_{uuid.uuid4().hex}"
    execute_postgres(
        url,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
    )
    try:
        yield as_role(url, role)
    finally:
        execute_postgres(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_an_ordinary_role_reads_the_identity(postgres_url: str, memory: MemoryCache) -> None:
    with ordinary_role(postgres_url) as url:
        backend = Backend("postgres", "postgres", url)
        async with process(backend, memory) as one, postgres(postgres_url) as owner:
            assert await identity_of(one) == await identity_of(owner) is not None


@contextlib.asynccontextmanager
async def postgres(url: str, **options: Any) -> AsyncIterator[Any]:
    async with SessionRepositoryFactory.create_repository("postgres", url=url, **options) as repository:
        yield repository


async def test_a_role_that_may_not_read_the_identity_uses_no_cache_and_is_seen_by_others(
    postgres_url: str, memory: MemoryCache, caplog: pytest.LogCaptureFixture
) -> None:
    with ordinary_role(postgres_url) as url:
        execute_postgres(postgres_url, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        backend = Backend("postgres", "postgres", url)
        async with process(backend, memory) as refused, postgres(postgres_url) as behind:
            others = CachedSessionRepository(behind, cache=memory)
            session_id = await refused.create_session_async(ALICE, {"title": "0"})
            for number in range(1, 4):
                assert await titles(others) == [str(number - 1)]
                assert await titles(refused) == [str(number - 1)]
                await refused.update_session_async(ALICE, session_id, {"title": str(number)})
            await refused.run_in_transaction(
                lambda inside: inside.update_session_async(ALICE, session_id, {"title": "last"})
            )
            assert await titles(others) == ["last"]
            assert memory.counts.hits == 0
            assert memory.counts.bypasses == 3
            [warning] = warnings_of(caplog)
            assert "sessions.cache.namespace" in warning


async def test_the_first_write_of_a_process_in_a_transaction_of_its_own_waits_for_no_connection(
    postgres_url: str, ready_postgres_url: str, memory: MemoryCache
) -> None:
    elsewhere = CachedSessionRepository(
        SessionRepositoryFactory.create_repository("postgres", url=ready_postgres_url), cache=memory
    )
    await elsewhere.create_session_async(ALICE, {"title": "elsewhere"})
    engine = create_async_engine(
        postgres_url.replace("postgresql:", "postgresql+asyncpg:"),
        pool_size=1,
        max_overflow=0,
        pool_timeout=600,
    )
    behind = SessionRepositoryFactory.create_repository("postgres", engine=engine)
    cached = CachedSessionRepository(behind, cache=memory)
    await behind.ensure_ready()
    async with AsyncSession(engine) as db_session:
        inside = cached.using(db_session)
        session_id = await inside.create_session_async(ALICE, {"title": "new"})
        await db_session.commit()
    assert await titles(cached) == ["new"]
    assert (await cached.get_session(ALICE, session_id)) is not None
    # It knows in which database it is: values of another one stay.
    for _ in range(2):
        assert await titles(elsewhere) == ["elsewhere"]
    assert memory.counts.hits == 1
    await elsewhere.aclose()
    await engine.dispose()


async def test_a_table_that_was_created_anew_is_another_one(
    postgres_url: str, memory: MemoryCache, clock: Clock
) -> None:
    backend = Backend("postgres", "postgres", postgres_url)
    async with process(backend, memory) as one, process(backend, memory, append_batch_messages=77) as two:
        await one.create_session_async(ALICE, {"title": "old"})
        before = await identity_of(one)
        for each in (one, two):
            assert await titles(each) == ["old"]
        execute_postgres(postgres_url, "DROP TABLE chat_messages, chat_sessions, sessions_alembic_version")
        # It creates the schema again.
        await one.create_session_async(ALICE, {"title": "new"})
        assert await identity_of(one) != before
        for each in (one, two):
            assert await titles(each) == ["new"]
        # The other process sees at the latest then that it is another table.
        clock.now += memory.ttl
        assert await titles(two) == ["new"]
        for number in range(3):
            await one.create_session_async(ALICE, {"title": str(number)})
            assert len(await titles(two)) == number + 2


# -- SQLite ----------------------------------------------------------------------------------------


async def test_a_file_that_was_replaced_is_another_one(ready_sqlite_url: str, memory: MemoryCache) -> None:
    path = ready_sqlite_url.removeprefix("sqlite:///")
    backend = Backend("sqlite", "sqlite", ready_sqlite_url)
    async with process(backend, memory) as cached:
        await cached.create_session_async(ALICE, {"title": "old"})
    shutil.copy(path, f"{path}.backup")
    async with process(backend, memory) as cached:
        await cached.create_session_async(ALICE, {"title": "newer"})
        assert len(await titles(cached)) == 2
        for suffix in ("-wal", "-shm"):
            Path(path + suffix).unlink(missing_ok=True)
        os.replace(f"{path}.backup", path)
        assert await titles(cached) == ["old"]


async def test_a_file_that_is_deleted_after_a_close_leaves_nothing(
    ready_sqlite_url: str, memory: MemoryCache
) -> None:
    path = ready_sqlite_url.removeprefix("sqlite:///")
    backend = Backend("sqlite", "sqlite", ready_sqlite_url)
    for number in range(2):
        async with process(backend, memory) as cached:
            assert await titles(cached) == []
            await cached.create_session_async(ALICE, {"title": str(number)})
            assert await titles(cached) == [str(number)]
        os.unlink(path)


async def test_links_to_a_file_are_the_same_database(
    ready_sqlite_url: str, memory: MemoryCache, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(ready_sqlite_url.removeprefix("sqlite:///"))
    one = process(Backend("sqlite", "sqlite", ready_sqlite_url), memory)
    two = process(Backend("sqlite", "sqlite", f"sqlite:///{link}"), memory)
    async with one, two:
        await one.create_session_async(ALICE, {"title": "old"})
        assert await titles(one) == await titles(two) == ["old"]
        assert memory.counts.hits == 1


async def test_databases_in_memory_are_different_ones(memory: MemoryCache) -> None:
    engines = [create_async_engine("sqlite+aiosqlite://") for _ in range(2)]
    for number, engine in enumerate(engines):
        behind = SessionRepositoryFactory.create_repository("sqlite", engine=engine)
        cached = CachedSessionRepository(behind, cache=memory)
        await cached.create_session_async(ALICE, {"title": str(number)})
        for _ in range(2):
            assert await titles(cached) == [str(number)]
    temporary = [SessionRepositoryFactory.create_repository("sqlite", url="sqlite://") for _ in range(2)]
    for number, behind in enumerate(temporary):
        cached = CachedSessionRepository(behind, cache=memory)
        assert await titles(cached) == []
        await cached.create_session_async(ALICE, {"title": str(number)})
        for _ in range(2):
            assert await titles(cached) == [str(number)]
    assert memory.counts.hits == 4
    for behind in temporary:
        await behind.aclose()
    for engine in engines:
        await engine.dispose()


# -- MongoDB, Redis --------------------------------------------------------------------------------


async def test_a_collection_that_was_dropped_is_another_one(mongodb_url: str, memory: MemoryCache) -> None:
    backend = Backend("mongodb", "mongodb", mongodb_url)
    async with process(backend, memory) as cached:
        await cached.create_session_async(ALICE, {"title": "old"})
        assert await titles(cached) == ["old"]
        with MongoClient[dict[str, Any]](mongodb_url) as client:
            client.drop_database(client.get_default_database())
        await cached.create_session_async("bob", {"title": "new"})
        assert await titles(cached) == []


async def test_a_database_that_was_flushed_is_another_one(
    redis_url: str, memory: MemoryCache, clock: Clock
) -> None:
    async with process(Backend("redis", "redis", redis_url), memory) as cached:
        await cached.create_session_async(ALICE, {"title": "old"})
        before = await identity_of(cached)
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()
        clock.now += memory.ttl
        assert await titles(cached) == []
        assert await identity_of(cached) not in (None, before)


# -- Namespaces ------------------------------------------------------------------------------------


async def test_copies_that_are_the_same_in_all_are_told_apart_by_a_namespace(
    counting: AsyncSessionRepository, memory: MemoryCache
) -> None:
    one, copied, again = (
        CachedSessionRepository(counting, cache=memory, namespace=namespace)
        for namespace in ("production", "staging", "production")
    )
    await one.create_session_async(ALICE, {"title": "old"})
    assert await titles(one) == ["old"]
    assert await titles(again) == ["old"]
    assert memory.counts.hits == 1
    assert await titles(copied) == ["old"]
    assert memory.counts.hits == 1


async def test_the_namespace_of_the_settings(
    postgres_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, no role needs a privilege."""
    monkeypatch.setenv("SESSIONS_CACHE_URL", "memory://")
    monkeypatch.setenv("SESSIONS_CACHE_NAMESPACE", "production")
    with ordinary_role(postgres_url) as url:
        execute_postgres(postgres_url, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        async with postgres(url) as one, postgres(postgres_url) as two:
            await one.create_session_async(ALICE, {"title": "old"})
            assert await titles(one) == await titles(two) == ["old"]
            assert one.cache.counts.hits == 1
            explicit = CachedSessionRepository(two.uncached, cache="memory://")
            assert explicit.cache is one.cache
            assert await titles(explicit) == ["old"]
            assert one.cache.counts.hits == 2
    assert warnings_of(caplog) == []


# -- When it is read -------------------------------------------------------------------------------


class Asked:
    """The identity that a database says, and how often it was asked."""

    def __init__(self) -> None:
        self.says: str | None = "one"
        self.error: Exception | None = None
        self.times = 0

    async def __call__(self) -> str | None:
        self.times += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.says


@pytest.fixture
def asked(counting: Any, monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    monkeypatch.setattr(counting._connection_manager, "identity", found)
    return found


async def test_the_first_hundred_calls_of_a_process_read_the_identity_once(
    counting: Any, asked: Asked, memory: MemoryCache
) -> None:
    session_id = await counting.create_session_async(ALICE)
    counting.backend.calls.clear()
    found = await asyncio.gather(
        *(CachedSessionRepository(counting, cache=memory).get_session(ALICE, session_id) for _ in range(100))
    )
    assert len({each.session_id for each in found}) == 1
    assert counting.backend.calls == ["get"]
    assert asked.times == 1


async def test_it_is_read_again_after_ttl_by_a_call_that_reads_the_database_anyway(
    counting: Any, asked: Asked, memory: MemoryCache, clock: Clock
) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    await cached.create_session_async(ALICE, {"title": "old"})
    clock.now += memory.ttl / 2
    for _ in range(3):
        await titles(cached)
    clock.now += memory.ttl / 2
    await titles(cached)
    assert (asked.times, memory.counts.hits) == (1, 3)
    asked.says = "two"
    await counting.create_session_async("bob", {"title": "new"})
    assert await titles(cached, "bob") == ["new"]
    assert asked.times == 2
    # Nothing of the other database is valid.
    assert await titles(cached) == ["old"]
    assert memory.counts.hits == 3
    # The same for a write.
    clock.now += memory.ttl
    await cached.create_session_async(ALICE)
    assert asked.times == 3


async def test_an_identity_that_is_not_read_is_no_error_and_read_later(
    counting: Any, asked: Asked, memory: MemoryCache, clock: Clock
) -> None:
    cached, other = (CachedSessionRepository(counting, cache=memory) for _ in range(2))
    session_id = await cached.create_session_async(ALICE, {"title": "0"})
    assert await titles(cached) == ["0"]
    asked.error = OSError("gone")
    counting._connection_manager.preparations += 1
    for number in range(1, 4):
        assert await titles(other) == [str(number - 1)]
        assert await other.update_session_async(ALICE, session_id, {"title": str(number)})
    assert asked.times == 2
    asked.error = None
    clock.now += databases.RETRY_SECONDS
    # What was written meanwhile is seen by all.
    for each in (cached, other):
        assert await titles(each) == ["3"]
    assert asked.times == 3
