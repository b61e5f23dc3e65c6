"""A MongoDB server of its own that asks who is there, with a user for each role."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from pymongo import MongoClient

from tests.support import servers
from tests.support.folders import make_folder
from tests.support.refusals import SECRET as PASSWORD

DATABASE = "agenthub"
ROLES = ("read", "readWrite", "dbAdmin")


@contextmanager
def mongodb_with_users() -> Iterator[int]:
    """Yield the port of a standalone server; its users are named after their roles, and have one password."""
    folder = make_folder("mongo-auth")
    port = servers.free_port()
    command = [*servers.mongod_command(folder, port), "--auth"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        # Waits for the server; without any user yet, who comes from this host may make the first one.
        with MongoClient[dict[str, object]](port=port, serverSelectionTimeoutMS=60_000) as client:
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        with MongoClient[dict[str, object]](port=port, username="root", password=PASSWORD) as client:
            for role in ROLES:
                granted = [role, "readWrite"] if role == "dbAdmin" else [role]
                client[DATABASE].command("createUser", role, pwd=PASSWORD, roles=granted)
        yield port
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
