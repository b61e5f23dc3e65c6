"""Appends of many callers at once leave together, and each caller gets what it gets alone."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import MessageConflictError, NewMessage, SessionNotFoundError
from sessions.core import group_commit
from tests.support.databases import Backend
from tests.support.wire import Wire, counted

CALLERS = 64
USER = "alice"


async def history(repository: Any, session_id: str) -> list[Any]:
    found: list[Any] = await repository.get_session_history(USER, session_id)
    return found


async def test_each_acknowledged_message_is_stored_once_and_in_its_callers_order(repository: Any) -> None:
    session_ids = [await repository.create_session_async(USER) for _ in range(10)]
    ids: dict[str, list[str]] = defaultdict(list)

    async def caller(number: int) -> None:
        session_id = session_ids[number % len(session_ids)]
        for turn in range(4):
            owner = {"user_id": USER} if number % 2 else {}
            if turn % 2:
                batch = [("user", f"{number}/{turn}/{part}") for part in range(2)]
                ids[session_id] += await repository.add_messages(session_id, batch, **owner)
            else:
                added = await repository.add_message(session_id, "user", f"{number}/{turn}/0", **owner)
                ids[session_id].append(added)

    await asyncio.gather(*map(caller, range(CALLERS)))
    for session_id in session_ids:
        found = await history(repository, session_id)
        assert sorted(message.message_id for message in found) == sorted(ids[session_id])
        places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for message in found:
            number, turn, part = message.content.split("/")
            places[number].append((int(turn), int(part)))
        assert all(in_order == sorted(in_order) for in_order in places.values())
        chat_session = await repository.get_session(USER, session_id)
        calls = 4 * len(places)
        assert chat_session.version == calls
        assert chat_session.updated_at >= found[-1].timestamp


async def test_all_that_a_message_holds_is_stored_in_a_batch(repository: Any) -> None:
    session_ids = [await repository.create_session_async(USER) for _ in range(8)]
    given = datetime(2001, 1, 1, tzinfo=UTC)

    def message(number: int) -> NewMessage:
        return NewMessage(
            "tool" if number % 2 else "assistant",
            f"content {number}",
            message_id=uuid.uuid4() if number % 3 else None,
            timestamp=given + timedelta(seconds=number) if number % 5 else None,
            metadata={"model": "m", "usage.input_tokens": number} if number % 7 else None,
            payload={"number": number, "nan": [1, None]} if number % 2 else None,
        )

    messages = [message(number) for number in range(CALLERS)]
    added = await asyncio.gather(
        *(
            repository.add_messages(session_ids[number % len(session_ids)], [each])
            for number, each in enumerate(messages)
        )
    )
    for place, session_id in enumerate(session_ids):
        found = {message.message_id: message for message in await history(repository, session_id)}
        for number in range(place, CALLERS, len(session_ids)):
            stored, wanted = found.pop(added[number][0]), messages[number]
            assert (stored.role, stored.content) == (wanted.role, wanted.content)
            assert wanted.message_id in (None, uuid.UUID(stored.message_id))
            assert (stored.metadata, stored.payload) == (wanted.metadata or {}, wanted.payload)
            assert wanted.timestamp in (None, stored.timestamp)
        assert not found


async def test_what_fails_fails_for_its_own_caller_only(repository: Any) -> None:
    session_id = await repository.create_session_async(USER)
    foreign = await repository.create_session_async("bob")
    taken = await repository.add_message(session_id, "user", "taken", message_id=uuid.uuid4())

    async def call(number: int) -> str:
        content = f"content {number}"
        if number % 8 == 1:
            return str(await repository.add_message(str(uuid.uuid4()), "user", content))
        if number % 8 == 3:
            return str(await repository.add_message(foreign, "user", content, user_id=USER))
        if number % 8 == 5:
            return str(await repository.add_message(session_id, "user", "taken", message_id=taken))
        if number % 8 == 7:
            return str(await repository.add_message(session_id, "user", content, message_id=taken))
        return str(await repository.add_message(session_id, "user", content, user_id=USER))

    results = await asyncio.gather(*map(call, range(CALLERS)), return_exceptions=True)
    for number, result in enumerate(results):
        if number % 8 in (1, 3):
            assert type(result) is SessionNotFoundError
        elif number % 8 == 5:
            assert result == taken
        elif number % 8 == 7:
            assert type(result) is MessageConflictError
        else:
            assert isinstance(result, str)
    stored = [message.content for message in await history(repository, session_id)]
    assert sorted(stored) == sorted(["taken"] + [f"content {number}" for number in range(0, CALLERS, 2)])
    assert await repository.get_session_history("bob", foreign) == []
    assert (await repository.get_session(USER, session_id)).version == 1 + CALLERS // 2


async def test_the_same_message_sent_many_times_at_once_is_stored_once(repository: Any) -> None:
    session_id = await repository.create_session_async(USER)
    ids = [str(uuid.uuid4()) for _ in range(4)]

    async def call(number: int) -> str:
        message_id = ids[number % len(ids)]
        return str(await repository.add_message(session_id, "user", message_id, message_id=message_id))

    assert await asyncio.gather(*map(call, range(CALLERS))) == ids * (CALLERS // len(ids))
    assert sorted(message.content for message in await history(repository, session_id)) == sorted(ids)
    assert (await repository.get_session(USER, session_id)).version == len(ids)


async def test_cancelled_callers_leave_the_others_alone(repository: Any) -> None:
    session_ids = [await repository.create_session_async(USER) for _ in range(8)]
    chosen = random.Random(1)
    for _ in range(5):
        contents = [str(uuid.uuid4()) for _ in range(CALLERS)]
        tasks = [
            asyncio.create_task(repository.add_message(session_ids[number % 8], "user", content))
            for number, content in enumerate(contents)
        ]
        await asyncio.sleep(chosen.uniform(0, 0.005))
        cancelled = [number for number in range(CALLERS) if chosen.random() < 0.5]
        for number in cancelled:
            tasks[number].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        stored = {
            message.content for session_id in session_ids for message in await history(repository, session_id)
        }
        for number, (content, result) in enumerate(zip(contents, results, strict=True)):
            if isinstance(result, str):
                assert content in stored
            else:
                assert number in cancelled
                assert isinstance(result, asyncio.CancelledError)
    assert await repository.add_message(session_ids[0], "user", "after")


async def test_one_connection_serves_many_appends_and_reads(backend: Backend) -> None:
    async with backend.repository(pool_size=1) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(8)]
        calls = [
            repository.add_message(session_ids[number % 8], "user", str(number)) for number in range(CALLERS)
        ]
        reads = [history(repository, session_id) for session_id in session_ids]
        await asyncio.gather(*calls, *reads)
        found = [len(await history(repository, session_id)) for session_id in session_ids]
        assert found == [CALLERS // 8] * 8


@pytest.mark.parametrize("bounds", [{"append_batch_messages": 3}, {"append_batch_bytes": 500}])
async def test_small_batches_store_the_same(backend: Backend, bounds: dict[str, int]) -> None:
    async with backend.repository(**bounds) as repository:
        session_id = await repository.create_session_async(USER)
        contents = [f"{number} " + "-" * (2000 if number == 7 else 20) for number in range(CALLERS)]
        await asyncio.gather(*(repository.add_message(session_id, "user", content) for content in contents))
        found = [message.content for message in await history(repository, session_id)]
        assert sorted(found) == sorted(contents)


def test_blocking_calls_of_many_threads(backend: Backend) -> None:
    repository = backend.repository()
    with repository, ThreadPoolExecutor(32) as threads:
        session_ids = [repository.create_session(USER) for _ in range(8)]
        contents = [str(number) for number in range(4 * CALLERS)]
        add = lambda content: repository.add_message_sync(session_ids[int(content) % 8], "user", content)  # noqa: E731
        assert len(set(threads.map(add, contents))) == len(contents)
        found = [
            message.content
            for session_id in session_ids
            for message in repository.get_session_history_sync(USER, session_id)
        ]
        assert sorted(found) == sorted(contents)


# What 64 concurrent appends may take: statements on PostgreSQL, calls of the driver on SQLite, commands on
# MongoDB, round trips on Redis. Alone each would take 1, 4, 2, and 1.
MOST = {"postgres": 8, "sqlite": 24, "mongodb-replica-set": 16, "mongodb-standalone": 16, "redis": 8}


def asked(backend: Backend, wire: Wire) -> int:
    # A pipeline of Redis is not a statement.
    return wire.round_trips if backend.name == "redis" else len(wire.statements)


async def test_concurrent_appends_take_few_statements(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine, too, no send is so slow that it makes room for another, on a connection of its own.
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 60.0)
    async with counted(backend) as (repository, wire):
        session_ids = [await repository.create_session_async(USER) for _ in range(CALLERS)]
        await asyncio.gather(*(repository.add_message(each, "user", "first") for each in session_ids))
        wire.clear()
        await asyncio.gather(*(repository.add_message(each, "user", "Hello") for each in session_ids))
        assert 0 < asked(backend, wire) <= MOST[backend.name]
        assert wire.connections == 0
        wire.clear()
        await asyncio.gather(
            *(repository.add_message(session_ids[0], "user", "Hello") for _ in range(CALLERS))
        )
        assert 0 < asked(backend, wire) <= MOST[backend.name]
        wire.clear()
        # Some of them name the owner.
        owners = [{"user_id": USER} if number % 2 else {} for number in range(CALLERS)]
        await asyncio.gather(
            *(repository.add_message(session_ids[0], "user", "Hello", **owner) for owner in owners)
        )
        assert 0 < asked(backend, wire) <= MOST[backend.name]
        wire.clear()
        ids = [str(uuid.uuid4()) for _ in range(4)]
        same = [
            repository.add_message(session_ids[0], "user", each, message_id=each)
            for each in ids * (CALLERS // len(ids))
        ]
        assert await asyncio.gather(*same) == ids * (CALLERS // len(ids))
        # The first one may be under way by itself, and then the others are tried together first.
        assert 0 < asked(backend, wire) <= 2 * MOST[backend.name]
