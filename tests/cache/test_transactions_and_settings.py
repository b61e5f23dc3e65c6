"""Transactions through a cache, caches by setting, and the shapes of processes."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sessions import (
    AsyncChats,
    AsyncSessionRepository,
    CachedSessionRepository,
    ConfigurationError,
    InvalidInputError,
    MemoryCache,
    RedisCache,
    SessionRepositoryFactory,
)
from sessions.cache import SessionCache, cache_of, configured_cache
from sessions.cache.base import WRITE_SECONDS, Filling
from sessions.services import ChatService
from tests.cache.conftest import Clock
from tests.observability.conftest import Seen, seen  # noqa: F401
from tests.support.forks import exit_status, in_child

ALICE = "alice"


async def title(repository: Any, session_id: str) -> str:
    return str((await repository.get_session(ALICE, session_id)).title)


# -- Transactions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False])
async def test_a_transaction_is_seen_once_it_is_committed(cached: Any, commits: bool) -> None:
    session_id = await cached.create_session_async(ALICE, {"title": "old"})
    assert await title(cached, session_id) == "old"

    async def work(inside: CachedSessionRepository) -> None:
        assert isinstance(inside, CachedSessionRepository)
        await inside.update_session_async(ALICE, session_id, {"title": "new"})
        await inside.add_message(session_id, "user", "a")
        # Its own reads see it, and others, who fill the cache meanwhile, do not.
        assert await title(inside, session_id) == "new"
        assert len(await inside.get_session_history(ALICE, session_id)) == 1
        for _ in range(2):
            assert await title(cached, session_id) == "old"
        if not commits:
            raise InvalidInputError("a", "for the test")

    if commits:
        await cached.run_in_transaction(work)
    else:
        with pytest.raises(InvalidInputError):
            await cached.run_in_transaction(work)
    hits = cached.cache.counts.hits
    for _ in range(2):
        assert await title(cached, session_id) == ("new" if commits else "old")
        assert len(await cached.get_session_history(ALICE, session_id)) == int(commits)
    # Once more than the empty history, which is not stored.
    assert cached.cache.counts.hits == hits + 1 + int(commits)


async def test_what_a_service_s_own_transaction_has_written_is_not_cached_for_a_while(
    sqlite_url: str, memory: MemoryCache, clock: Clock
) -> None:
    engine = create_async_engine(sqlite_url.replace("sqlite:", "sqlite+aiosqlite:"))
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as behind:
        await behind.ensure_ready()
        cached = CachedSessionRepository(behind, cache=memory)
        session_id = await cached.create_session_async(ALICE, {"title": "old"})
        assert await title(cached, session_id) == "old"
        async with AsyncSession(engine) as db_session:
            inside = cached.chats.using(db_session)
            await inside.update_session(ALICE, session_id, title="new")
            assert await title(cached, session_id) == "old"
            await db_session.commit()
        for _ in range(2):
            assert await title(cached, session_id) == "new"
        assert memory.counts.hits == 0
        clock.now += WRITE_SECONDS
        for _ in range(2):
            assert await title(cached, session_id) == "new"
        assert memory.counts.hits == 1
    await engine.dispose()


async def test_a_chat_service_works_on_it(cached: Any) -> None:
    async def answer(message: str, _context: Any) -> str:
        return message[::-1]

    service = ChatService(answer, repository=cached)
    session_id = await cached.create_session_async(ALICE)
    for turn in range(1, 4):
        result = await service.chat("abc", ALICE, session_id)
        assert result["success"]
        history = await cached.get_session_history(ALICE, session_id)
        assert [message.content for message in history] == ["abc", "cba"] * turn


# -- Settings --------------------------------------------------------------------------------------


def test_without_the_setting_there_is_no_cache(sqlite_url: str) -> None:
    assert configured_cache() is None
    created = SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url)
    assert not isinstance(created, CachedSessionRepository)


async def test_the_factory_returns_repositories_with_the_cache_of_the_settings(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_CACHE_URL", "memory://")
    monkeypatch.setenv("SESSIONS_CACHE_TTL", "7.5")
    monkeypatch.setenv("SQLITE_URL", sqlite_url)
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "sqlite")
    created: list[Any] = [
        SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url),
        SessionRepositoryFactory.get_default_repository(),
        AsyncChats(sqlite_url).repository,
    ]
    async with created[0]:
        session_id = await created[0].create_session_async(ALICE, {"title": "old"})
        for each in created:
            assert isinstance(each, CachedSessionRepository)
            assert await title(each, session_id) == "old"
        assert created[0].cache is created[1].cache is created[2].cache is configured_cache()
        assert created[0].cache.ttl == 7.5
        assert created[0].cache.counts.hits == 2


async def test_a_cache_on_redis_by_setting(
    sqlite_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_CACHE_URL", redis_url)
    monkeypatch.setenv("SESSIONS_CACHE_TIMEOUT", "20")
    monkeypatch.setenv("SESSIONS_CACHE_PREFIX", "ours")
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as created:
        assert isinstance(created, CachedSessionRepository)
        session_id = await created.create_session_async(ALICE, {"title": "old"})
        for _ in range(2):
            assert await title(created, session_id) == "old"
        assert created.cache.counts.hits == 1
        again = pickle.loads(pickle.dumps(created))
        assert again.cache is not created.cache
        await again.update_session_async(ALICE, session_id, {"title": "new"})
        assert await title(created, session_id) == "new"
        await again.aclose()


@pytest.mark.parametrize(
    ("variable", "value"), [("SESSIONS_CACHE_URL", "http://:secret@host"), ("SESSIONS_CACHE_TTL", "0")]
)
def test_a_wrong_setting_is_named(
    variable: str, value: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_CACHE_URL", "memory://")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=r"sessions\.cache\.") as raised:
        SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url)
    assert "secret" not in str(raised.value)


def test_what_cannot_have_a_cache_is_named(behind: AsyncSessionRepository) -> None:
    cached = CachedSessionRepository(behind, cache="memory://")
    assert cached.cache is cache_of("memory://")
    for other, reason in ((cached, "has a cache already"), (object(), "object is not")):
        with pytest.raises(ConfigurationError, match=reason):
            CachedSessionRepository(other, cache=MemoryCache())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="namespace: must be"):
        CachedSessionRepository(behind, cache=MemoryCache(), namespace="")
    for options in ({"ttl": 0}, {"max_bytes": -1}, {"max_value_bytes": 0}):
        with pytest.raises(ConfigurationError, match="must be more than 0"):
            MemoryCache(**options)


# -- Processes and copies --------------------------------------------------------------------------


async def test_a_copy_has_the_same_cache_and_a_pickle_only_one_that_can_be_shared(
    cached: Any, cache: SessionCache
) -> None:
    session_id = await cached.create_session_async(ALICE, {"title": "old"})
    await title(cached, session_id)
    copied = copy.copy(cached)
    assert copied.cache is cache
    assert await title(copied, session_id) == "old"
    assert cache.counts.hits == 1
    if isinstance(cache, MemoryCache):
        with pytest.raises(TypeError, match="one process"):
            pickle.dumps(cached)


def test_a_forked_child_does_not_keep_what_its_parent_has_cached(behind: Any) -> None:
    cached = CachedSessionRepository(behind, cache=MemoryCache())
    session_id = cached.create_session(ALICE, {"title": "old"})
    cached.get_session_sync(ALICE, session_id)
    before = cached.cache.statistics().entries
    behind.update_session(ALICE, session_id, {"title": "new"})

    def read() -> None:
        found = cached.get_session_sync(ALICE, session_id)
        assert found is not None
        assert found.title == "new"

    assert exit_status(in_child(read)) == 0
    assert cached.get_session_sync(ALICE, session_id).title == "old"
    assert cached.cache.statistics().entries == before


PROCESS = """
import asyncio, json, sys
from sessions import CachedSessionRepository, RedisCache, SessionRepositoryFactory

async def main(url, redis_url):
    behind = SessionRepositoryFactory.create_repository("sqlite", url=url)
    cached = CachedSessionRepository(behind, cache=RedisCache(redis_url, timeout=20))
    async with cached:
        for line in sys.stdin:
            operation, *arguments = json.loads(line)
            result = await getattr(cached, operation)(*arguments)
            if operation == "get_session":
                result = result.title
            elif operation == "get_session_history":
                result = [message.content for message in result]
            print(json.dumps([result, cached.cache.statistics().hits]), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_two_processes_share_a_cache_on_redis(
    behind: Any, ready_sqlite_url: str, redis_url: str
) -> None:
    cache = RedisCache(redis_url, timeout=20)
    cached = CachedSessionRepository(behind, cache=cache)
    command = [sys.executable, "-P", "-c", PROCESS, ready_sqlite_url, redis_url]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask(*call: Any) -> Any:
            print(json.dumps(call), file=other.stdin, flush=True)
            return json.loads(other.stdout.readline())  # type: ignore[union-attr]

        session_id = await cached.create_session_async(ALICE, {"title": "0"})
        for number in range(1, 6):
            await cached.update_session_async(ALICE, session_id, {"title": str(number)})
            assert await title(cached, session_id) == str(number)
            # From the cache that this process has filled.
            assert ask("get_session", ALICE, session_id) == [str(number), number]
        before = cache.counts.hits
        for number in range(1, 6):
            ask("add_message", session_id, "user", str(number))
            written = [str(each) for each in range(1, number + 1)]
            assert ask("get_session_history", ALICE, session_id)[0] == written
            history = await cached.get_session_history(ALICE, session_id)
            assert [message.content for message in history] == written
        assert cache.counts.hits == before + 5
        other.stdin.close()
    await cache.aclose()


# -- Memory and metrics ----------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"a" * 300, b"a" * 20_000])
async def test_a_cache_in_memory_takes_no_more_than_it_may(payload: bytes) -> None:
    limit = 2**18
    memory = MemoryCache(max_bytes=limit)
    tracemalloc.start()
    try:
        for number in range(400):
            tags = ("all", f"user \u202e {number}", f"session {number}")
            found = await memory.look_up(f"key {number}", tags, None)
            copied = bytes(bytearray(payload))
            await memory.fill(Filling(f"key {number}", tags, found.generation, copied, None, 0, 60, None))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    use = memory.statistics()
    assert use.size is not None
    assert limit * 0.9 < use.size <= limit == use.limit
    assert limit * 0.4 < taken < limit * 1.25


async def test_a_value_that_is_too_large_is_not_stored(counting: Any) -> None:
    cached = CachedSessionRepository(counting, cache=MemoryCache(max_value_bytes=1000))
    session_id = await cached.create_session_async(ALICE, messages=[("user", "a" * 600)] * 2)
    for _ in range(2):
        assert len(await cached.get_session_history(ALICE, session_id)) == 2
    assert len(await cached.get_session_history(ALICE, session_id, limit=1)) == 1
    hits = cached.cache.counts.hits
    assert len(await cached.get_session_history(ALICE, session_id, limit=1)) == 1
    assert (hits, cached.cache.counts.hits) == (0, 1)


async def test_hits_and_the_size_are_metrics(cached: Any, seen: Seen) -> None:  # noqa: F811
    session_id = await cached.create_session_async(ALICE)
    for _ in range(3):
        await title(cached, session_id)
    name = cached.cache.name
    found = {
        point.attributes["sessions.cache.result"]: point.value
        for point in seen.points("sessions.cache.requests")
        if point.attributes["sessions.cache.name"] == name
    }
    assert found["hit"] >= 2
    assert found["miss"] >= 1
    assert set(found) == {"hit", "miss", "bypass"}
    for metric in ("entries", "size", "limit"):
        points = seen.points(f"sessions.cache.{metric}")
        assert [each.value > 0 for each in points if each.attributes["sessions.cache.name"] == name] == (
            [True] if name == "memory" else []
        )


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from sessions import MissingDependencyError

    monkeypatch.setitem(sys.modules, "cachetools", None)
    with pytest.raises(MissingDependencyError, match=r"agenthub-sessions\[cache\]"):
        MemoryCache()
