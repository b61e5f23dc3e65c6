"""An append is acknowledged once it is durable, and waits for the journal once."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo import monitoring

from sessions import SessionRepositoryFactory
from sessions.backends.mongodb.client import MongoConnection
from sessions.backends.mongodb.options import client_class
from tests.support.databases import Backend

DURABLE = {"w": "majority", "j": True}
EARLY = {"w": 1}


class Writes(monitoring.CommandListener):
    """Records the write concern of each insert and update."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in ("insert", "update"):
            self.seen.append((event.command_name, event.command.get("writeConcern")))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing of interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing of interest."""


@pytest.fixture(params=["mongodb-replica-set", "mongodb-standalone"])
def backend(request: pytest.FixtureRequest) -> Backend:
    fixture = {"mongodb-replica-set": "mongodb_url", "mongodb-standalone": "mongodb_standalone_url"}
    return Backend(request.param, "mongodb", request.getfixturevalue(fixture[request.param]))


@pytest.fixture
async def watched(backend: Backend) -> AsyncIterator[tuple[Any, Writes]]:
    async for found in _watched(backend.url):
        yield found


async def _watched(url: str) -> AsyncIterator[tuple[Any, Writes]]:
    writes = Writes()
    client = client_class()(url, event_listeners=[writes])
    repository = SessionRepositoryFactory.create_repository("mongodb", client=client)
    await repository.count_sessions("alice")
    yield repository, writes
    closed = client.close()
    if closed is not None:  # Motor's is a plain call.
        await closed


async def test_only_the_last_write_of_an_append_waits_for_the_journal(watched: tuple[Any, Writes]) -> None:
    repository, writes = watched
    session_id = await repository.create_session_async("alice")
    await repository.add_message(session_id, "user", "Hello")
    await repository.add_messages(session_id, [("user", "How are"), ("user", "you?")])

    appended = [("insert", EARLY), ("update", DURABLE)]
    assert writes.seen == [("insert", DURABLE), *appended, *appended]


async def test_an_append_is_repeated_if_the_primary_changes_between_its_writes(
    watched: tuple[Any, Writes], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, writes = watched
    session_id = await repository.create_session_async("alice")
    identities = itertools.count(1)
    monkeypatch.setattr(MongoConnection, "primary_identity", lambda _: next(identities))
    writes.seen.clear()
    message_id = await repository.add_message(session_id, "user", "Hello")

    assert writes.seen == [("insert", EARLY), ("update", DURABLE), ("insert", DURABLE), ("update", DURABLE)]
    history = await repository.get_session_history("alice", session_id)
    assert [message.message_id for message in history] == [message_id]


async def test_every_write_is_durable_if_the_primary_is_unknown(
    watched: tuple[Any, Writes], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, writes = watched
    session_id = await repository.create_session_async("alice")
    monkeypatch.setattr(MongoConnection, "primary_identity", lambda _: None)
    writes.seen.clear()
    await repository.add_message(session_id, "user", "Hello")

    assert writes.seen == [("insert", DURABLE), ("update", DURABLE)]


async def test_the_write_concern_of_the_url_wins(backend: Backend) -> None:
    separator = "&" if "?" in backend.url else "?"
    async for repository, writes in _watched(f"{backend.url}{separator}w=1&journal=false"):
        session_id = await repository.create_session_async("alice")
        await repository.add_message(session_id, "user", "Hello")
        assert [chosen for _, chosen in writes.seen] == [{"w": 1, "j": False}] * 3
