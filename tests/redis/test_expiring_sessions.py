"""Sessions that expire, with all that finds them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from sessions import AsyncChats, ChatSession, ConfigurationError, NewMessage, SessionRepositoryFactory
from sessions.backends.redis import mapping

LONG = 1000.0


@pytest.fixture
def server(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def expire(server: Any, user_id: str, session_id: str) -> None:
    """Let a session expire now, as if its time had passed."""
    base = f"sessions:{{{mapping.tag_of(user_id)}}}:"
    [member] = [each for each in server.zrange(f"{base}expiry", 0, -1) if each.endswith(session_id)]
    server.zadd(f"{base}expiry", {member: 1})
    server.zadd("sessions:expiring", {mapping.tag_of(user_id): 1})
    server.delete(f"{base}s:{session_id}", f"{base}o:{session_id}")


def connect(url: str, **options: Any) -> AsyncChats:
    return AsyncChats(url, **{"expire_after": LONG, **options})


async def test_what_expires_is_gone_for_every_operation(redis_url: str, server: Any) -> None:
    async with AsyncChats(redis_url, expire_after=0.3) as chats, AsyncChats(redis_url) as others:
        session_id = await chats.create_session("alice", messages=[("user", "Hello")], metadata={"a": 1})
        kept = await others.create_session("alice", messages=[("user", "Hello")])
        theirs = await chats.create_session("bob")
        async with asyncio.timeout(20):
            while await chats.get_session("alice", session_id) or await chats.get_session("bob", theirs):
                await asyncio.sleep(0.05)
        assert await chats.get_session_history("alice", session_id) == []
        assert await chats.count_messages("alice", session_id) == 0
        assert [found.session_id for found in (await chats.list_sessions("alice")).sessions] == [kept]
        assert [
            each.session.session_id for each in (await chats.list_session_previews("alice")).previews
        ] == [kept]
        assert await chats.count_sessions("alice") == 1
        assert await chats.count_sessions("alice", where={"a": 1}) == 0
        assert len((await chats.search_messages("alice", "hello")).hits) == 1
        assert [user async for user in chats.admin.iter_users()] == ["alice"]
        assert [found.session_id async for found in chats.admin.iter_sessions()] == [kept]
        assert (await chats.admin.statistics()).sessions == 1
        assert await chats.delete_user("alice") == 1
        assert server.dbsize() == 0


async def test_each_write_keeps_a_session_for_longer_and_no_read_does(redis_url: str, server: Any) -> None:
    async with connect(redis_url) as chats:
        session_id = await chats.create_session("alice")
        keys = [f"sessions:{{alice}}:{kind}:{session_id}" for kind in "so"]
        writes = [
            lambda: chats.add_message("alice", session_id, "user", "one"),
            lambda: chats.add_messages("alice", session_id, [("user", "two"), ("user", "three")]),
            lambda: chats.update_session("alice", session_id, title="New"),
            lambda: chats.update_session("alice", session_id, metadata={"a": 1}, touch=False),
            lambda: chats.pop_message("alice", session_id),
            lambda: chats.replace_messages("alice", session_id, [("user", "four")]),
        ]
        for write in writes:
            server.pexpire(keys[0], 60_000)
            server.pexpire(keys[1], 60_000)
            await write()
            assert all(server.pttl(key) > 900_000 for key in keys if server.exists(key))
            [(_, at)] = server.zrange("sessions:{alice}:expiry", 0, -1, withscores=True)
            assert abs(at - server.pexpiretime(keys[0])) < 1
            assert server.zscore("sessions:expiring", "alice") == at
        server.pexpire(keys[0], 60_000)
        await chats.get_session("alice", session_id)
        await chats.get_session_history("alice", session_id)
        await chats.list_sessions("alice")
        assert server.pttl(keys[0]) <= 60_000


async def test_a_fork_and_a_restored_session_expire_too(redis_url: str, server: Any) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    async with connect(redis_url) as chats:
        session_id = await chats.create_session("alice", messages=[("user", "Hello")])
        fork = await chats.fork_session("alice", session_id)
        await chats.admin.restore(ChatSession("restored", "title", "alice", moment, moment, {}), [])
        await chats.ensure_session_exists("alice", "ensured")
        for found in (session_id, fork, "restored", "ensured"):
            assert server.pttl(f"sessions:{{alice}}:s:{found}") > 900_000
        assert server.pttl(f"sessions:{{alice}}:o:{fork}") > 900_000
        assert server.zcard("sessions:{alice}:expiry") == 4


async def test_a_write_without_the_setting_keeps_a_session_for_ever(redis_url: str, server: Any) -> None:
    async with connect(redis_url) as chats, AsyncChats(redis_url) as others:
        session_id = await chats.create_session("alice", messages=[("user", "Hello")])
        await others.add_message("alice", session_id, "user", "Bye")
        assert {server.ttl(key) for key in server.scan_iter()} == {-1}
        assert not server.exists("sessions:{alice}:expiry", "sessions:expiring")


async def test_the_ids_of_what_has_expired_may_be_used_again(redis_url: str, server: Any) -> None:
    async with connect(redis_url) as chats:
        message = NewMessage("user", "secret", message_id="one")
        for session_id in ("first", "second"):
            await chats.ensure_session_exists("alice", session_id)
        await chats.add_messages("alice", "first", [message])
        expire(server, "alice", "first")
        # Another session takes the message's id, and another user the session's.
        await chats.add_messages("alice", "second", [message])
        assert await chats.ensure_session_exists("bob", "first")
        assert await chats.get_session_history("bob", "first") == []
        assert await chats.get_session("alice", "first") is None
        for user_id in ("alice", "bob"):
            assert await chats.count_sessions(user_id) == 1


async def test_a_session_that_is_made_anew_shows_nothing_from_before(redis_url: str, server: Any) -> None:
    async with connect(redis_url) as chats:
        await chats.ensure_session_exists("alice", "one")
        old = await chats.add_message("alice", "one", "user", "old")
        expire(server, "alice", "one")
        assert await chats.ensure_session_exists("alice", "one")
        assert await chats.get_message("alice", "one", old) is None
        assert await chats.get_session_history("alice", "one") == []
        await chats.add_message("alice", "one", "user", "new")
        assert await chats.count_messages("alice", "one") == 1


async def test_many_expired_sessions_are_never_shown(redis_url: str, server: Any) -> None:
    async with connect(redis_url) as chats:
        repository = chats.repository
        ids = [await chats.create_session("alice", metadata={"odd": n % 2}) for n in range(300)]
        kept = ids[::30]
        for session_id in set(ids) - set(kept):
            expire(server, "alice", session_id)
        page = await chats.list_sessions("alice", limit=4)
        rest = await chats.list_sessions("alice", limit=100, cursor=page.next_cursor)
        assert [found.session_id for found in page.sessions + rest.sessions] == kept[::-1]
        for session_id in set(ids[:299]) - set(kept):
            assert await chats.get_session("alice", session_id) is None
        assert await chats.count_sessions("alice", where={"odd": None}) == 0
        assert await chats.count_sessions("alice") == len(kept)
        assert await repository.list_paginated_sessions_async("alice", 1, 4)
        assert await repository.keep_latest_sessions("alice", 6) == 4
        assert [found.session_id for found in (await chats.list_sessions("alice")).sessions] == kept[:3:-1]
        soon = datetime.now(UTC) + timedelta(hours=1)
        for session_id in kept[4:7]:
            expire(server, "alice", session_id)
        assert await repository.delete_sessions_older_than(soon) == 3
        assert server.dbsize() == 0


@pytest.mark.parametrize("write", ["append", "create", "ensure"])
async def test_writes_of_others_delete_what_has_expired(redis_url: str, server: Any, write: str) -> None:
    async with connect(redis_url) as chats:
        for number in range(5):
            session_id = await chats.create_session(f"user {number}", messages=[("user", "Hello")] * 3)
            expire(server, f"user {number}", session_id)
        await chats.ensure_session_exists("alice", "0")
        for number in range(5):
            if write == "append":
                await chats.add_message("alice", "0", "user", "Hello")
            elif write == "create":
                await chats.create_session("alice", messages=[("user", "Hello")])
            else:
                await chats.ensure_session_exists("alice", str(number))
        assert server.zrange("sessions:users", 0, -1) == ["alice"]
        assert server.zcard("sessions:sessions") == {"append": 1, "create": 6, "ensure": 5}[write]
        registered = sum(server.scard(key) for key in server.scan_iter("sessions:ids:*"))
        assert registered == (0 if write == "ensure" else 5)


@pytest.mark.parametrize("value", [0, -1, float("inf"), True, "soon"])
def test_the_time_is_a_number_of_seconds(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"db\.redis\.expire_after"):
        SessionRepositoryFactory.create_repository("redis", url="redis://host", expire_after=value)
