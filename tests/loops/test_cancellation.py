"""Cancelled at random points, a call leaves nothing checked out, poisoned or open."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sessions import NewMessage
from tests.loops.shapes import Counter, settled
from tests.support.databases import Backend, run_in_thread

PAIR = [("user", "a"), ("assistant", "b")]
PAST = datetime(2001, 1, 1, tzinfo=UTC)


async def _in_a_fork(repository: Any, session_id: str, operation: str, *arguments: Any) -> None:
    """Call an operation that takes messages away on a copy of the session's first ones."""
    [first, *_] = await repository.get_session_history("user", session_id, since=PAST, limit=1)
    fork_id = await repository.fork_session("user", session_id, through=first.message_id)
    await getattr(repository, operation)("user", fork_id, *arguments)


OPERATIONS: dict[str, Callable[[Any, str], Awaitable[Any]]] = {
    "create_session": lambda r, _: r.create_session_async("user", {"metadata": {"a": [1]}}),
    "ensure_session_exists": lambda r, _: r.ensure_session_exists(str(uuid.uuid4()), "user"),
    "get_session": lambda r, sid: r.get_session("user", sid),
    "update_session": lambda r, sid: r.update_session_async("user", sid, {"title": "other"}),
    "add_message": lambda r, sid: r.add_message(sid, "user", "text"),
    "add_messages": lambda r, sid: r.add_messages(sid, [("user", "a"), ("assistant", "b")]),
    "add_many_messages": lambda r, sid: r.add_messages(sid, [("user", "x" * 3000)] * 100),
    "get_session_history": lambda r, sid: r.get_session_history("user", sid, limit=100),
    "list_sessions": lambda r, _: r.list_sessions("user", limit=100),
    "list_paginated_sessions": lambda r, _: r.list_paginated_sessions_async("user"),
    "count_sessions": lambda r, _: r.count_sessions("user"),
    "delete_session": lambda r, sid: r.delete_session_async("other", sid),
    "keep_latest_sessions": lambda r, _: r.keep_latest_sessions("user", 20),
    "delete_sessions_older_than": lambda r, _: r.delete_sessions_older_than(datetime(2000, 1, 1, tzinfo=UTC)),
    "delete_user": lambda r, _: r.delete_user("nobody"),
    "create_session, with messages": lambda r, _: r.create_session_async("user", messages=PAIR),
    "update_session, merging": lambda r, sid: r.update_session_async(
        "user", sid, merge_metadata={"merged": str(uuid.uuid4())}, remove_metadata=["none"], touch=False
    ),
    "list_session_previews": lambda r, _: r.list_session_previews("user", limit=100),
    "list_sessions, where": lambda r, _: r.list_sessions("user", where={"a": None}),
    "add_messages, merging": lambda r, sid: r.add_messages(
        sid, [NewMessage("user", "a", message_id=uuid.uuid4()), PAIR[1]], merge_metadata={"with": "a"}
    ),
    "add_message, of the past": lambda r, sid: r.add_message(
        sid, "tool", "past", timestamp=PAST, metadata={"a": 1}, payload=[1]
    ),
    "get_session_history, since": lambda r, sid: r.get_session_history("user", sid, since=PAST, limit=10),
    "get_session_payloads": lambda r, sid: r.get_session_payloads("user", sid),
    "count_messages": lambda r, sid: r.count_messages("user", sid),
    "get_message": lambda r, sid: r.get_message("user", sid, uuid.uuid4()),
    "update_message": lambda r, sid: r.update_message("user", sid, uuid.uuid4(), content="x"),
    "delete_messages": lambda r, sid: r.delete_messages("user", sid, [uuid.uuid4()]),
    "pop_message": lambda r, sid: _in_a_fork(r, sid, "pop_message"),
    "clear_messages": lambda r, sid: _in_a_fork(r, sid, "clear_messages"),
    "replace_messages": lambda r, sid: _in_a_fork(r, sid, "replace_messages", PAIR),
    "search_messages": lambda r, sid: r.search_messages("user", "text", session_id=sid),
}


async def open_transactions(backend: Backend) -> int:
    """Return how many transactions the server holds open in the test's database."""
    import asyncpg

    connection = await asyncpg.connect(backend.url)
    try:
        found: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%'"
        )
        return found
    finally:
        await connection.close()


@pytest.mark.parametrize("rounds", [210, pytest.param(700, marks=pytest.mark.full_size)])
@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_cancellation_at_random_points_never_harms_later_calls(
    shape: tuple[Backend, Counter], how: str, rounds: int
) -> None:
    backend, count = shape
    chance = random.Random(20261122)
    limits = {"pool_size": 2} | (
        {"max_overflow": 0} if backend.repository_type in ("postgres", "sqlite") else {}
    )
    repository = backend.repository(pool_timeout=20, **limits)
    session_id = await repository.create_session_async("user")
    await repository.add_message(session_id, "user", "first", timestamp=PAST)
    durations: dict[str, float] = {}
    for name, operation in list(OPERATIONS.items()) * 3:
        started = asyncio.get_running_loop().time()
        await operation(repository, session_id)
        taken = asyncio.get_running_loop().time() - started
        # The shortest: other load on the machine must not make the cancellations come too late.
        durations[name] = min(taken, durations.get(name, taken))
    cut = 0
    for number in itertools.count():
        if number >= rounds and cut > rounds / 4:
            break
        name = list(OPERATIONS)[number % len(OPERATIONS)]
        delay = chance.uniform(0, durations[name] * 1.2)
        started = asyncio.get_running_loop().time()
        try:
            if how == "timeout":
                async with asyncio.timeout(delay):
                    await OPERATIONS[name](repository, session_id)
            else:
                task = asyncio.ensure_future(OPERATIONS[name](repository, session_id))
                await asyncio.sleep(delay)
                task.cancel()
                await task
        except (TimeoutError, asyncio.CancelledError):
            cut += 1
        else:
            durations[name] = min(asyncio.get_running_loop().time() - started, durations[name])
    if backend.name == "postgres":
        assert run_in_thread(open_transactions, backend) == 0
    # All at once, so that every connection of the pool is used.
    for operation in OPERATIONS.values():
        await asyncio.gather(*(operation(repository, session_id) for _ in range(3)))
    contents = [m.content for m in await repository.get_session_history("user", session_id)]
    batches = [contents[i : i + 2] for i, text in enumerate(contents) if text == "a"]
    assert all(batch == ["a", "b"] for batch in batches)
    assert contents.count("x" * 3000) % 100 == 0
    await repository.aclose()
    assert settled(count, 0) == 0


async def test_cancelled_first_calls_leave_a_working_repository(shape: tuple[Backend, Counter]) -> None:
    backend, count = shape
    for milliseconds in range(0, 60, 6):
        repository = backend.repository()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(milliseconds / 1000):
                await repository.create_session_async("user")
        await repository.aclose()
    repository = backend.repository()
    session_id = await repository.create_session_async("last")
    await repository.add_message(session_id, "user", "text")
    assert await repository.count_sessions("last") == 1
    await repository.aclose()
    assert settled(count, 0) == 0
