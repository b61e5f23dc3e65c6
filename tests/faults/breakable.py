"""Servers that a test starts and breaks: killed with SIGKILL, and restarted on the same data."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import struct
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import bson
import psutil
import redis
from pymongo import MongoClient

from tests.support import postgres, servers, stray_processes
from tests.support.folders import make_folder

START_SECONDS = 60.0
POLL_SECONDS = 0.02
OP_MSG = 2013


class Server(ABC):
    """A server on 127.0.0.1 that keeps its port and its data when it is restarted."""

    # Whether a restarted server responds before it accepts writes, as a member of a replica set does.
    backend: str

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or servers.free_port()
        self.folder = make_folder("fault")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for the package and for raw drivers."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command that starts the server in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server responds to a ping."""

    user: str | None = None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def start(self) -> float:
        """Start the server and return the monotonic time of its first response."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self.user,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C reaches only the test, which stops its servers.
            )
        # The test stops it, as `running` does; a fixture of several tests may have it started again in one.
        stray_processes.keep(self.process.pid)
        wait_until(self.answers, lambda: self.log.read_text(errors="replace")[-2000:])
        return time.monotonic()

    def kill(self) -> None:
        """Kill the server and all its children with SIGKILL."""
        assert self.process is not None
        processes = [psutil.Process(self.process.pid)]
        # The parent first: it would clean up after its children and restart them.
        processes[0].suspend()
        processes += processes[0].children(recursive=True)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait(30)
        psutil.wait_procs(processes[1:], timeout=30)

    def stop(self) -> None:
        """Stop the server, whatever its state, and remove its data."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def wait_until(
    condition: Callable[[], bool], explain: Callable[[], str], seconds: float = START_SECONDS
) -> None:
    """Wait until a condition holds; otherwise fail with an explanation."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:g} s: {explain()}")
        time.sleep(POLL_SECONDS)


class Postgres(Server):
    """A PostgreSQL on TCP, of the version to test on."""

    backend = "postgres"

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self.settings = settings
        major = postgres.version()
        self.postgres = postgres.binaries(major) / "postgres"
        self.user = postgres.make_cluster(self.folder, major=major)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        # The WAL is flushed at each commit, as by default; the tests depend on it.
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "100"}
        settings |= self.settings
        options = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
        return [str(self.postgres), "-D", str(self.folder / "data"), "-p", str(self.port), *options]

    def answers(self) -> bool:
        async def ping() -> bool:
            try:
                connection = await asyncpg.connect(self.url, timeout=1)
            except (OSError, TimeoutError, asyncpg.PostgresError):
                return False
            await connection.close()
            return True

        return asyncio.run(ping())


class Valkey(Server):
    """A Valkey server that acknowledges a write once it is on the disk."""

    backend = "redis"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        return [*servers.valkey_command(self.folder, self.port), *self.options]

    def answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False


class Mongod(Server):
    """A MongoDB server: a standalone one, or a member of a replica set.

    Args:
        replica_set: Name of the set it belongs to; None for a standalone server.
    """

    def __init__(self, *, replica_set: str | None = None) -> None:
        super().__init__()
        self.replica_set = replica_set
        self.backend = "mongodb-replica-set" if replica_set else "mongodb-standalone"
        (self.folder / "data").mkdir()

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/chat" + (
            f"?replicaSet={self.replica_set}" if self.replica_set else ""
        )

    def command(self) -> list[str]:
        command = servers.mongod_command(self.folder / "data", self.port)
        if self.replica_set:
            command += ["--replSet", self.replica_set]
        return [*command, "--setParameter", "enableTestCommands=1"]

    def answers(self) -> bool:
        return self.hello() is not None

    def hello(self) -> dict[str, Any] | None:
        """Return the current ``hello`` response, or None; a client would poll it only periodically."""
        body = struct.pack("<IB", 0, 0) + bson.encode({"hello": 1, "$db": "admin"})
        header = struct.pack("<iiii", 16 + len(body), 1, 0, OP_MSG)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(header + body)
                reply = _receive(connection, 16)
                reply += _receive(connection, struct.unpack_from("<i", reply)[0] - 16)
        except OSError:
            return None
        return bson.decode(reply[16 + 5 :])

    def is_primary(self) -> bool:
        """Return whether the server accepts writes."""
        return bool((self.hello() or {}).get("isWritablePrimary"))

    @contextmanager
    def client(self) -> Iterator[MongoClient[dict[str, Any]]]:
        """Yield a client with a direct connection to this server."""
        with MongoClient(f"mongodb://127.0.0.1:{self.port}/?directConnection=true") as client:
            yield client


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionResetError
        received += part
    return received


class ReplicaSet:
    """A MongoDB replica set of one or more members, which elect a new primary quickly."""

    backend = "mongodb-replica-set"

    def __init__(self, members: int = 1, *, name: str = "faults") -> None:
        self.name = name
        self.members = [Mongod(replica_set=name) for _ in range(members)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/chat?replicaSet={self.name}"

    def start(self) -> float:
        """Start all members, initiate the set and wait for its primary."""
        for member in self.members:
            member.start()
        hosts = [
            {"_id": number, "host": f"127.0.0.1:{member.port}"} for number, member in enumerate(self.members)
        ]
        settings = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 300}
        with self.members[0].client() as client:
            config = {"_id": self.name, "members": hosts, "settings": settings}
            client.admin.command("replSetInitiate", config)
        self.wait_for_primary()
        return time.monotonic()

    def wait_for_primary(self) -> Mongod:
        """Wait for a primary and return it."""
        found: list[Mongod] = []

        def look() -> bool:
            found[:] = [member for member in self.members if member.is_primary()]
            return bool(found)

        wait_until(look, lambda: "no member became the primary")
        return found[0]

    def stop(self) -> None:
        """Stop all members and remove their data."""
        for member in self.members:
            member.stop()


@contextmanager
def running(*started: Any) -> Iterator[None]:
    """Start servers, and stop them at the end, also after an error."""
    try:
        for server in started:
            server.start()
        yield
    finally:
        for server in started:
            server.stop()
