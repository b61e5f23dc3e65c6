"""The contenders: the package, and the raw drivers with the same operations on the same tables."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any, Protocol

import aiosqlite
import asyncpg
import uuid_utils
from pymongo import AsyncMongoClient, MongoClient
from redis.asyncio import BlockingConnectionPool, Redis

from benchmarks.raw_redis import RawRedis
from sessions import SessionRepositoryFactory
from sessions.repositories import AsyncSessionRepository

__all__ = [
    "CONTENT",
    "SQLITE_APPEND",
    "SQLITE_TOUCH",
    "USER",
    "Contender",
    "Ours",
    "RawAiosqlite",
    "RawAsyncpg",
    "RawBlockingPyMongo",
    "RawPyMongo",
    "raw_client",
    "sqlite_id",
    "sqlite_time",
]

USER = "alice"
# 200 characters, an ordinary turn of a conversation.
CONTENT = "What should I see first when I am in Rome for a day? " * 4
CONTENT = CONTENT[:200]


SQLITE_TOUCH = "UPDATE chat_sessions SET updated_at = ?, version = version + 1 WHERE session_id = ?"
SQLITE_APPEND = (
    "INSERT INTO chat_messages (message_id, session_id, role, content, timestamp) VALUES (?, ?, ?, ?, ?)"
)


class Contender(Protocol):
    """The operations that are measured. A session belongs to `USER` unless said otherwise."""

    async def create(self, user_id: str = USER) -> str: ...
    async def append(self, session_id: str) -> object: ...
    async def append_batch(self, session_id: str, size: int) -> object: ...
    async def history(self, session_id: str) -> list[Any]: ...
    async def page(self, user_id: str) -> list[Any]: ...
    async def close(self) -> None: ...


class Ours:
    """The package, as a service would call it."""

    def __init__(self, backend: str, url: str, **settings: Any) -> None:
        self.repository: AsyncSessionRepository = SessionRepositoryFactory.create_repository(
            backend, url=url, **settings
        )

    async def create(self, user_id: str = USER) -> str:
        return await self.repository.create_session_async(user_id)

    async def append(self, session_id: str) -> object:
        return await self.repository.add_message(session_id, "user", CONTENT)

    def append_blocking(self, session_id: str) -> object:
        return self.repository.add_message_sync(session_id, "user", CONTENT)

    async def append_batch(self, session_id: str, size: int) -> object:
        return await self.repository.add_messages(session_id, [("user", CONTENT)] * size)

    async def history(self, session_id: str) -> list[Any]:
        return await self.repository.get_session_history(USER, session_id)

    async def page(self, user_id: str) -> list[Any]:
        return await self.repository.list_paginated_sessions_async(user_id, 0, 20)

    async def close(self) -> None:
        await self.repository.aclose()


class RawAsyncpg:
    """asyncpg's own pool: one statement for each operation, prepared in its statement cache."""

    CREATE = """
        INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at, metadata)
        VALUES ($1, $2, $3, $4, $4, $5)"""
    APPEND = """
        WITH owner AS (
            UPDATE chat_sessions SET updated_at = $2 WHERE session_id = $1 RETURNING session_id, updated_at)
        INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
        SELECT $3, session_id, $4, $5, updated_at FROM owner"""
    APPEND_BATCH = """
        WITH owner AS (
            UPDATE chat_sessions SET updated_at = $2 WHERE session_id = $1 RETURNING session_id, updated_at)
        INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
        SELECT batch.*, updated_at FROM owner, LATERAL (
            SELECT ids, owner.session_id, roles, contents
            FROM unnest($3::uuid[], $4::varchar[], $5::text[]) AS batch (ids, roles, contents)) AS batch"""
    HISTORY = """
        SELECT message_id, session_id, role, content, timestamp, metadata, payload FROM chat_messages
        WHERE session_id = $1 ORDER BY timestamp, write_order, message_id"""
    PAGE = """
        SELECT session_id, title, user_id, created_at, updated_at, metadata, version FROM chat_sessions
        WHERE user_id = $1 ORDER BY updated_at DESC, session_id LIMIT 20 OFFSET 0"""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def create(self, user_id: str = USER) -> str:
        session_id = uuid.uuid4()
        await self.pool.execute(self.CREATE, session_id, "New Chat", user_id, datetime.now(UTC), "{}")
        return str(session_id)

    def _message(self, session_id: str) -> tuple[Any, ...]:
        return (session_id, datetime.now(UTC), str(uuid_utils.uuid7()), "user", CONTENT)

    async def append(self, session_id: str) -> object:
        return await self.pool.execute(self.APPEND, *self._message(session_id))

    async def append_batch(self, session_id: str, size: int) -> object:
        ids = [str(uuid_utils.uuid7()) for _ in range(size)]
        return await self.pool.execute(
            self.APPEND_BATCH, session_id, datetime.now(UTC), ids, ["user"] * size, [CONTENT] * size
        )

    async def history(self, session_id: str) -> list[Any]:
        return list(await self.pool.fetch(self.HISTORY, session_id))

    async def page(self, user_id: str) -> list[Any]:
        return list(await self.pool.fetch(self.PAGE, user_id))

    async def close(self) -> None:
        await self.pool.close()


def _message_document(session_id: str, now: datetime) -> dict[str, Any]:
    return {
        "message_id": str(uuid_utils.uuid7()),
        "session_id": session_id,
        "role": "user",
        "content": CONTENT,
        "timestamp": now,
    }


class RawPyMongo:
    """PyMongo's asyncio client, on our collections."""

    # As the index has it.
    ORDER = (("timestamp", 1), ("write_order", 1), ("message_id", 1))
    NEWEST_FIRST = (("updated_at", -1), ("session_id", 1))

    def __init__(self, client: AsyncMongoClient[dict[str, Any]], database: str) -> None:
        self._client = client
        self._sessions = client[database]["chat_sessions"]
        self._messages = client[database]["chat_messages"]

    async def create(self, user_id: str = USER) -> str:
        session_id, now = str(uuid.uuid4()), datetime.now(UTC)
        times = {"created_at": now, "updated_at": now}
        await self._sessions.insert_one(
            {"session_id": session_id, "title": "New Chat", "user_id": user_id, **times, "metadata": {}}
        )
        return session_id

    async def _bump(self, session_id: str, now: datetime) -> object:
        return await self._sessions.update_one({"session_id": session_id}, {"$set": {"updated_at": now}})

    async def append(self, session_id: str) -> object:
        now = datetime.now(UTC)
        await self._messages.insert_one(_message_document(session_id, now))
        return await self._bump(session_id, now)

    async def append_batch(self, session_id: str, size: int) -> object:
        now = datetime.now(UTC)
        await self._bump(session_id, now)
        return await self._messages.insert_many([_message_document(session_id, now) for _ in range(size)])

    async def history(self, session_id: str) -> list[Any]:
        return await self._messages.find({"session_id": session_id}).sort(self.ORDER).to_list()

    async def page(self, user_id: str) -> list[Any]:
        return await self._sessions.find({"user_id": user_id}).sort(self.NEWEST_FIRST).limit(20).to_list()

    async def close(self) -> None:
        await self._client.close()


class RawBlockingPyMongo:
    """PyMongo's blocking client: the two writes of an append."""

    def __init__(self, url: str, database: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(url)
        self._database = self._client[database]

    def append(self, session_id: str) -> None:
        now = datetime.now(UTC)
        self._database["chat_messages"].insert_one(_message_document(session_id, now))
        self._database["chat_sessions"].update_one({"session_id": session_id}, {"$set": {"updated_at": now}})

    def close(self) -> None:
        self._client.close()


class RawAiosqlite:
    """aiosqlite: one connection, and one transaction for each write, one after another.

    It reads as the manual of aiosqlite does, with a cursor.

    Args:
        connection: The connection.
        at_once: Whether to read with aiosqlite's helper instead, which switches threads once for each read.
    """

    CREATE = """
        INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at, metadata)
        VALUES (?, ?, ?, ?, ?, ?)"""
    HISTORY = """
        SELECT message_id, session_id, role, content, timestamp, metadata, payload FROM chat_messages
        WHERE session_id = ? ORDER BY timestamp, write_order, message_id"""
    PAGE = """
        SELECT session_id, title, user_id, created_at, updated_at, metadata, version FROM chat_sessions
        WHERE user_id = ? ORDER BY updated_at DESC, session_id LIMIT 20 OFFSET 0"""

    def __init__(self, connection: aiosqlite.Connection, *, at_once: bool = False) -> None:
        self._connection = connection
        self._at_once = at_once
        self._turn = asyncio.Lock()

    def at_once(self) -> RawAiosqlite:
        """Return the contender that reads with the helper, on the same connection."""
        return RawAiosqlite(self._connection, at_once=True)

    @classmethod
    async def open(cls, url: str) -> RawAiosqlite:
        connection = await aiosqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        await connection.execute("PRAGMA synchronous=FULL")
        await connection.execute("PRAGMA foreign_keys=ON")
        return cls(connection)

    async def create(self, user_id: str = USER) -> str:
        session_id, now = uuid.uuid4().hex, sqlite_time()
        async with self._turn:
            row = (session_id, "New Chat", user_id, now, now, "{}")
            await self._connection.execute(self.CREATE, row)
        return session_id

    async def append(self, session_id: str) -> object:
        return await self.append_batch(session_id, 1)

    async def append_batch(self, session_id: str, size: int) -> object:
        now, session_id = sqlite_time(), sqlite_id(session_id)
        rows = [(uuid_utils.uuid7().hex, session_id, "user", CONTENT, now) for _ in range(size)]
        async with self._turn:
            await self._connection.execute("BEGIN IMMEDIATE")
            await self._connection.execute(SQLITE_TOUCH, (now, session_id))
            if size == 1:
                await self._connection.execute(SQLITE_APPEND, rows[0])
            else:
                await self._connection.executemany(SQLITE_APPEND, rows)
            await self._connection.commit()
        return rows

    async def _read(self, query: str, *parameters: str) -> list[Any]:
        if self._at_once:
            return list(await self._connection.execute_fetchall(query, parameters))
        async with self._connection.execute(query, parameters) as cursor:
            return list(await cursor.fetchall())

    async def history(self, session_id: str) -> list[Any]:
        return await self._read(self.HISTORY, sqlite_id(session_id))

    async def page(self, user_id: str) -> list[Any]:
        return await self._read(self.PAGE, user_id)

    async def close(self) -> None:
        await self._connection.close()


def sqlite_id(text: str) -> str:
    """Return an id as the package's tables have it."""
    return text.replace("-", "")


def sqlite_time() -> str:
    """Return the time as the package's tables have it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


async def raw_client(backend: str, url: str) -> Any:
    """Return a backend's raw driver as it comes, on the package's database."""
    if backend == "postgres":
        return RawAsyncpg(await asyncpg.create_pool(url))
    if backend == "mongodb":
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url)
        return RawPyMongo(client, client.get_default_database("agenthub").name)
    if backend == "redis":
        # Callers wait for one of its connections, and do not fail.
        return RawRedis(Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=100)))
    return await RawAiosqlite.open(url)
