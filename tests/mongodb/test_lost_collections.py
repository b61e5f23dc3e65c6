"""Collections that are dropped while a process runs are created again with indexes and validators."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from sessions import SessionNotFoundError, SessionRepositoryFactory

SESSIONS = {"_id_", "session_id_1", "user_id_1_updated_at_-1_session_id_1"}
MESSAGES = {"_id_", "session_id_1_timestamp_1_write_order_1_message_id_1"}


def repository(url: str) -> Any:
    return SessionRepositoryFactory.create_repository("mongodb", url=url)


def is_complete(raw: Any) -> bool:
    return set(raw.chat_sessions.index_information()) == SESSIONS and is_guarded(raw)


def is_guarded(raw: Any) -> bool:
    options = {entry["name"]: entry["options"] for entry in raw.list_collections()}
    validated = all("validator" in options[name] for name in ("chat_sessions", "chat_messages"))
    return validated and set(raw.chat_messages.index_information()) == MESSAGES


def drop(raw: Any, what: str) -> None:
    if what == "database":
        raw.client.drop_database(raw.name)
    else:
        raw.drop_collection(what)


@pytest.mark.parametrize("what", ["database", "chat_sessions"])
async def test_of_concurrent_callers_one_creates_a_session_after_a_drop(
    url: str, raw: Any, what: str
) -> None:
    async with repository(url) as repo:
        for _ in range(3):
            await repo.create_session_async("alice")
            drop(raw, what)
            session_id = str(uuid.uuid4())
            created = await asyncio.gather(
                *(repo.ensure_session_exists(session_id, "alice") for _ in range(8))
            )
            assert sorted(created) == [False] * 7 + [True]
            assert is_complete(raw)


async def test_processes_that_find_the_database_dropped_create_a_session_once(url: str, raw: Any) -> None:
    # Two managers, as in two processes.
    repositories = [repository(url), repository(f"{url}{'&' if '?' in url else '?'}appName=other")]
    try:
        for repo in repositories:
            await repo.create_session_async("alice")
        drop(raw, "database")
        session_id = str(uuid.uuid4())
        created = await asyncio.gather(
            *(repo.ensure_session_exists(session_id, "alice") for repo in repositories * 4)
        )
        assert sorted(created) == [False] * 7 + [True]
        assert is_complete(raw)
    finally:
        for repo in repositories:
            await repo.aclose()


@pytest.mark.parametrize("number", [1, 100, 6000])
async def test_messages_are_inserted_into_a_recreated_collection_with_its_index(
    url: str, raw: Any, number: int
) -> None:
    async with repository(url) as repo:
        session_id = await repo.create_session_async("alice")
        await repo.add_message(session_id, "user", "lost")
        drop(raw, "chat_messages")
        await repo.add_messages(session_id, [("user", str(place)) for place in range(number)])
        assert len(await repo.get_session_history("alice", session_id)) == number
        assert is_complete(raw)


async def test_a_message_for_a_dropped_session_is_rejected_and_creates_no_collection_without_indexes(
    url: str, raw: Any
) -> None:
    async with repository(url) as repo:
        session_id = await repo.create_session_async("alice")
        await repo.add_message(session_id, "user", "Hello")
        drop(raw, "database")
        with pytest.raises(SessionNotFoundError):
            await repo.add_message(session_id, "user", "Hello")
        assert raw.chat_messages.count_documents({}) == 0
        assert is_complete(raw)


async def test_a_lost_index_is_created_again_after_a_close(url: str, raw: Any) -> None:
    repo = repository(url)
    await repo.create_session_async("alice")
    raw.chat_sessions.drop_index("session_id_1")
    raw.chat_messages.drop_index("session_id_1_timestamp_1_write_order_1_message_id_1")
    await repo.aclose()
    await repo.create_session_async("alice")
    assert is_complete(raw)
    await repo.aclose()


async def test_collections_are_checked_once_a_second_on_a_server_without_uuid_checks(
    url: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with MongoDB before 6.0, and with servers that are only compatible with it."""

    async def never(_: Any) -> bool:
        return False

    monkeypatch.setattr("sessions.backends.mongodb.schema._checks_uuids", never)
    monkeypatch.setattr("sessions.backends.mongodb.schema.RECHECK_SECONDS", 0.1)
    async with repository(url) as repo:
        await repo.create_session_async("alice")
        drop(raw, "database")
        await asyncio.sleep(0.2)
        await repo.create_session_async("alice")
        assert is_complete(raw)
        assert await repo.count_sessions("alice") == 1
