"""Servers behind a socket, behind sentinels, and with TLS."""

from __future__ import annotations

import asyncio
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from sessions import AsyncChats, BackendUnavailableError, ConfigurationError, SessionRepositoryFactory
from sessions.backends.redis.connection import RedisConnectionManager
from tests.faults.breakable import Valkey, running, wait_until
from tests.support.folders import folder
from tests.support.servers import free_port
from tests.support.servers import redis as valkey

SECRET = "hunter2-Zq9"


async def works(url: str, **options: Any) -> None:
    async with AsyncChats(url, **options) as chats:
        session_id = await chats.create_session("alice", messages=[("user", "Hello")])
        assert await chats.count_messages("alice", session_id) == 1
        assert await chats.delete_session("alice", session_id)


async def test_a_socket_is_a_server_too() -> None:
    with folder("redis-socket") as place, valkey("--unixsocket", f"{place}/socket"):
        await works(f"unix://{place}/socket?db=3")


@pytest.mark.parametrize("scheme", ["redis", "valkey", "REDIS"])
async def test_valkey_is_another_name(redis_url: str, scheme: str) -> None:
    await works(redis_url.replace("redis", scheme, 1))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis+nothing://host", "must start with redis://"),
        ("unix+cluster:///socket", "must start with redis://"),
        ("redis+cluster://host:1,host:port", "is not a URL of a server"),
        ("redis+cluster://host:1,host:2/3", "a cluster has only the database 0"),
        ("redis+sentinel://host:1,host:2", "needs the name of the primary after the sentinels: /mymaster"),
        ("redis+sentinel://host/primary/chats", "the path must be the number of a database"),
        (f"redis+sentinel://host/primary/0?sentinel_pass={SECRET}", "the parameter sentinel_pass is unknown"),
        (f"redis+cluster://user:{SECRET}/x@host,host", "is not a URL of a server; percent-encode"),
    ],
)
async def test_a_wrong_url_of_several_servers_names_its_part(url: str, text: str) -> None:
    repository = SessionRepositoryFactory.create_repository("redis", url=url)
    with pytest.raises(ConfigurationError, match=rf"^db\.redis\.url: {re.escape(text)}") as caught:
        await repository.count_sessions("alice")
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis+cluster://one:1,two:2", "one:1,two:2"),
        ("redis+cluster://one,two", "one:6379,two:6379"),
        ("redis+sentinel://one:1,two/primary/4", "primary of one:1,two:26379, database 4"),
        ("rediss+sentinel://user:secret@[::1]:1/a%20b", "a b of ::1:1, database 0, as user user"),
        ("unix:///tmp/socket", "/tmp/socket, database 0"),
    ],
)
def test_an_error_names_all_servers_of_a_url(url: str, address: str) -> None:
    assert str(RedisConnectionManager(url=url)._place()).startswith(f"Redis at {address}")


def test_what_no_cluster_has_is_refused() -> None:
    for options in ({"url": "unix:///socket"}, {"url": "redis+sentinel://host/primary"}):
        manager = RedisConnectionManager(cluster=True, **options)
        with pytest.raises(ConfigurationError, match=r"^db\.redis\.cluster: needs the hosts of nodes"):
            asyncio.run(manager.make_ready())


# -- Sentinels -------------------------------------------------------------------------------------


@contextmanager
def sentinels(primary: Valkey, password: str) -> Iterator[list[int]]:
    """Yield the ports of three sentinels of a server."""
    ports = [free_port() for _ in range(3)]
    with folder("sentinels") as place, ExitStack() as started:
        for port in ports:
            file = Path(place, f"{port}.conf")
            file.write_text(
                f"port {port}\nbind 127.0.0.1\nrequirepass {password}\nsentinel sentinel-pass {password}\n"
                f"sentinel monitor primary 127.0.0.1 {primary.port} 2\n"
                "sentinel down-after-milliseconds primary 1000\nsentinel failover-timeout primary 5000\n"
            )
            process = subprocess.Popen(
                [primary.command()[0], str(file), "--sentinel"],
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
            started.callback(process.wait, 30)
            started.callback(process.terminate)
        for port in ports:
            with redis.Redis(port=port, password=password, retry=None) as client:
                condition = functools.partial(_knows_all, client)
                wait_until(condition, lambda: "the sentinels do not know one another")
        yield ports


def _knows_all(sentinel: redis.Redis) -> bool:
    try:
        state = sentinel.sentinel_master("primary")
    except redis.RedisError:
        return False
    return state["num-other-sentinels"] == 2 and state["num-slaves"] == 1


@pytest.mark.full_size
async def test_the_server_that_sentinels_name_is_used_also_after_a_failover() -> None:
    primary = Valkey()
    replica = Valkey("--replicaof", "127.0.0.1", str(primary.port))
    with running(primary, replica), sentinels(primary, "secret") as ports:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"redis+sentinel://{hosts}/primary/0?sentinel_password=secret"
        async with AsyncChats(url, wait_replicas=1) as chats:
            session_id = await chats.create_session("alice", messages=[("user", "before")])
            primary.kill()
            async with asyncio.timeout(60):
                # Each ends within its bound; the new primary has no replica that would receive a write.
                while True:
                    try:
                        await chats.get_session_history("alice", session_id)
                        break
                    except BackendUnavailableError:
                        await asyncio.sleep(0.1)
            history = await chats.get_session_history("alice", session_id)
            assert [message.content for message in history] == ["before"]
            with pytest.raises(BackendUnavailableError, match=r"than db\.redis\.wait_replicas received"):
                await chats.add_message("alice", session_id, "user", "alone")
        async with AsyncChats(url) as chats:
            await chats.add_message("alice", session_id, "user", "after")
            # A write that too few replicas received is stored, once.
            history = await chats.get_session_history("alice", session_id)
            assert [message.content for message in history] == ["before", "alone", "after"]


# -- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server() -> Iterator[tuple[int, Path]]:
    """The port of a Redis server with TLS, and the file of its authority."""
    binary = shutil.which("redis-server")
    assert binary is not None, "apt-get install redis-server"
    authority, port = trustme.CA(), free_port()
    certificate = authority.issue_cert("127.0.0.1")
    with folder("redis-tls") as place:
        authority.cert_pem.write_to_path(f"{place}/ca.pem")
        certificate.private_key_pem.write_to_path(f"{place}/key.pem")
        certificate.cert_chain_pems[0].write_to_path(f"{place}/cert.pem")
        options = ["--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--dir", str(place)]
        options += ["--tls-cert-file", f"{place}/cert.pem", "--tls-key-file", f"{place}/key.pem"]
        options += ["--tls-ca-cert-file", f"{place}/ca.pem", "--tls-auth-clients", "no", "--save", ""]
        process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            client = redis.Redis("127.0.0.1", port, ssl=True, ssl_ca_certs=f"{place}/ca.pem")
            wait_until(lambda: _answers(client), lambda: "redis-server does not respond")
            client.close()
            yield port, Path(place)
        finally:
            process.terminate()
            process.wait(30)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.mark.redis_server
async def test_a_server_with_tls_is_used_if_its_certificate_is_trusted(tls_server: tuple[int, Path]) -> None:
    port, place = tls_server
    await works(f"rediss://127.0.0.1:{port}?ssl_ca_certs={place}/ca.pem")
    await works(f"valkeys://127.0.0.1:{port}?ssl_ca_certs={place}/ca.pem")
    # Without its check, which is the caller's decision.
    await works(f"rediss://127.0.0.1:{port}?ssl_cert_reqs=none&ssl_check_hostname=false")


@pytest.mark.redis_server
@pytest.mark.parametrize("address", ["rediss://127.0.0.1:{port}", "redis://127.0.0.1:{port}"])
async def test_a_certificate_that_is_not_trusted_is_refused(
    tls_server: tuple[int, Path], address: str
) -> None:
    url = address.format(port=tls_server[0])
    async with AsyncChats(url, connect_timeout=2.0, timeout=2.0) as chats:
        with pytest.raises(BackendUnavailableError, match="cannot reach Redis at 127"):
            await chats.count_sessions("alice")


@pytest.mark.redis_server
async def test_a_certificate_of_another_host_is_refused(tls_server: tuple[int, Path]) -> None:
    port, place = tls_server
    async with AsyncChats(f"rediss://localhost:{port}?ssl_ca_certs={place}/ca.pem") as chats:
        with pytest.raises(BackendUnavailableError, match="cannot reach Redis at localhost"):
            await chats.count_sessions("alice")
