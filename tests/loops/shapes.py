"""Counts the connections that a server has open for the test."""

from __future__ import annotations

import gc
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis
from pymongo import MongoClient

from tests.support.databases import OF_THE_TESTS, Backend, run_in_thread

Counter = Callable[[], int]
SHAPES = ("sqlite", "postgres", "mongodb-replica-set", "mongodb-standalone", "redis")


def on_each_shape(programs: dict[str, str], on_standalone: str) -> list[Any]:
    """Return parameters, a shape and a program: on MongoDB's second kind one, and the others at full size."""
    return [
        pytest.param(
            shape,
            program,
            id=f"{shape}-{name}",
            marks=[pytest.mark.full_size] if shape == "mongodb-standalone" and name != on_standalone else [],
        )
        for name, program in programs.items()
        for shape in SHAPES
    ]


def count_postgres(url: str) -> int:
    async def count() -> int:
        connection = await asyncpg.connect(url)
        try:
            found: int = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return found
        finally:
            await connection.close()

    result: int = run_in_thread(count)
    return result


def count_mongodb(url: str, app_name: str) -> int:
    with MongoClient(url) as client:
        operations = client.admin.aggregate(
            [
                {"$currentOp": {"allUsers": True, "idleConnections": True}},
                {"$match": {"clientMetadata.application.name": app_name}},
            ]
        )
        return len(list(operations))


def count_redis(url: str) -> int:
    number = url.rpartition("/")[2]
    with redis.Redis.from_url(f"{url.removesuffix(number)}0") as client:
        return sum(found["db"] == number and found["name"] != OF_THE_TESTS for found in client.client_list())


def count_sqlite(path: str) -> int:
    """Count this process's descriptors of the database file itself."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return links.count(path)


def settled(counter: Counter, expected: int, seconds: float = 60.0) -> int:
    """Return the count once it is at most ``expected``, or the count after some seconds: servers lag."""
    deadline = time.monotonic() + seconds
    while (count := counter()) > expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return count


def collected(count: Counter) -> Counter:
    """Return a counter that collects garbage first; a driver's thread may hold a connection for a moment."""

    def counter() -> int:
        gc.collect()
        return count()

    return counter


def shape_of(name: str, url: str) -> tuple[Backend, Counter]:
    """Return a backend and the counter of its connections."""
    if name == "sqlite":
        path = url.removeprefix("sqlite:///")
        return Backend(name, "sqlite", url), lambda: count_sqlite(path)
    if name == "postgres":
        return Backend(name, "postgres", url), lambda: count_postgres(url)
    if name == "redis":
        return Backend(name, "redis", url), lambda: count_redis(url)
    app_name = f"test-{uuid.uuid4().hex[:12]}"
    own_url = f"{url}{'&' if urlsplit(url).query else '?'}appName={app_name}"
    return Backend(name, "mongodb", own_url), lambda: count_mongodb(url, app_name)
