"""A process that copies a database is killed at random moments; the next run continues."""

from __future__ import annotations

import inspect
import random
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio.to_thread
import pytest

from sessions import ChatMessage, ChatSession
from sessions.cli.copying import Copied, Copy
from tests.faults.killed.copying import Copying, copies
from tests.support.databases import Backend, mongodb_client

# Whole milliseconds, which every backend stores.
THEN = datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC)
# The source and the target; each backend is each once.
PAIRS = [
    ("sqlite", "postgres"),
    ("postgres", "mongodb-standalone"),
    ("mongodb-standalone", "redis"),
    ("redis", "mongodb-replica-set"),
    ("mongodb-replica-set", "sqlite"),
]
FIXTURES = {
    "sqlite": ("sqlite", "sqlite_url"),
    "postgres": ("postgres", "postgres_url"),
    "mongodb-replica-set": ("mongodb", "mongodb_url"),
    "mongodb-standalone": ("mongodb", "mongodb_standalone_url"),
    "redis": ("redis", "redis_url"),
}


@pytest.fixture(scope="module")
def processes() -> Iterator[Copying]:
    with copies() as started:
        yield started


@pytest.fixture(params=PAIRS, ids=lambda pair: " to ".join(pair))
def pair(request: pytest.FixtureRequest) -> tuple[Backend, Backend]:
    found = []
    for name in request.param:
        repository_type, fixture = FIXTURES[name]
        found.append(Backend(name, repository_type, request.getfixturevalue(fixture)))
    return found[0], found[1]


async def fill(repository: Any, sizes: list[int]) -> list[ChatSession]:
    stored = []
    for number, size in enumerate(sizes):
        user_id = f"user {number % 3}"
        owner = ChatSession(str(uuid.uuid4()), f"Chat {number}", user_id, THEN, THEN + timedelta(1))
        messages = [
            ChatMessage(str(uuid.uuid4()), owner.session_id, "user", f"{place}", THEN, {"n": place}, [place])
            for place in range(size)
        ]
        await repository.admin.restore(owner, messages)
        stored.append(owner)
    return stored


async def change(repository: Any, stored: list[ChatSession]) -> None:
    for number, owner in enumerate(stored):
        key = owner.user_id, owner.session_id
        if number % 4 == 0:
            await repository.add_message(owner.session_id, "assistant", "New")
        elif number % 4 == 1:
            await repository.pop_message(*key)
        elif number % 4 == 2:
            await repository.update_session_async(*key, {"title": "Renamed"})
        else:
            await repository.delete_session_async(*key)


APP = f"dying-{uuid.uuid4().hex}"


def as_dying(target: Backend) -> Backend:
    """Return a database whose server can tell the connections of the processes that are killed."""
    if target.repository_type != "mongodb":
        return target
    return replace(target, url=f"{target.url}{'&' if '?' in target.url else '?'}appName={APP}")


async def end_transactions(target: Backend) -> None:
    """End the transactions of a killed process, which a replica set does by itself after 60 seconds."""
    if target.name != "mongodb-replica-set":
        return
    idle: dict[str, Any] = {"allUsers": True, "idleSessions": True}
    theirs = {"type": "idleSession", "appName": APP}
    async with mongodb_client(target.url) as client:
        found = client.admin.aggregate([{"$currentOp": idle}, {"$match": theirs}])
        cursor = await found if inspect.isawaitable(found) else found  # Motor's is none.
        if ids := [{"id": one["lsid"]["id"]} for one in await cursor.to_list(None)]:
            await client.admin.command("killSessions", ids)


async def copied_after_kills(
    processes: Copying, source: Backend, target: Backend, read: Any, written: Any, kills: int
) -> int:
    """Copy with so many kills, then to the end; compare, and return how many processes were killed."""
    killed = 0
    for _ in range(kills):
        run = partial(processes.copy, source, as_dying(target), dies_in=random.randrange(4))
        if not await anyio.to_thread.run_sync(run):
            break  # All was copied before.
        killed += 1
        await end_transactions(target)
    assert not await anyio.to_thread.run_sync(partial(processes.copy, source, target, dies_in=None))
    work = Copy(read, written, prunes=False, milliseconds=True, report=pytest.fail, advance=lambda *_: None)
    await work.compare()
    assert work.totals == Copied(different=0)
    return killed


@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.full_size)])
async def test_a_copy_that_is_killed_loses_and_doubles_nothing(
    processes: Copying, pair: tuple[Backend, Backend], kills: int
) -> None:
    source, target = pair
    async with source.repository() as read, target.repository() as written:
        await written.ensure_ready()
        stored = await fill(read, [3, 0, 12, 1, 4, 9, 2, 3] * (1 + kills // 5))
        assert await copied_after_kills(processes, source, target, read, written, kills)
        await change(read, stored)
        assert await copied_after_kills(processes, source, target, read, written, kills)
