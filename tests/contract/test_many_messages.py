"""Sessions and batches beyond the limits of a server, a driver or an id: no message is lost."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from sessions import MessageConflictError
from sessions.cli.importing import import_lines
from sessions.cli.storing import message_id as _message_id
from sessions.core.values import MessageRow
from tests.contract.test_conflicts import append
from tests.support.databases import Backend

# A larger batch would stop the Redis server, which other tests share, for seconds: it is one script.
LARGEST_ON_REDIS = 10_000


@pytest.fixture(
    params=[
        4097,  # One more than the importer of release 0.1 could tell apart in MongoDB.
        pytest.param(100_001, marks=pytest.mark.full_size),  # More than one command of MongoDB carries.
    ]
)
def size(request: pytest.FixtureRequest, backend: Backend) -> int:
    """How many messages."""
    many: int = request.param
    return min(many, LARGEST_ON_REDIS) if backend.name == "redis" else many


def contents_of(size: int) -> list[str]:
    return [f"message {place}" for place in range(size)]


async def stored(repository: Any, session_id: str) -> list[str]:
    return [message.content for message in await repository.get_session_history("alice", session_id)]


async def test_a_batch_of_any_size_is_stored_in_its_order(repository: Any, size: int) -> None:
    session_id = await repository.create_session_async("alice")
    contents = contents_of(size)
    ids = await repository.add_messages(session_id, [("user", content) for content in contents])

    assert len(set(ids)) == size
    assert await stored(repository, session_id) == contents
    assert await repository.delete_session_async("alice", session_id)


async def test_an_import_of_any_size_stores_every_message_once(repository: Any, size: int) -> None:
    contents = contents_of(size)
    line = {"session_id": str(uuid.uuid4()), "user_id": "alice"}
    line["messages"] = [{"role": "user", "content": content} for content in contents]  # type: ignore[assignment]
    lines = [json.dumps(line).encode()]
    reports: list[str] = []
    totals = await import_lines(repository, lines, report=reports.append, advance=lambda _, __: None)
    assert (reports, totals.created, totals.messages) == ([], 1, size)
    assert await stored(repository, line["session_id"]) == contents

    again = await import_lines(repository, lines, report=reports.append, advance=lambda _, __: None)
    assert (reports, again.skipped, again.messages) == ([], 1, 0)


async def test_a_large_batch_with_one_taken_id_is_not_stored_at_all(repository: Any, size: int) -> None:
    session_id, other = [await repository.create_session_async("alice") for _ in range(2)]
    taken = await repository.add_message(other, "user", "Hello")
    ids = [_message_id(session_id, 1_800_000_000_000, place) for place in range(size)]
    ids[size // 2] = taken
    rows = [MessageRow(message_id, "user", "Hi") for message_id in ids]
    with pytest.raises(MessageConflictError):
        await append(repository, session_id, rows)
    assert await stored(repository, session_id) == []


def test_message_ids_of_an_import_are_unique() -> None:
    last = 2**24  # As many places as an id has bits for.
    places = [*range(5000), 50_000, 120_000, last - 1, last, last + 1, 2 * last, 2 * last + 1]
    ids = [_message_id("session", 1_800_000_000_000, place) for place in places]
    assert len(set(ids)) == len(places)
    assert ids == sorted(ids)
