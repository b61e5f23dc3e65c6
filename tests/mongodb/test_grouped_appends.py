"""Group commit in MongoDB: two commands for many calls, and the guarantees of each call."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo import monitoring

from sessions import (
    BackendUnavailableError,
    MessageConflictError,
    NewMessage,
    SessionNotFoundError,
    SessionRepositoryFactory,
)
from sessions.backends.mongodb import grouped
from sessions.backends.mongodb.client import MongoConnection
from sessions.backends.mongodb.connection import MongoConnectionManager
from sessions.backends.mongodb.options import client_class
from sessions.repositories.mongo_session_repository import MongoSessionRepository
from tests.mongodb.stored import USER, contents, version
from tests.support.servers import free_port

CALLERS = 64
DURABLE = {"w": "majority", "j": True}
EARLY = {"w": 1}


class Writes(monitoring.CommandListener):
    """Records the write concern of each write, and how many documents it writes."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        name, command = event.command_name, event.command
        written = command.get({"insert": "documents", "update": "updates"}.get(name, ""), ())
        if name != "endSessions":
            self.seen.append((name, len(written), command.get("writeConcern")))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing of interest."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing of interest."""


@pytest.fixture
async def watched(url: str) -> AsyncIterator[tuple[Any, Writes]]:
    async for found in _watched(url):
        yield found


async def _watched(url: str) -> AsyncIterator[tuple[Any, Writes]]:
    writes = Writes()
    client = client_class()(url, event_listeners=[writes])
    yield SessionRepositoryFactory.create_repository("mongodb", client=client), writes
    closed = client.close()
    if closed is not None:  # Motor's is a plain call.
        await closed


@pytest.fixture
async def repository(watched: tuple[Any, Writes]) -> Any:
    return watched[0]


async def create(repository: Any, number: int) -> list[str]:
    return [await repository.create_session_async(USER) for _ in range(number)]


async def append(repository: Any, session_ids: list[str], number: int = CALLERS) -> list[Any]:
    """Append as many messages, of one caller each, to sessions in turn; return the results or the errors."""
    calls = (
        repository.add_message(session_ids[caller % len(session_ids)], "user", str(caller))
        for caller in range(number)
    )
    return await asyncio.gather(*calls, return_exceptions=True)


# -- Commands --------------------------------------------------------------------------------------


async def test_a_batch_is_one_insert_and_one_durable_update(watched: tuple[Any, Writes]) -> None:
    repository, writes = watched
    session_ids = await create(repository, 16)
    # The first appends look the sessions up, with one query for a batch.
    await append(repository, session_ids)
    finds = [seen for seen in writes.seen if seen[0] == "find"]
    assert len(finds) <= 4
    writes.seen.clear()
    assert not any(isinstance(result, Exception) for result in await append(repository, session_ids))

    # Two callers by themselves, and all others in batches of different sessions.
    assert {(name, concern["w"]) for name, _, concern in writes.seen} == {
        ("insert", 1),
        ("update", "majority"),
    }
    inserts = [number for name, number, concern in writes.seen if name == "insert" and concern == EARLY]
    updates = [number for name, number, concern in writes.seen if name == "update" and concern == DURABLE]
    assert len(inserts) == len(updates) <= 6
    assert sum(inserts) == CALLERS
    assert max(updates) <= len(session_ids)
    for session_id in session_ids:
        assert await version(repository, session_id) == 2 * CALLERS // 16


async def test_the_write_concern_of_the_url_wins(url: str) -> None:
    separator = "&" if "?" in url else "?"
    async for repository, writes in _watched(f"{url}{separator}w=1&journal=false"):
        session_ids = await create(repository, 4)
        await append(repository, session_ids)
        concerns = [concern for name, _, concern in writes.seen if name in ("insert", "update")]
        assert concerns == [{"w": 1, "j": False}] * len(concerns)
        assert max(number for _, number, _ in writes.seen) > 4


async def test_appends_are_repeated_if_the_primary_changes_between_the_writes(
    watched: tuple[Any, Writes], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, writes = watched
    session_ids = await create(repository, 4)
    identities = itertools.count(1)
    monkeypatch.setattr(MongoConnection, "primary_identity", lambda _: next(identities))
    ids = await append(repository, session_ids, 16)
    monkeypatch.undo()

    # The inserts that the server acknowledged at once are repeated, durably.
    assert ("insert", 1, DURABLE) in writes.seen
    stored = [
        message.message_id
        for session_id in session_ids
        for message in await repository.get_session_history(USER, session_id)
    ]
    assert sorted(stored) == sorted(ids)
    assert [await version(repository, session_id) for session_id in session_ids] == [4] * 4


async def test_calls_of_several_messages_are_whole_commands(watched: tuple[Any, Writes]) -> None:
    repository, writes = watched
    session_ids = await create(repository, 4)
    sizes = [1, 2, 30, 64, 65, 200]
    writes.seen.clear()
    calls = []
    for caller in range(len(sizes) * 4):
        messages = [("user", f"{caller} {place}") for place in range(sizes[caller // 4])]
        calls.append(repository.add_messages(session_ids[caller % 4], messages))
    await asyncio.gather(*calls)

    # A mark or a transaction hides larger ones until they are complete.
    together = [number for name, number, concern in writes.seen if name == "insert" and concern == EARLY]
    assert {number for number in together if number > 4} == {30, 64}
    for place, session_id in enumerate(session_ids):
        found = await contents(repository, session_id)
        assert len(found) == sum(sizes)
        for caller in range(place, len(sizes) * 4, 4):
            own = [content for content in found if content.split()[0] == str(caller)]
            assert own == [f"{caller} {part}" for part in range(sizes[caller // 4])]
        assert await version(repository, session_id) == len(sizes)


# -- Sessions that are deleted ---------------------------------------------------------------------


async def test_messages_for_sessions_deleted_between_the_writes_are_removed(
    repository: Any, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_ids = await create(repository, 8)
    await append(repository, session_ids, 8)
    deleted, recreated, kept = session_ids[:2], session_ids[2:4], session_ids[4:]
    update_each = grouped.update_each

    async def delete_first(collection: Any, updates: list[Any]) -> Any:
        if raw.chat_sessions.count_documents({"user_id": USER}) == 8:
            raw.chat_sessions.delete_many({"session_id": {"$in": deleted + recreated}})
            for session_id in recreated:
                template = raw.chat_sessions.find_one({"session_id": kept[0]})
                del template["_id"]
                raw.chat_sessions.insert_one(template | {"session_id": session_id, "user_id": "bob"})
        return await update_each(collection, updates)

    monkeypatch.setattr(grouped, "update_each", delete_first)
    results = await append(repository, session_ids)

    for caller, result in enumerate(results):
        if session_ids[caller % 8] in deleted:
            # Those that came before the deletion have been stored.
            assert isinstance(result, str | SessionNotFoundError)
        else:
            assert isinstance(result, str)
    assert any(isinstance(result, SessionNotFoundError) for result in results)
    for session_id in deleted:
        # The deletion of the test leaves what was complete before.
        own = [result for caller, result in enumerate(results) if session_ids[caller % 8] == session_id]
        stored = [one["_id"] for one in raw.chat_messages.find({"session_id": session_id})]
        complete = [result for result in own if isinstance(result, str)]
        assert set(stored) >= set(complete)
        assert len(stored) == 1 + len(complete)
    for session_id in recreated:
        found = await repository.get_session_history("bob", session_id)
        assert {message.message_id for message in found} <= set(map(str, results))
        chat_session = await repository.get_session("bob", session_id)
        assert chat_session.version >= len(found) > 0
    for session_id in kept:
        assert len(await contents(repository, session_id)) == 1 + CALLERS // 8
        assert await version(repository, session_id) == 1 + CALLERS // 8


# -- Messages that the server rejects --------------------------------------------------------------


async def test_a_validator_of_the_service_rejects_one_call_only(repository: Any, raw: Any) -> None:
    session_ids = await create(repository, 4)
    raw.command("collMod", "chat_messages", validator={"content": {"$ne": "7"}})
    results = await append(repository, session_ids)
    for caller, result in enumerate(results):
        assert isinstance(result, BackendUnavailableError if caller == 7 else str)
    stored = [content for session_id in session_ids for content in await contents(repository, session_id)]
    assert sorted(stored) == sorted(str(caller) for caller in range(CALLERS) if caller != 7)
    assert [await version(repository, session_id) for session_id in session_ids] == [16, 16, 16, 15]


async def test_a_taken_id_fails_its_own_call_only(repository: Any, raw: Any) -> None:
    session_ids = await create(repository, 4)
    [taken] = await repository.add_messages(session_ids[0], [("user", "first")])

    async def call(caller: int) -> list[str]:
        messages = [NewMessage("user", f"{caller} {part}") for part in range(3)]
        if caller % 4 == 1:
            messages[2] = NewMessage("user", "second", message_id=taken)
        found: list[str] = await repository.add_messages(session_ids[caller % 4], messages)
        return found

    results = await asyncio.gather(*map(call, range(CALLERS)), return_exceptions=True)
    assert all(
        isinstance(result, MessageConflictError if caller % 4 == 1 else list)
        for caller, result in enumerate(results)
    )
    # Nothing is left of a call that fails.
    assert raw.chat_messages.count_documents({"session_id": session_ids[1]}) == 0
    counts = [await repository.count_messages(USER, session_id) for session_id in session_ids]
    assert counts == [1 + 48, 0, 48, 48]
    assert [await version(repository, session_id) for session_id in session_ids] == [17, 0, 16, 16]


async def test_an_append_whose_update_was_lost_is_completed_by_its_repetition(
    repository: Any, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_ids = await create(repository, 4)
    before = {one["session_id"]: one["updated_at"] for one in raw.chat_sessions.find()}
    messages = [NewMessage("user", str(caller), message_id=str(uuid.uuid4())) for caller in range(CALLERS)]

    async def call(caller: int) -> Any:
        return await repository.add_messages(session_ids[caller % 4], [messages[caller]])

    async def lose(*_: object) -> Any:
        raise BackendUnavailableError("the process is killed")

    # Some are stored by batches whose update is never sent.
    monkeypatch.setattr(grouped, "update_each", lose)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MongoConnectionManager, "is_transient", lambda *_: False)
        patch.setattr(MongoConnectionManager, "took_its_timeout", lambda *_: True)
        results = await asyncio.gather(*map(call, range(CALLERS)), return_exceptions=True)
    lost = [caller for caller, result in enumerate(results) if isinstance(result, Exception)]
    assert len(lost) > CALLERS // 2
    assert raw.chat_messages.count_documents({}) == CALLERS
    monkeypatch.undo()
    # Concurrently, each finds its own message.
    await asyncio.gather(*map(call, range(CALLERS)))
    assert raw.chat_messages.count_documents({}) == CALLERS
    for session_id in session_ids:
        newest = (await repository.get_session_history(USER, session_id))[-1]
        chat_session = raw.chat_sessions.find_one({"session_id": session_id})
        assert chat_session["updated_at"] >= newest.timestamp.replace(tzinfo=None) > before[session_id]
        assert 1 <= chat_session["version"] <= CALLERS // 4


# -- The bounds of the queue -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "size", "sends"),
    [
        ({}, 10, 2),
        ({"pool_size": 1}, 1, 1),
        ({"pool_size": 2}, 2, 1),
        ({"parameters": "maxPoolSize=1&waitQueueTimeoutMS=40000"}, 1, 1),
        ({"parameters": "maxPoolSize=0"}, 100, 2),
    ],
)
async def test_appends_leave_connections_to_other_operations(
    mongodb_url: str, options: dict[str, Any], size: int, sends: int
) -> None:
    parameters = options.pop("parameters", "")
    url = f"{mongodb_url}{'&' if '?' in mongodb_url else '?'}{parameters}" if parameters else mongodb_url
    manager = MongoConnectionManager(url=url, **options)
    async with MongoSessionRepository(connection_manager=manager) as repository:
        limits = (await manager.queues.get())._limits
        assert (limits.sends, limits.slow_sends) == (sends, size // 3)
        assert limits.seconds == (40.0 if "wait" in parameters else 10.0)
        session_ids = await create(repository, 4)
        assert all(isinstance(result, str) for result in await append(repository, session_ids))


async def test_the_options_of_a_services_own_client_bound_its_queue(mongodb_url: str) -> None:
    client = client_class()(mongodb_url, maxPoolSize=4)
    manager = MongoConnectionManager(client=client)
    limits = (await manager.queues.get())._limits
    assert (limits.sends, limits.slow_sends) == (2, 1)
    assert limits.seconds == float("inf")
    closed = client.close()
    if closed is not None:
        await closed


async def test_a_batch_without_a_server_fails_once_for_all_of_its_callers() -> None:
    repository = SessionRepositoryFactory.create_repository(
        "mongodb", url=f"mongodb://127.0.0.1:{free_port()}", refused_timeout=1.0
    )
    async with repository, asyncio.timeout(20):
        results = await append(repository, [str(uuid.uuid4())])
    assert all(isinstance(result, BackendUnavailableError) for result in results)
