"""A cache server that is down, slow, full or restarted causes no error, and shows nothing old."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from sessions import CachedSessionRepository, ConfigurationError, RedisCache
from sessions.cache.breaker import Breaker
from sessions.cache.redis_cache import SETTLE_SECONDS
from tests.cache.conftest import Clock
from tests.faults.breakable import Valkey, running
from tests.support.freezers import freezer_of

ALICE = "alice"
# Of a call that waits for a server that does not work; more than its time limit, for a busy machine.
PATIENT, HASTY = 20.0, 0.25


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    """A server that keeps all it has when it is killed."""
    found = Valkey()
    with running(found):
        yield found


@pytest.fixture
def empty_server(server: Valkey) -> Valkey:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
    return server


@contextlib.asynccontextmanager
async def process(behind: Any, server: Valkey, *, timeout: float = PATIENT) -> AsyncIterator[Any]:
    """Yield a repository as another process has it: with a cache of its own on the same server."""
    cache = RedisCache(server.url, timeout=timeout)
    try:
        yield CachedSessionRepository(behind, cache=cache)
    finally:
        await cache.aclose()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def title(repository: Any, session_id: str) -> str:
    return str((await repository.get_session(ALICE, session_id)).title)


async def test_without_a_server_everything_works_with_one_warning(
    behind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RedisCache("redis://127.0.0.1:1/0", timeout=PATIENT)
    cached = CachedSessionRepository(behind, cache=cache)
    session_id = await cached.create_session_async(ALICE, {"title": "0"})
    for number in range(1, 20):
        await cached.update_session_async(ALICE, session_id, {"title": str(number)})
        assert await title(cached, session_id) == str(number)
        await cached.add_message(session_id, "user", "a")
        assert len(await cached.get_session_history(ALICE, session_id)) == number
        assert (await cached.list_sessions(ALICE)).sessions[0].title == str(number)
    [warning] = warnings_of(caplog)
    assert "reads go to the database" in warning
    assert cache.counts.bypasses == 3 * 19
    await cache.aclose()


async def test_a_server_that_is_frozen_costs_one_wait_and_then_shows_nothing_old(
    behind: Any, empty_server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    freezer = freezer_of(empty_server)
    async with process(behind, empty_server) as other, process(behind, empty_server, timeout=HASTY) as ours:
        session_id = await other.create_session_async(ALICE, {"title": "old"})
        assert await title(other, session_id) == "old"
        await asyncio.gather(*(ours.cache.look_up("a", ["b"], None) for _ in range(3)))
        ours.cache._breaker = Breaker()  # On a busy machine it may have waited, and warned, already.
        caplog.clear()
        freezer.freeze()
        try:
            began = time.monotonic()
            for number in range(50):
                await ours.update_session_async(ALICE, session_id, {"title": str(number)})
                assert await title(ours, session_id) == str(number)
            # Without the breaker, each of the 50 writes and reads waits.
            assert time.monotonic() - began < 50 * 3 * HASTY / 2
            assert len(warnings_of(caplog)) == 1
        finally:
            freezer.thaw()
        # This process has not been told: it sees the write once the other one reaches the server again.
        async with asyncio.timeout(30):
            while await title(other, session_id) != "49":
                await asyncio.sleep(0.01)
            while not ours.cache.counts.hits:
                assert await title(ours, session_id) == "49"
                await asyncio.sleep(0.01)


def test_writers_of_one_call_wait_for_less_than_a_second_together() -> None:
    clock = Clock()
    breaker, waited = Breaker(clock), 0.0
    # Ten writes of one transaction, and their ends.
    for seconds in [0.25] * 10 + [0.5] * 10:
        if breaker.lets_through(insists=True):
            clock.now += seconds
            waited += seconds
            breaker.failed("no answer")
    assert waited < 1


async def test_a_server_that_comes_back_with_its_old_data_shows_nothing_old(
    behind: Any, empty_server: Valkey
) -> None:
    async with process(behind, empty_server) as ours, process(behind, empty_server) as other:
        session_id = await ours.create_session_async(ALICE, {"title": "old"})
        for each in (ours, other):
            assert await title(each, session_id) == "old"
        empty_server.kill()
        await ours.update_session_async(ALICE, session_id, {"title": "new"})
        empty_server.start()
        with redis.Redis.from_url(empty_server.url) as client:
            # It has kept the value, and has not been told of the write.
            assert client.keys("*:v:*get*")
        for each in (other, ours):
            assert await title(each, session_id) == "new"


async def test_a_server_that_is_promoted_again_shows_nothing_old(behind: Any, empty_server: Valkey) -> None:
    """It knows the script from the first time, and has what a third server has sent it."""
    async with process(behind, empty_server) as ours:
        session_id = await ours.create_session_async(ALICE, {"title": "old"})
        for _ in range(2):
            assert await title(ours, session_id) == "old"
        with redis.Redis.from_url(empty_server.url) as client:
            kept = {key: client.dump(key) for key in client.keys("*")}
            await ours.update_session_async(ALICE, session_id, {"title": "new"})
            for key, value in kept.items():
                client.restore(key, 0, value, replace=True)
            # The same server: what it has is valid.
            assert await title(ours, session_id) == "old"
            [of_everything] = client.keys("*:t:all")
            assert client.hset(of_everything, "r", "another server") == 0
            client.client_kill_filter(_type="normal", skipme=True)
            for _ in range(2):
                assert await title(ours, session_id) == "new"
            assert ours.cache.counts.hits >= 2


async def test_a_writer_that_cannot_reach_the_server_tells_it_as_soon_as_it_can(
    behind: Any, empty_server: Valkey
) -> None:
    async with process(behind, empty_server) as ours, process(behind, empty_server) as other:
        session_id = await ours.create_session_async(ALICE, {"title": "old"})
        await ours.list_sessions(ALICE)
        assert await title(other, session_id) == "old"
        ours.cache._breaker.failed("a lost route, for a test")
        await ours.update_session_async(ALICE, session_id, {"title": "new"})
        # It reads nothing from the cache itself, and nobody needs to call it.
        assert await title(ours, session_id) == "new"
        async with asyncio.timeout(30):
            while await title(other, session_id) != "new":
                await asyncio.sleep(SETTLE_SECONDS / 5)
        assert not ours.cache._owed


async def test_a_full_server_is_one_warning_and_shows_nothing_old(
    behind: Any, empty_server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with process(behind, empty_server) as ours, process(behind, empty_server) as other:
        session_id = await ours.create_session_async(ALICE, {"title": "old"}, messages=[("user", "a")])
        fresh = await ours.create_session_async(ALICE, {"title": "never read"})
        for each in (ours, other):
            assert await title(each, session_id) == "old"
            assert len(await each.get_session_history(ALICE, session_id)) == 1
        with redis.Redis.from_url(empty_server.url) as client:
            client.config_set("maxmemory", 1)
        for number in range(5):
            await ours.update_session_async(ALICE, session_id, {"title": str(number)})
            await ours.add_message(session_id, "user", "b")
            for each in (other, ours):
                assert await title(each, session_id) == str(number)
                assert len(await each.get_session_history(ALICE, session_id)) == number + 2
                assert await title(each, fresh) == "never read"
        assert {"maxmemory" in each for each in warnings_of(caplog)} == {True}
        assert len(warnings_of(caplog)) == 2  # One of each process.
        with redis.Redis.from_url(empty_server.url) as client:
            client.config_set("maxmemory", 0)
        hits = ours.cache.counts.hits
        for _ in range(2):
            assert await title(ours, session_id) == "4"
        assert ours.cache.counts.hits == hits + 1


async def test_a_tag_that_the_server_evicts_takes_its_values_with_it(
    behind: Any, empty_server: Valkey
) -> None:
    async with process(behind, empty_server) as ours:
        session_id = await ours.create_session_async(ALICE, {"title": "old"})
        with redis.Redis.from_url(empty_server.url) as client:
            assert await title(ours, session_id) == "old"
            values = client.keys("*:v:*get*")
            client.delete(*client.keys("*:t:*"))
            await behind.update_session_async(ALICE, session_id, {"title": "new"})
            assert client.exists(*values)
            assert await title(ours, session_id) == "new"


async def test_a_writer_that_dies_leaves_nothing_old_behind(behind: Any, empty_server: Valkey) -> None:
    async with process(behind, empty_server) as dying, process(behind, empty_server) as other:
        session_id = await other.create_session_async(ALICE, {"title": "old"})
        assert await title(other, session_id) == "old"

        async def die(*_arguments: Any, **_options: Any) -> None:
            raise KeyboardInterrupt

        dying.cache.end = die
        with pytest.raises(KeyboardInterrupt):
            # Not in a task of the event loop, which it would end.
            dying.update_session(ALICE, session_id, {"title": "new"})
        for _ in range(2):
            assert await title(other, session_id) == "new"


@pytest.mark.parametrize("decodes", [False, True])
async def test_a_client_of_a_service_s_own_is_used_and_not_closed(
    behind: Any, empty_server: Valkey, decodes: bool
) -> None:
    async with redis.asyncio.Redis.from_url(empty_server.url, decode_responses=decodes) as client:
        cache = RedisCache(client=client, timeout=PATIENT)
        cached = CachedSessionRepository(behind, cache=cache)
        session_id = await cached.create_session_async(
            ALICE, {"title": "\u00fc"}, messages=[("user", "\u20ac")]
        )
        for _ in range(2):
            assert await title(cached, session_id) == "\u00fc"
            await cached.add_message(session_id, "user", "a")
            assert len((await cached.list_sessions(ALICE)).sessions) == 1
        for _ in range(2):
            assert (await cached.get_session_history(ALICE, session_id))[0].content == "\u20ac"
        assert cache.counts.hits >= 1
        await cache.aclose()
        assert await client.ping()
        with pytest.raises(TypeError, match="own"):
            pickle.dumps(cache)


def test_a_secret_of_the_url_is_in_no_text(behind: Any, caplog: pytest.LogCaptureFixture) -> None:
    for url in ("http://:secret@host", "redis://:secret@host:x/0", "secret"):
        with pytest.raises(ConfigurationError) as raised:
            RedisCache(url)
        assert "secret" not in str(raised.value)
        assert raised.value.__cause__ is None
    cache = RedisCache("redis://:secret@127.0.0.1:1/0", timeout=PATIENT)
    assert "secret" not in repr(cache)
    repository = CachedSessionRepository(behind, cache=cache)
    assert repository.count_sessions_sync(ALICE) == 0
    assert repository.list_paginated_sessions(ALICE) == []
    assert "secret" not in caplog.text
    repository.close()
