"""A standalone MongoDB is killed during an insert: part of a batch is stored, and none of it is visible."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo import WriteConcern

from tests.faults.breakable import Mongod, running, wait_until
from tests.faults.killed.dying import MAX_OPERATION_TIME, Dying
from tests.support.databases import Backend

USER, SESSION = "alice", "conversation"
BEFORE = [("user", f"before {index}") for index in range(5)]
# 600 KB, which the server stores in parts of 256 KB.
BATCH = [("user", f"batch {index} {'…' * 1000}") for index in range(200)]
AFTER = ("user", "after")


@pytest.fixture(scope="module")
def server() -> Iterator[Mongod]:
    mongod = Mongod()
    with running(mongod):
        yield mongod


@pytest.fixture
async def repository(server: Mongod, processes: Dying) -> Any:
    """A session with an incomplete batch between its first and its last messages."""
    backend = Backend(server.backend, "mongodb", server.url)
    async with backend.repository() as repository:
        await repository.delete_user(USER)
        await repository.ensure_session_exists(SESSION, USER)
        await repository.add_messages(SESSION, BEFORE)
    _break_off_a_batch(server, backend, processes)
    async with backend.repository() as repository:
        await repository.add_message(SESSION, *AFTER)
        assert len(BEFORE) + 1 < _stored(server) < len(BEFORE) + 1 + len(BATCH)
        yield repository


def _break_off_a_batch(server: Mongod, backend: Backend, processes: Dying) -> None:
    with server.client() as client:
        point = {"configureFailPoint": "hangDuringBatchInsert", "mode": {"skip": 1}}
        client.admin.command(point | {"data": {"nss": "chat.chat_messages"}})
    child = processes.start(backend, "add_messages", SESSION, BATCH)
    wait_until(lambda: _stored(server) > len(BEFORE), lambda: "the batch was not begun")
    with server.client() as client:  # The journal is on the disk up to this document.
        client["other"].get_collection("last", write_concern=WriteConcern(j=True)).insert_one({})
    # The client first: it would continue as soon as the server is available again.
    os.kill(child, signal.SIGKILL)
    assert processes.was_killed()
    server.kill()
    server.start()


def _stored(server: Mongod) -> int:
    with server.client() as client:
        return client["chat"]["chat_messages"].count_documents({})


async def test_an_incomplete_batch_is_not_visible_and_is_removed_when_it_is_old(
    repository: Any, server: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [content for _, content in [*BEFORE, AFTER]]

    async def history(**part: Any) -> list[str]:
        found = await repository.get_session_history(USER, SESSION, **part)
        ids[:] = [message.message_id for message in found]
        return [message.content for message in found]

    ids: list[str] = []
    for limit in (1, 2, 3, 100):
        assert await history(limit=limit) == whole[-limit:]
    assert await history() == whole
    last = ids[-1]
    assert await history(before=last) == whole[:-1]
    assert await history(before=last, limit=2) == whole[-3:-1]
    exported = [message.content async for _, part in repository.export_user(USER) for message in part]
    assert exported == whole
    assert (await repository.search_messages(USER, "batch")).hits == []
    hits = (await repository.search_messages(USER, AFTER[1], limit=1)).hits
    assert [hit.message.content for hit in hits] == [AFTER[1]]

    # Other processes cannot know whether it is still running.
    young = await repository.remove_orphaned_messages()
    assert (young.removed, young.under_way) == (0, 1)
    half = _stored(server) - len(whole)
    monkeypatch.setattr(MAX_OPERATION_TIME, timedelta(0))
    time.sleep(1)  # An ObjectId has whole seconds.
    old = await repository.remove_orphaned_messages()
    assert (old.removed, old.under_way) == (half, 0)
    assert _stored(server) == len(whole)
    assert await history() == whole


async def test_an_incomplete_batch_is_deleted_with_its_session(repository: Any, server: Mongod) -> None:
    assert await repository.delete_session_async(USER, SESSION)
    assert _stored(server) == 0
    assert await repository.ensure_session_exists(SESSION, USER)
    assert await repository.get_session_history(USER, SESSION) == []


async def test_the_next_batch_is_complete_and_readable_in_parts(repository: Any) -> None:
    await repository.add_messages(SESSION, BATCH)
    whole = [content for _, content in [*BEFORE, AFTER, *BATCH]]
    found = await repository.get_session_history(USER, SESSION)
    assert [message.content for message in found] == whole
    # Windows that end within the batch, before its last message.
    for end in (len(whole) - 1, len(whole) - 50, len(whole) - 199, len(whole) - 200):
        part = await repository.get_session_history(USER, SESSION, limit=60, before=found[end].message_id)
        assert [message.content for message in part] == whole[max(0, end - 60) : end]
    # Its last message is not among the hits.
    page = await repository.search_messages(USER, '"batch 7 "')
    assert [hit.message.content for hit in page.hits] == [BATCH[7][1]]
