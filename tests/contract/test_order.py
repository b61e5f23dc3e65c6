"""Messages are read back in write order, and every reader sees the same order."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from sessions import NewMessage
from tests.support.databases import Backend
from tests.support.racers import Racers, racers

RANDOM = 1000


@pytest.fixture(scope="module", name="racers")
def _racers() -> Iterator[Racers]:
    with racers() as started:
        yield started


@pytest.mark.parametrize("many", [2_500, pytest.param(6_000, marks=pytest.mark.full_size)])
async def test_messages_of_one_fast_writer_are_read_back_in_write_order(repository: Any, many: int) -> None:
    choice = random.Random(1)
    session_id = await repository.create_session_async("user")
    ids: list[str] = []
    while len(ids) < many:
        # Alternately alone and in small batches, each as soon as the previous one is acknowledged.
        ids.append(await repository.add_message(session_id, "user", str(len(ids))))
        size = min(choice.randrange(20), many - len(ids))
        batch = [("assistant", str(number)) for number in range(len(ids), len(ids) + size)]
        ids += await repository.add_messages(session_id, batch)

    history = await repository.get_session_history("user", session_id)

    same = [message.message_id for message in history] == ids
    assert same
    assert [int(message.content) for message in history] == list(range(many))
    assert history == sorted(history, key=lambda message: (message.timestamp, message.message_id))
    newest = await repository.get_session_history("user", session_id, limit=1000, before=ids[many // 2])
    assert newest == history[many // 2 - 1000 : many // 2]
    exported = [part async for _, part in repository.export_user("user")]
    assert [len(part) for part in exported[: many // 1000]] == [1000] * (many // 1000)
    assert [message for part in exported for message in part] == history


async def test_random_ids_written_as_fast_as_possible_are_read_back_in_write_order(
    backend: Backend,
) -> None:
    async with backend.repository() as repository:
        session_id = await repository.create_session_async("user")
        ids = [str(uuid.uuid4()) for _ in range(RANDOM)]
        for number, message_id in enumerate(ids[: RANDOM // 2]):
            await repository.add_message(session_id, "user", str(number), message_id=message_id)
        for start in range(RANDOM // 2, RANDOM, 25):
            batch = [NewMessage("tool", "", message_id=each) for each in ids[start : start + 25]]
            await repository.add_messages(session_id, batch)

        history = await repository.get_session_history("user", session_id)

        assert [message.message_id for message in history] == ids
        page = await repository.get_session_history("user", session_id, after=ids[400], limit=300)
        assert page == history[401:701]
        page = await repository.get_session_history("user", session_id, before=ids[700], limit=300)
        assert page == history[400:700]
        fork_id = await repository.fork_session("user", session_id, through=ids[900])
        copies = await repository.get_session_history("user", fork_id)
        assert [(item.content, item.timestamp) for item in copies] == [
            (item.content, item.timestamp) for item in history[:901]
        ]
        exported = [part async for _, part in repository.export_user("user")]
        assert history in exported


async def test_random_ids_with_one_timestamp_are_read_back_in_write_order(repository: Any) -> None:
    session_id = await repository.create_session_async("user")
    moment = datetime(2024, 2, 29, tzinfo=UTC)
    given = [NewMessage("user", message_id=str(uuid.uuid4()), timestamp=moment) for _ in range(300)]
    ids = [str(message.message_id) for message in given]
    choice, sent = random.Random(3), 0
    while sent < len(given):
        size = choice.choice((1, 1, 2, 30))
        await repository.add_messages(session_id, given[sent : sent + size])
        sent += size
    for place in range(0, 300, 7):
        part = await repository.get_session_history("user", session_id, after=ids[place], limit=10)
        assert [message.message_id for message in part] == ids[place + 1 : place + 11]
    history = await repository.get_session_history("user", session_id)
    assert [message.message_id for message in history] == ids


def test_every_reader_sees_the_same_order_of_concurrent_writers(backend: Backend, racers: Racers) -> None:
    job: dict[str, Any] = {"work": "write", "tasks": 16, "times": 12}
    with backend.repository() as first, backend.repository(pool_size=2) as second:
        job["session_id"] = first.create_session("user")
        results = racers.run(backend, job | {"name": "one"}, job | {"name": "two"})
        final = [item.message_id for item in first.get_session_history_sync("user", job["session_id"])]
        assert [
            item.message_id for item in second.get_session_history_sync("user", job["session_id"])
        ] == final
        paged: list[str] = []
        while page := second.get_session_history_sync(
            "user", job["session_id"], limit=7, before=paged[0] if paged else None
        ):
            paged = [item.message_id for item in page] + paged
        assert paged == final
    place = {message_id: number for number, message_id in enumerate(final)}
    written = [ids for result in results for ids in result["written"]]
    assert len(written) == 32
    assert sorted(place) == sorted(message_id for ids in written for message_id in ids)
    reads = [read for result in results for read in result["reads"]]
    assert len(reads) >= 4
    # The messages of one writer, and those of each intermediate read, are in the final order.
    for ids in written + reads:
        places = [place[message_id] for message_id in ids]
        assert places == sorted(places)


@pytest.mark.parametrize("size", [2, 64, 65, 1000, 3000])
async def test_a_batch_keeps_its_order(repository: Any, size: int) -> None:
    session_id = await repository.create_session_async("user")
    first = await repository.add_message(session_id, "user", "before")
    batch = [(("user", "assistant")[number % 2], f"{number} {uuid.uuid4()}") for number in range(size)]
    ids = await repository.add_messages(session_id, batch, user_id="user")
    last = await repository.add_message(session_id, "user", "after")
    history = await repository.get_session_history("user", session_id)
    assert [message.message_id for message in history] == [first, *ids, last]
    assert [(message.role, message.content) for message in history[1:-1]] == batch
