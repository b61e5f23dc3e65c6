"""The contract on databases of existing deployments: none of their rows is lost or changed.

In its async style: blocking calls run the same code. Their sessions are newer than any cutoff of the
contract, which deletes old sessions of all users.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from pymongo import MongoClient

from sessions import SessionRepositoryFactory
from sessions.testing import AsyncCaller, SessionRepositoryContract
from tests.migrations.migration_helpers import OLD_SCHEMA
from tests.support.databases import execute_postgres, in_database, run_in_thread

LAST_MOMENT = "9999-12-31 23:59:59.9"
SESSIONS, MESSAGES = 30, 300


def _name() -> str:
    return f"sessions_adopted_{uuid.uuid4().hex}"


class _Contract(SessionRepositoryContract):
    @pytest.fixture
    def chats(self, repository: Any) -> AsyncCaller:
        return AsyncCaller(repository)


# --- PostgreSQL ------------------------------------------------------------------------------------

OLD_ROWS = (
    f"""
    INSERT INTO chat_sessions
    SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'Old ' || n, 'old ' || n % 3,
           now() - n * interval '1 day', '{LAST_MOMENT}Z', jsonb_build_object('n', n)
    FROM generate_series(1, {SESSIONS}) n
    """,
    f"""
    INSERT INTO chat_messages
    SELECT gen_random_uuid(), ('00000000-0000-4000-8000-' || lpad((n % {SESSIONS} + 1)::text, 12, '0'))::uuid,
           CASE n % 2 WHEN 0 THEN 'user' ELSE 'assistant' END, 'old text ' || n, now() - n * interval '1 hour'
    FROM generate_series(1, {MESSAGES}) n
    """,
)
# Without the columns that later revisions add, with their defaults.
OLD_STATE = """
    SELECT (to_jsonb(s) - 'version')::text FROM chat_sessions s WHERE user_id LIKE 'old %'
    UNION ALL
    SELECT (to_jsonb(m) - '{metadata,payload,write_order}'::text[])::text FROM chat_messages m
     WHERE content LIKE 'old text %' ORDER BY 1
"""


async def _old_rows(url: str) -> list[str]:
    connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    try:
        return [row[0] for row in await connection.fetch(OLD_STATE)]
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def adopted_postgres(postgres_server: str) -> Iterator[str]:
    """A database with rows and no version table, for all tests of the class."""
    name = _name()
    execute_postgres(postgres_server, f"CREATE DATABASE {name}")
    url = in_database(postgres_server, name)
    execute_postgres(url, *OLD_SCHEMA, *OLD_ROWS)
    before = run_in_thread(_old_rows, url)
    assert len(before) == SESSIONS + MESSAGES
    yield url
    after = run_in_thread(_old_rows, url)
    execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")
    assert after == before


class TestAdoptedPostgres(_Contract):
    @pytest.fixture
    async def repository(self, adopted_postgres: str) -> AsyncIterator[Any]:
        async with SessionRepositoryFactory.create_repository("postgres", url=adopted_postgres) as repository:
            await repository.count_sessions("nobody")
            execute_postgres(adopted_postgres, "DELETE FROM chat_sessions WHERE user_id NOT LIKE 'old %'")
            yield repository

    async def test_existing_data_is_read_unchanged(self, repository: Any) -> None:
        [newest, *_] = await repository.list_paginated_sessions_async("old 1", limit=1000)
        assert (newest.title, newest.metadata) == ("Old 1", {"n": 1})
        history = await repository.get_session_history("old 1", newest.session_id)
        assert len(history) == MESSAGES // SESSIONS
        assert history == sorted(history, key=lambda message: message.timestamp)


# --- MongoDB ---------------------------------------------------------------------------------------


def _fill(database: Any) -> None:
    """Store documents of an existing deployment: naive datetimes, ids that are not UUIDs, one orphan."""
    sessions, messages = database["chat_sessions"], database["chat_messages"]
    for field in ("session_id", "user_id"):
        sessions.create_index(field, unique=field == "session_id")
    for field in ("message_id", "session_id", "timestamp"):
        messages.create_index(field, unique=field == "message_id")
    created = datetime(2024, 1, 2, 3, 4, 5)
    sessions.insert_many(
        {
            "session_id": f"session-{number}",
            "title": f"Old {number}",
            "user_id": f"old {number % 3}",
            "created_at": created,
            "updated_at": datetime.fromisoformat(f"{LAST_MOMENT}00"),
            **({"metadata": {"n": number}} if number % 2 else {}),
        }
        for number in range(SESSIONS)
    )
    messages.insert_many(
        {
            "message_id": f"message {number}",
            "session_id": f"session-{number % SESSIONS}",
            "role": "user" if number % 2 else "assistant",
            "content": f"old text {number}",
            "timestamp": datetime(2024, 1, 2, 3, 4, number % 60),
        }
        for number in range(MESSAGES)
    )
    messages.insert_one(
        {
            "message_id": "lost",
            "session_id": "gone",
            "role": "user",
            "content": "old text of nobody",
            "timestamp": created,
        }
    )


def _old_documents(database: Any) -> list[Any]:
    found = [
        *database["chat_sessions"].find({"user_id": {"$regex": "^old "}}),
        *database["chat_messages"].find({"content": {"$regex": "^old text "}}),
    ]
    return sorted(found, key=lambda document: document["_id"])


def _adopted(server: str) -> Iterator[tuple[str, Any]]:
    name = _name()
    with MongoClient[dict[str, Any]](server) as client:
        database = client[name]
        _fill(database)
        before = _old_documents(database)
        assert len(before) == SESSIONS + MESSAGES + 1
        yield in_database(server, name), database
        after = _old_documents(database)
        client.drop_database(name)
    assert after == before


@pytest.fixture(scope="module")
def adopted_replica_set(mongodb_replica_set_server: str) -> Iterator[tuple[str, Any]]:
    yield from _adopted(mongodb_replica_set_server)


@pytest.fixture(scope="module")
def adopted_standalone(mongodb_standalone_server: str) -> Iterator[tuple[str, Any]]:
    yield from _adopted(mongodb_standalone_server)


class _AdoptedMongodb:
    takes_only_uuids = False

    @pytest.fixture
    async def repository(self, adopted: tuple[str, Any]) -> AsyncIterator[Any]:
        url, database = adopted
        database["chat_sessions"].delete_many({"user_id": {"$not": {"$regex": "^old "}}})
        database["chat_messages"].delete_many({"content": {"$not": {"$regex": "^old text "}}})
        async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repository:
            yield repository

    async def test_existing_data_is_read_unchanged(self, repository: Any) -> None:
        found = await repository.list_paginated_sessions_async("old 1", limit=1000)
        assert [item.session_id for item in found] == sorted(
            f"session-{number}" for number in range(1, SESSIONS, 3)
        )
        old = await repository.get_session("old 1", "session-4")
        assert (old.title, old.metadata) == ("Old 4", {})
        assert old.created_at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert (await repository.get_session("old 1", "session-7")).metadata == {"n": 7}
        history = await repository.get_session_history("old 1", "session-4")
        assert {message.message_id for message in history} == {
            f"message {number}" for number in range(4, MESSAGES, SESSIONS)
        }
        assert history == sorted(history, key=lambda message: (message.timestamp, message.message_id))
        newest = await repository.get_session_history("old 1", "session-4", limit=2)
        assert newest == history[-2:]
        before = await repository.get_session_history("old 1", "session-4", before=history[3].message_id)
        assert before == history[:3]

    async def test_orphaned_messages_are_not_visible(self, repository: Any) -> None:
        for user_id in ("old 0", "anybody"):
            assert await repository.get_session_history(user_id, "gone") == []


class TestAdoptedReplicaSet(_AdoptedMongodb, _Contract):
    @pytest.fixture
    def adopted(self, adopted_replica_set: tuple[str, Any]) -> tuple[str, Any]:
        return adopted_replica_set


class TestAdoptedStandalone(_AdoptedMongodb):
    """Only reads; the contract also runs on a standalone server, with an empty database."""

    @pytest.fixture
    def adopted(self, adopted_standalone: tuple[str, Any]) -> tuple[str, Any]:
        return adopted_standalone
