"""A server that does not respond, or a file that another process locks: a cancelled call ends at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions.testing.open_connections import count_checked_out
from tests.faults.breakable import Mongod, Postgres, ReplicaSet, Valkey
from tests.support.freezers import Freezer, freezable, lockable
from tests.support.timing import within

BACKENDS = ("sqlite", "postgres", "mongodb-replica-set", "mongodb-standalone", "redis")
# Until the test cancels the call, and until the call has ended then.
CANCEL_SECONDS, AT_ONCE = 0.5, 1.5


@pytest.fixture(scope="module")
def postgres() -> Iterator[Freezer]:
    with freezable(Postgres()) as freezer:
        yield freezer


@pytest.fixture(scope="module")
def replica_set() -> Iterator[Freezer]:
    with freezable(ReplicaSet()) as freezer:
        yield freezer


@pytest.fixture(scope="module")
def standalone() -> Iterator[Freezer]:
    with freezable(Mongod()) as freezer:
        yield freezer


@pytest.fixture(scope="module")
def redis() -> Iterator[Freezer]:
    with freezable(Valkey()) as freezer:
        yield freezer


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Freezer]:
    with lockable(tmp_path / "frozen.db") as freezer:
        yield freezer


@pytest.fixture(params=BACKENDS)
def freezer(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    """Each backend."""
    name = {"mongodb-replica-set": "replica_set", "mongodb-standalone": "standalone"}.get(
        request.param, request.param
    )
    found: Freezer = request.getfixturevalue(name)
    yield found
    found.thaw()


async def by_wait_for(call: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call(), CANCEL_SECONDS)


async def by_timeout(call: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            await call()


async def by_move_on_after(call: Callable[[], Awaitable[Any]]) -> None:
    with anyio.move_on_after(CANCEL_SECONDS) as scope:
        await call()
    assert scope.cancelled_caught


async def by_task_group(call: Callable[[], Awaitable[Any]]) -> None:
    """As Starlette does when a client disconnects."""
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await anyio.sleep(CANCEL_SECONDS)
        group.cancel_scope.cancel()


WAYS = [by_wait_for, by_timeout, by_move_on_after, by_task_group]


@contextlib.asynccontextmanager
async def at_once() -> AsyncIterator[None]:
    """Fail if the block takes long, or uses the CPU."""
    computed = time.process_time()
    with within(AT_ONCE):
        yield
    assert time.process_time() - computed < 0.5


async def unused(repository: Any) -> None:
    """Wait until no connection is checked out any more."""
    async with asyncio.timeout(60):
        while count_checked_out(repository):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_call_ends_at_once_and_leaves_nothing_open(
    freezer: Freezer, way: Callable[[Callable[[], Awaitable[Any]]], Awaitable[None]]
) -> None:
    repository = freezer.repository()
    session_id = await repository.create_session_async("user")
    freezer.freeze()

    async with at_once():
        await way(lambda: repository.add_message(session_id, "user", "lost or not"))
    # The background work does not use the CPU either.
    async with at_once():
        await asyncio.sleep(1)

    freezer.thaw()
    await unused(repository)
    await repository.add_message(session_id, "user", "after")
    history = await repository.get_session_history("user", session_id)
    assert [m.content for m in history] in (["after"], ["lost or not", "after"])
    await repository.aclose()


@pytest.mark.parametrize("operation", ["is_healthy", "first_call", "ensure"])
async def test_a_first_call_and_a_health_check_end_at_once_too(freezer: Freezer, operation: str) -> None:
    warm = freezer.repository()
    session_id = await warm.create_session_async("user")
    await warm.aclose()
    repository = freezer.repository()
    calls = {
        "is_healthy": repository.is_healthy,
        "first_call": lambda: repository.add_message(session_id, "user", "text"),
        "ensure": lambda: repository.ensure_session_exists(session_id, "other"),
    }
    freezer.freeze()
    with within(AT_ONCE), contextlib.suppress(TimeoutError, Exception):
        await asyncio.wait_for(calls[operation](), CANCEL_SECONDS)
    freezer.thaw()
    await unused(repository)
    assert await repository.is_healthy()
    await repository.aclose()


async def test_closing_after_a_cancelled_call_is_bounded(freezer: Freezer) -> None:
    repository = freezer.repository()
    session_id = await repository.create_session_async("user")
    freezer.freeze()
    for _ in range(3):
        await by_wait_for(lambda: repository.add_message(session_id, "user", "text"))

    with within(7):
        await repository.aclose()

    assert count_checked_out(repository) == 0
    freezer.thaw()
    await repository.add_message(session_id, "user", "after")
    await repository.aclose()


async def test_no_attempt_begins_after_the_caller_was_cancelled(
    freezer: Freezer, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"sqlite": {"busy_timeout": 1}, "mongodb": {"timeout": 1.5}, "postgres": {}, "redis": {}}
    repository = freezer.repository(**options[freezer.repository_type])
    session_id = await repository.create_session_async("user")
    freezer.freeze()
    await by_wait_for(lambda: repository.add_message(session_id, "user", "text"))
    caplog.clear()  # On a busy machine an attempt may have begun before.
    await asyncio.sleep(2.5)
    freezer.thaw()
    assert [record for record in caplog.records if "attempt" in record.message] == []
    await repository.aclose()
