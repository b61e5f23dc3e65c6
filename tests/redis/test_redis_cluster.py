"""A cluster: each user in one slot, ids that are unique among the slots, and what looks across users."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

from sessions import (
    AsyncChats,
    BackendUnavailableError,
    ChatMessage,
    Chats,
    ChatSession,
    ConfigurationError,
    MessageConflictError,
    NewMessage,
    RetryConfig,
    SessionConflictError,
    SessionNotFoundError,
)
from tests.support.databases import Backend
from tests.support.servers import free_port

USERS = [f"user {number}" for number in range(20)]


def chats_on(backend: Backend, **options: Any) -> AsyncChats:
    return AsyncChats(backend.url, **backend.options, **options)


def keys_of(backend: Backend) -> list[str]:
    """Return the keys of the test on all nodes."""
    hosts = backend.url.removeprefix("redis+cluster://").split(",")
    found: list[str] = []
    for host in hosts:
        with redis.Redis.from_url(f"redis://{host}", decode_responses=True) as client:
            found += client.scan_iter(f"{backend.options['prefix']}:*", count=1000)
    return found


async def fill(chats: AsyncChats) -> dict[str, str]:
    return {
        user: await chats.create_session(user, title=user, messages=[("user", f"Hello {user}")])
        for user in USERS
    }


async def test_all_keys_of_a_user_are_in_one_slot(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        for _ in range(3):
            session_id = await chats.create_session("alice", messages=[("user", "Hello")] * 3)
            await chats.fork_session("alice", session_id)
        found = [key for key in keys_of(redis_cluster) if "{alice}" in key]
        assert len(found) == 6 * 3 + 1
        assert len({key_slot(key.encode()) for key in found}) == 1


async def test_a_session_is_found_without_its_user(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        ids = await fill(chats)
        repository = chats.repository
        await asyncio.gather(*(repository.add_message(each, "assistant", "Hi") for each in ids.values()))
        for user, session_id in ids.items():
            history = await chats.get_session_history(user, session_id)
            assert [message.content for message in history] == [f"Hello {user}", "Hi"]
        with pytest.raises(SessionNotFoundError):
            await repository.add_message("absent", "user", "Hi")


async def test_what_looks_across_users_sees_each_once(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        ids = await fill(chats)
        assert sorted([user async for user in chats.admin.iter_users()]) == sorted(USERS)
        listed = [found.session_id async for found in chats.admin.iter_sessions()]
        assert listed == sorted(ids.values())
        after = [found.session_id async for found in chats.admin.iter_sessions(after=listed[3])]
        assert after == listed[4:]
        counts = await chats.admin.statistics()
        assert (counts.users, counts.sessions, counts.messages) == (20, 20, 20)
        sizes = await chats.admin.sizes()
        assert min(sizes.values()) > 0


async def test_pages_across_users_are_complete(
    redis_cluster: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.core.calls.Calls.batch_size", 7)
    async with chats_on(redis_cluster) as chats:
        for user in USERS:
            for number in range(9):
                await chats.ensure_session_exists(user, f"{number} of {user}")
        listed = [found.session_id async for found in chats.admin.iter_sessions()]
        assert listed == sorted(f"{number} of {user}" for user in USERS for number in range(9))
        assert sorted([user async for user in chats.admin.iter_users()]) == sorted(USERS)


async def test_nothing_of_a_user_is_left(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        for user in USERS[:3]:
            await chats.create_session(user, messages=[("user", "Hello")])
            assert await chats.delete_user(user) == 1
        # So that no call that was sent before brings a deleted session back, for some minutes.
        assert {re.sub(r"^[^:]*:\{\w+\}:|:.*", "", key) for key in keys_of(redis_cluster)} == {"fence"}


async def test_of_many_users_one_gets_a_session_id(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        for _ in range(5):
            results = await asyncio.gather(
                *(chats.ensure_session_exists(user, "same") for user in USERS), return_exceptions=True
            )
            conflicts = [result for result in results if isinstance(result, SessionConflictError)]
            assert len(conflicts) == len(USERS) - 1
            [owner] = [user for user, result in zip(USERS, results, strict=True) if result is True]
            assert [found.user_id async for found in chats.admin.iter_sessions()] == [owner]
            await chats.repository.add_message("same", "user", "Hello")
            assert await chats.delete_session(owner, "same")


async def test_of_many_users_one_gets_a_message_id(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        ids = await fill(chats)
        message = NewMessage("user", "same", message_id="same")
        for _ in range(5):
            results = await asyncio.gather(
                *(chats.add_messages(user, session_id, [message]) for user, session_id in ids.items()),
                return_exceptions=True,
            )
            conflicts = [result for result in results if isinstance(result, MessageConflictError)]
            assert len(conflicts) == len(USERS) - 1
            [owner] = [user for user, result in zip(USERS, results, strict=True) if result == ["same"]]
            assert await chats.delete_messages(owner, ids[owner], ["same"]) == 1


async def test_a_claim_that_is_left_of_a_killed_client_is_taken_over(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        await chats.count_sessions("alice")
        connection = await chats.repository._connection_manager.connect()
        for kind, name in (("s", "left"), ("m", "left")):
            scope = connection.scope(name)
            assert await connection.run(scope, "claim", kind, name, "bob\0token", "") == "bob\0token"
        assert await chats.ensure_session_exists("alice", "left")
        await chats.add_messages("alice", "left", [NewMessage("user", "Hi", message_id="left")])
        # The call of the killed client, if it is still on its way, stores nothing.
        scope = connection.scope("bob")
        late = ("ensure", "bob", "left", "token", "title", "0" * 18, "key", "0")
        assert await connection.run(scope, *late) == ["fenced", "s", "left"]
        assert await chats.get_session("bob", "left") is None


async def test_a_restore_keeps_ids_unique(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        ids = await fill(chats)
        found = await chats.get_session(USERS[0], ids[USERS[0]])
        assert found is not None
        moment = found.created_at
        theirs = ChatSession(found.session_id, "title", USERS[1], moment, moment, {})
        with pytest.raises(SessionConflictError):
            await chats.admin.restore(theirs, [])
        await chats.admin.restore(found, [ChatMessage("given", found.session_id, "user", "Hi", moment)])
        other = ChatSession("new", "title", USERS[1], moment, moment, {})
        with pytest.raises(MessageConflictError):
            await chats.admin.restore(other, [ChatMessage("given", "new", "user", "Hi", moment)])
        assert await chats.get_session(USERS[1], "new") is None
        # The claim of the session that was not stored is gone.
        assert await chats.ensure_session_exists(USERS[2], "new")


async def test_a_node_that_forgot_the_script_is_sent_it_again(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster) as chats:
        ids = await fill(chats)
        for host in redis_cluster.url.removeprefix("redis+cluster://").split(","):
            with redis.Redis.from_url(f"redis://{host}") as client:
                client.script_flush()
        await asyncio.gather(*(chats.add_message(user, each, "user", "Hi") for user, each in ids.items()))
        assert {await chats.count_messages(user, each) for user, each in ids.items()} == {2}


async def test_one_node_is_enough_to_find_the_others(redis_cluster: Backend) -> None:
    host, port = redis_cluster.url.rpartition(",")[2].split(":")
    options: dict[str, Any] = {"backend": "redis", "host": host, "port": int(port), **redis_cluster.options}
    async with AsyncChats(cluster=True, **options) as chats, chats_on(redis_cluster) as others:
        ids = await fill(chats)
        for user, session_id in ids.items():
            assert await others.get_session(user, session_id) == await chats.get_session(user, session_id)


async def test_what_is_no_cluster_is_refused(redis_url: str, redis_cluster: Backend) -> None:
    server = redis_url.rpartition("/")[0]
    with pytest.raises(ConfigurationError, match=r"db\.redis\.cluster: .* it is not a node of a cluster"):
        await AsyncChats(server, cluster=True).count_sessions("alice")
    node = redis_cluster.url.replace("+cluster", "").partition(",")[0]
    with pytest.raises(ConfigurationError, match=r"db\.redis\.cluster: .* it is a node of a cluster"):
        await AsyncChats(node).count_sessions("alice")
    with pytest.raises(ConfigurationError, match=r"db\.redis\.url: a cluster has only the database 0"):
        await AsyncChats(f"{redis_cluster.url}/1").count_sessions("alice")


async def _connections(backend: Backend, name: str) -> int:
    """Return how many connections with a name the nodes have."""
    count = 0
    for host in backend.url.removeprefix("redis+cluster://").split(","):
        async with redis.asyncio.Redis.from_url(f"redis://{host}") as client:
            count += sum(found["name"] == name for found in await client.client_list())
    return count


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_services_own_client_of_a_cluster_says_where_the_nodes_are(
    redis_cluster: Backend, protocol: int
) -> None:
    host, port = redis_cluster.url.rpartition(",")[2].split(":")
    name = redis_cluster.options["prefix"]
    async with redis.asyncio.RedisCluster(
        host, int(port), protocol=protocol, decode_responses=protocol == 3, client_name=name
    ) as client:
        before = await _connections(redis_cluster, name)
        async with (
            AsyncChats(backend="redis", client=client, **redis_cluster.options) as chats,
            chats_on(redis_cluster) as others,
        ):
            ids = await fill(chats)
            for user, session_id in ids.items():
                assert await others.get_session(user, session_id) == await chats.get_session(user, session_id)
            assert await _connections(redis_cluster, name) > before
        async with asyncio.timeout(20):
            while await _connections(redis_cluster, name) > before:
                await asyncio.sleep(0.02)
        assert await client.ping(target_nodes="all")


def test_blocking_calls_take_a_client_of_a_cluster(redis_cluster: Backend) -> None:
    host, port = redis_cluster.url.rpartition(",")[2].split(":")
    client = redis.asyncio.RedisCluster(host, int(port))
    with Chats(backend="redis", client=client, **redis_cluster.options) as chats:
        session_id = chats.create_session("alice", messages=[("user", "Hello")])
        assert chats.count_messages("alice", session_id) == 1


async def test_an_error_names_the_nodes_of_a_client_and_no_secret() -> None:
    port = free_port()
    client = redis.asyncio.RedisCluster("127.0.0.1", port, username="service", password="hunter2-Zq9")
    async with AsyncChats(backend="redis", client=client, retry=RetryConfig(max_elapsed=0.1)) as chats:
        with pytest.raises(BackendUnavailableError) as caught:
            await chats.count_sessions("alice")
    assert f"cannot reach Redis at 127.0.0.1:{port}, database 0, as user service" in str(caught.value)
    assert "hunter2" not in repr(caught.value)


async def test_sessions_expire_on_a_cluster(redis_cluster: Backend) -> None:
    async with chats_on(redis_cluster, expire_after=0.2) as chats:
        ids = await fill(chats)
        async with asyncio.timeout(20):
            while any([await chats.get_session(user, each) for user, each in ids.items()]):
                await asyncio.sleep(0.05)
        assert [found async for found in chats.admin.iter_sessions()] == []
        assert [found async for found in chats.admin.iter_users()] == []
        # Anyone may have the ids now.
        assert await chats.ensure_session_exists("alice", ids[USERS[0]])
