"""URLs, clients, settings and checks of a Redis server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from sessions import (
    AsyncChats,
    BackendUnavailableError,
    ConfigurationError,
    NewMessage,
    SessionRepositoryFactory,
)
from sessions.backends.redis.client import RedisConnection
from sessions.backends.redis.commands import Waits
from sessions.backends.redis.connection import RedisConnectionManager
from sessions.core.telemetry import PoolMeter, Target
from tests.support.databases import Backend
from tests.support.servers import free_port
from tests.support.servers import redis as valkey

SECRET = "hunter2-Zq9"


def connect(url: str, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("redis", url=url, **options)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://host", "must start with redis://, rediss://, valkey:// or unix://"),
        (f"redis://user:{SECRET}@host:port/0", "is not a URL of a server"),
        (f"redis://user:{SECRET}/x@host/0", "is not a URL of a server; percent-encode"),
        (f"redis://user:{SECRET}@host/chats", "the path must be the number of a database"),
        (f"redis://user:{SECRET}@host?retry=1", "the parameter retry is unknown"),
        ("unix://", "needs the path of the server's socket"),
    ],
)
async def test_a_wrong_url_names_its_part_and_no_secret(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await connect(url).count_sessions("alice")
    assert str(caught.value).startswith(f"db.redis.url: {text}")
    assert SECRET not in repr(caught.value)


async def test_a_refused_connection_names_the_server_and_no_secret() -> None:
    port = free_port()
    repository = connect(f"redis://user:{SECRET}@127.0.0.1:{port}/3")
    assert SECRET not in f"{repository!r} {repository._connection_manager._settings!r}"
    with pytest.raises(BackendUnavailableError) as caught:
        await repository.count_sessions("alice")
    assert f"cannot reach Redis at 127.0.0.1:{port}, database 3, as user user" in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_prefixes_and_numbers_separate_what_is_stored(redis_url: str) -> None:
    async with AsyncChats(redis_url) as chats, AsyncChats(redis_url, prefix="other") as others:
        session_id = await chats.create_session("alice")
        await others.ensure_session_exists("bob", session_id)
        assert await others.count_sessions("alice") == 0
        assert await chats.get_session("bob", session_id) is None


@pytest.mark.parametrize("prefix", ["", "a{b}", "a b", "x" * 101])
def test_a_prefix_is_a_word_without_braces(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"db\.redis\.prefix"):
        connect("redis://host", prefix=prefix)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True])
async def test_a_services_own_client_is_used_and_stays_open(
    redis_url: str, protocol: int, decode: bool
) -> None:
    async with redis.asyncio.Redis.from_url(
        redis_url, protocol=protocol, decode_responses=decode, max_connections=3
    ) as client:
        async with AsyncChats(backend="redis", client=client) as chats:
            session_id = await chats.create_session("alice", metadata={"größe": 2**60})
            await asyncio.gather(*(chats.add_message("alice", session_id, "user", "ä") for _ in range(9)))
            found = await chats.get_session("alice", session_id)
            assert found is not None
            assert (found.metadata, found.version) == ({"größe": 2**60}, 9)
            assert len(await chats.get_session_history("alice", session_id)) == 9
        assert await client.ping()
        assert client.connection_pool.connection_kwargs["protocol"] == protocol


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "UTF8"])
async def test_a_services_own_client_may_have_another_encoding(redis_url: str, encoding: str) -> None:
    async with (
        redis.asyncio.Redis.from_url(redis_url, encoding=encoding) as client,
        AsyncChats(backend="redis", client=client) as chats,
        AsyncChats(redis_url) as others,
    ):
        session_id = await chats.create_session("ä", title="日", messages=[("user", "größe €")])
        assert await others.get_session_history("ä", session_id) == await chats.get_session_history(
            "ä", session_id
        )


@pytest.mark.parametrize("client", [object(), redis.Redis()])
async def test_what_is_no_asyncio_client_of_redis_py_is_refused(client: Any) -> None:
    named = re.escape(f"RedisCluster, not a {type(client).__module__}.{type(client).__name__}")
    with pytest.raises(ConfigurationError, match=rf"client: must be a redis\.asyncio\.Redis or .*{named}"):
        SessionRepositoryFactory.create_repository("redis", client=client)


@pytest.fixture(scope="module")
def secured() -> Any:
    """A server with a password and an append-only file that is written each second."""
    with valkey("--requirepass", SECRET, "--appendonly", "yes", "--appendfsync", "everysec") as url:
        yield url


async def test_a_password_is_text_or_asked_for_each_connection(secured: str) -> None:
    port = int(secured.rpartition(":")[2])
    asked = []

    async def password() -> str:
        asked.append(1)
        return SECRET

    url = secured.replace("//", f"//:{SECRET}@") + "/0"
    for options in ({"url": url}, {"port": port, "password": SECRET}, {"port": port, "password": password}):
        async with SessionRepositoryFactory.create_repository("redis", **options) as repository:
            assert await repository.count_sessions("alice") == 0
    assert asked == [1]


@pytest.mark.parametrize("password", [None, f"not-{SECRET}"])
async def test_a_refused_password_is_a_wrong_setting(secured: str, password: str | None) -> None:
    port = int(secured.rpartition(":")[2])
    repository = SessionRepositoryFactory.create_repository("redis", port=port, password=password)
    with pytest.raises(ConfigurationError, match=r"db\.redis\.password: cannot use Redis at") as caught:
        await repository.count_sessions("alice")
    assert SECRET not in str(caught.value)
    assert not await repository.is_healthy()


async def test_a_server_that_may_lose_what_it_acknowledged_is_warned_of_once_or_refused(
    secured: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = secured.replace("//", f"//:{SECRET}@") + "/0"
    manager = RedisConnectionManager(url=url)
    for _ in range(2):
        await manager.make_ready()
    await manager.aclose()
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.endswith("acknowledged writes of about the last second: appendfsync is everysec")
    durable = connect(url, require_durable=True)
    with pytest.raises(ConfigurationError, match=r"db\.redis\.require_durable: .* appendfsync is everysec"):
        await durable.count_sessions("alice")
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.config_set("appendfsync", "always")
        assert await durable.count_sessions("alice") == 0
        await client.config_set("appendfsync", "everysec")
    await durable.aclose()


async def test_a_server_that_evicts_keys_is_refused(secured: str) -> None:
    url = secured.replace("//", f"//:{SECRET}@") + "/0"
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigurationError, match=r"maxmemory-policy is allkeys-lru, which deletes"):
            await RedisConnectionManager(url=url).make_ready()
        await client.config_set("maxmemory-policy", "noeviction")


async def test_a_full_server_refuses_writes_changes_nothing_and_goes_on_reading(secured: str) -> None:
    url = secured.replace("//", f"//:{SECRET}@") + "/0"
    async with redis.asyncio.Redis.from_url(url) as client, AsyncChats(url) as chats:
        session_id = await chats.create_session("alice", messages=[("user", "before")])
        await client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(BackendUnavailableError, match=r"it has reached maxmemory \(OOM\)"):
                await chats.add_message("alice", session_id, "user", "x")
            assert not await chats.is_healthy()
            [message] = await chats.get_session_history("alice", session_id)
            assert message.content == "before"
            found = await chats.get_session("alice", session_id)
            assert found is not None
            assert found.version == 0
            # So does a process that connects now.
            async with AsyncChats(url) as others:
                assert await others.get_session_history("alice", session_id) == [message]
                with pytest.raises(BackendUnavailableError, match=r"\(OOM\)"):
                    await others.repository.ensure_ready()
                assert await others.delete_session("alice", session_id)
        finally:
            await client.config_set("maxmemory", "0")
        assert await chats.is_healthy()
        assert await client.dbsize() == 0


def documented_rules() -> list[str]:
    """Return the rules of a user, as the guide shows them: of a server, and those that a cluster adds."""
    text = Path(__file__, "../../../docs/guides/redis.md").resolve().read_text("utf-8")
    return re.findall(r"`((?:~|\+cluster)[^`]+)`", text)


async def use_everything(chats: AsyncChats) -> None:
    """Call operations of each kind, which are scripts and commands."""
    session_id = await chats.create_session("alice", messages=[("user", "Hello")])
    await chats.add_message("alice", session_id, "user", "Hello")
    await chats.repository.add_messages(session_id, [NewMessage("user", "Hi", message_id="given")])
    await chats.update_session("alice", session_id, merge_metadata={"a": 1})
    await chats.fork_session("alice", session_id)
    await chats.pop_message("alice", session_id)
    assert await chats.count_sessions("alice", where={"a": 1}) == 1
    assert len((await chats.list_session_previews("alice")).previews) == 2
    assert len((await chats.search_messages("alice", "hello")).hits) == 4
    assert [user async for user in chats.admin.iter_users()] == ["alice"]
    assert (await chats.admin.statistics()).sessions == 2
    assert await chats.is_healthy()
    assert await chats.delete_user("alice") == 2


@pytest.mark.parametrize("options", [{}, {"expire_after": 1000.0}])
async def test_a_user_of_the_server_needs_only_the_documented_rules(
    secured: str, options: dict[str, Any]
) -> None:
    rules, _ = documented_rules()
    url = secured.replace("//", f"//:{SECRET}@") + "/0"
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.execute_command("ACL SETUSER", "service", "reset", "on", ">pass", *rules.split())
        own = secured.replace("//", "//service:pass@") + "/0"
        async with AsyncChats(own, **options) as chats:
            await use_everything(chats)
        async with AsyncChats(own, prefix="another") as others:
            with pytest.raises(ConfigurationError, match="NOPERM"):
                await others.create_session("alice")
        await client.execute_command("ACL SETUSER", "service", "-time")
        async with AsyncChats(own, **options) as chats:
            with pytest.raises(ConfigurationError, match="NOPERM"):
                await chats.count_sessions("alice")


async def test_a_user_of_a_cluster_needs_only_the_documented_rules(redis_cluster: Backend) -> None:
    hosts = redis_cluster.url.removeprefix("redis+cluster://")
    name, prefix = f"user-{redis_cluster.options['prefix']}", redis_cluster.options["prefix"]
    rules = " ".join(documented_rules()).replace("~sessions:", f"~{prefix}:").split()
    for host in hosts.split(","):
        async with redis.asyncio.Redis.from_url(f"redis://{host}") as client:
            await client.execute_command("ACL SETUSER", name, "reset", "on", ">pass", *rules)
    async with AsyncChats(f"redis+cluster://{name}:pass@{hosts}", prefix=prefix) as chats:
        await use_everything(chats)
    for host in hosts.split(","):
        async with redis.asyncio.Redis.from_url(f"redis://{host}") as client:
            await client.execute_command("ACL SETUSER", name, "-cluster|slots")
    async with AsyncChats(f"redis+cluster://{name}:pass@{hosts}", prefix=f"{prefix}:") as chats:
        with pytest.raises(ConfigurationError, match="NOPERM"):
            await chats.count_sessions("alice")


async def test_a_node_of_a_cluster_is_refused() -> None:
    refused = pytest.raises(ConfigurationError, match="it is a node of a cluster")
    options = ("--cluster-enabled", "yes", "--databases", "1", "--cluster-port", str(free_port()))
    with valkey(*options) as url, refused:
        await connect(url).count_sessions("alice")


async def test_a_connection_that_opens_during_a_close_is_closed_after_its_call(redis_url: str) -> None:
    async with contextlib.aclosing(redis.asyncio.ConnectionPool.from_url(redis_url)) as pool:
        server = RedisConnection(pool, "chats", "", 1, Waits(5, 5, 5), 0, PoolMeter(Target("redis")))
        closed, opened = asyncio.Event(), []
        get_connection = pool.get_connection

        async def get_late() -> Any:
            await closed.wait()
            opened.append(await get_connection())
            return opened[0]

        pool.get_connection = get_late
        call = asyncio.create_task(server.command("", "PING"))
        await asyncio.sleep(0)
        await server.close_pool()
        closed.set()
        assert await call == "PONG"
        assert [connection.is_connected for connection in opened] == [False]
