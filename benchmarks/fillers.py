"""Insert many rows into a database whose schema is ready."""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from sessions.backends.redis.mapping import encode_moment, index_place
from sessions.models.documents import ChatMessageDocument

__all__ = ["CONTENT", "FILLERS", "Filler"]

CONTENT = ("What should I see first when I am in Rome for a day? " * 4)[:200]
# Sessions among which the rows of a large table are spread.
OTHERS = 100_000
# Sessions or messages of one round trip to Redis.
PIPELINE = 1000


class Filler(Protocol):
    """Inserts rows into a database whose schema is ready."""

    async def add_sessions(self, user_id: str, number: int) -> None:
        """Insert sessions of a user, each a second older than the previous one, and with one message."""

    async def add_messages(self, session_id: str, number: int) -> None:
        """Insert messages of a session, each a millisecond older than the previous one."""

    async def add_rows(self, number: int) -> None:
        """Insert messages of many sessions, and wait until the server is idle."""

    async def close(self) -> None: ...


class PostgresFiller:
    """Inserts rows into PostgreSQL."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def of(cls, url: str) -> PostgresFiller:
        return cls(await asyncpg.connect(url))

    async def add_sessions(self, user_id: str, number: int) -> None:
        await self._connection.execute(
            """INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at, metadata)
               SELECT gen_random_uuid(), 'title', $1, at, at, jsonb_build_object('pinned', i % 2 = 0)
               FROM generate_series(1, $2::integer) i, LATERAL (SELECT now() - i * interval '1 s') t(at)""",
            user_id,
            number,
        )
        await self._connection.execute(
            """INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
               SELECT gen_random_uuid(), session_id, 'user', $2, updated_at
               FROM chat_sessions WHERE user_id = $1""",
            user_id,
            CONTENT,
        )

    async def add_messages(self, session_id: str, number: int) -> None:
        await self._connection.execute(
            """INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
               SELECT gen_random_uuid(), $1, 'user', $2, now() - i * interval '1 ms'
               FROM generate_series(1, $3::integer) i""",
            uuid.UUID(session_id),
            CONTENT,
            number,
        )

    async def add_rows(self, number: int) -> None:
        # Indexes and foreign keys afterwards, as pg_restore does.
        await self._connection.execute(
            f"""
            SET session_replication_role = replica;
            SET maintenance_work_mem = '512MB';
            INSERT INTO chat_sessions (session_id, title, user_id, metadata)
            SELECT md5(i::text)::uuid, 'title', 'user' || i, '{{}}' FROM generate_series(0, {OTHERS - 1}) i;
            ALTER TABLE chat_messages DROP CONSTRAINT chat_messages_pkey;
            DROP INDEX idx_messages_session_id;
            INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
            SELECT gen_random_uuid(), md5((i % {OTHERS})::text)::uuid, 'user', '{CONTENT}',
                   now() - i * interval '1 ms'
            FROM generate_series(1, {number}) i;
            ALTER TABLE chat_messages ADD CONSTRAINT chat_messages_pkey PRIMARY KEY (message_id);
            CREATE INDEX idx_messages_session_id ON chat_messages
                (session_id, timestamp, write_order, message_id);
            """
        )
        await self._connection.execute("VACUUM ANALYZE")
        await self._connection.execute("CHECKPOINT")

    async def close(self) -> None:
        await self._connection.close()


class RedisFiller:
    """Stores keys in Redis."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    @classmethod
    async def of(cls, url: str) -> RedisFiller:
        return cls(Redis.from_url(url))

    async def add_sessions(self, user_id: str, number: int) -> None:
        base, now = f"sessions:{{{user_id}}}:", datetime.now(UTC)
        for start in range(0, number, PIPELINE):
            async with self._client.pipeline(transaction=False) as pipeline:
                for each in range(start, min(start + PIPELINE, number)):
                    session_id, at = str(uuid.uuid4()), now - timedelta(seconds=each)
                    moment = encode_moment(at)
                    fields = {"t": "title", "c": moment, "u": moment, "v": 0}
                    fields["mpinned"] = "true" if each % 2 else "false"
                    pipeline.hset(f"{base}s:{session_id}", mapping=fields)
                    pipeline.zadd(f"{base}index", {index_place(at, session_id): 0})
                    pipeline.zadd("sessions:sessions", {f"{session_id}\0{user_id}": 0})
                    self._add_message(pipeline, base, session_id, at)
                pipeline.zadd("sessions:users", {user_id: 0})
                await pipeline.execute()

    async def add_messages(self, session_id: str, number: int, user_id: str = "alice") -> None:
        base, now = f"sessions:{{{user_id}}}:", datetime.now(UTC)
        for start in range(0, number, PIPELINE):
            async with self._client.pipeline(transaction=False) as pipeline:
                for each in range(start, min(start + PIPELINE, number)):
                    self._add_message(pipeline, base, session_id, now - timedelta(milliseconds=each))
                await pipeline.execute()

    def _add_message(self, pipeline: Any, base: str, session_id: str, at: datetime) -> None:
        message_id = str(uuid.uuid4())
        place = encode_moment(at) + "0"
        pipeline.zadd(f"{base}o:{session_id}", {f'{place}{message_id}\0["user","{CONTENT}"]': 0})
        pipeline.hset(f"{base}i:{session_id}", message_id, place)
        part = hashlib.sha1(message_id.encode(), usedforsecurity=False).hexdigest()[:3]
        pipeline.sadd(f"sessions:ids:{part}", message_id)

    async def add_rows(self, number: int) -> None:
        for each in range(100):
            await self.add_messages(str(uuid.uuid4()), number // 100, f"other {each}")

    async def close(self) -> None:
        await self._client.aclose()


class MongoFiller:
    """Inserts documents into MongoDB."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._database = client.get_default_database()

    @classmethod
    async def of(cls, url: str) -> MongoFiller:
        return cls(AsyncMongoClient(url))

    async def add_sessions(self, user_id: str, number: int) -> None:
        at = {"$subtract": [datetime.now(UTC), {"$multiply": ["$n", 1000]}]}
        pinned = {"pinned": {"$eq": [{"$mod": ["$n", 2]}, 0]}}
        session_id = _text(f"{user_id}-", "$n")
        fields = {"user_id": user_id, "title": "title", "metadata": pinned}
        fields |= {"session_id": session_id, "created_at": at, "updated_at": at}
        await self._add("chat_sessions", number, fields)
        message = {"session_id": session_id, "message_id": session_id, "timestamp": at}
        await self._add("chat_messages", number, message | {"role": "user", "content": CONTENT})

    async def add_messages(self, session_id: str, number: int) -> None:
        at = {"$subtract": [datetime.now(UTC), "$n"]}
        fields = {"session_id": session_id, "message_id": _text(f"{session_id}-", "$n"), "timestamp": at}
        await self._add("chat_messages", number, fields | {"role": "user", "content": CONTENT})

    async def add_rows(self, number: int) -> None:
        messages = self._database["chat_messages"]
        options = await messages.options()
        at = {"$subtract": [datetime.now(UTC), "$n"]}
        fields = {
            "session_id": _text("other-", {"$mod": ["$n", OTHERS]}),
            "message_id": _text("other-", "$n"),
            "timestamp": at,
            "role": "user",
            "content": CONTENT,
        }
        await messages.drop()
        await self._add("chat_messages", number, fields, {"$out": "chat_messages"})
        await messages.create_indexes(ChatMessageDocument.Settings.indexes)
        await self._database.command("collMod", "chat_messages", **options)
        await self._client.admin.command("fsync")

    async def _add(
        self, collection: str, number: int, fields: dict[str, Any], into: dict[str, Any] | None = None
    ) -> None:
        step = 1000
        # $range builds an array, so the numbers are made in two steps.
        numbers = {"$map": {"input": {"$range": [0, -(-number // step)]}, "in": {"k": "$$this"}}}
        merge = {"$merge": {"into": collection, "whenMatched": "fail"}}
        cursor = await self._database.aggregate(
            [
                {"$documents": numbers},
                {"$set": {"n": {"$range": [1, step + 1]}}},
                {"$unwind": "$n"},
                {"$set": {"n": {"$add": ["$n", {"$multiply": ["$k", step]}]}}},
                {"$match": {"n": {"$lte": number}}},
                {"$project": {"_id": 0} | fields},
                into or merge,
            ],
            allowDiskUse=True,
        )
        await cursor.to_list(None)

    async def close(self) -> None:
        await self._client.close()


def _text(prefix: str, number: Any) -> dict[str, Any]:
    return {"$concat": [prefix, {"$toString": number}]}


class SqliteFiller:
    """Inserts rows into SQLite."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    async def of(cls, url: str) -> SqliteFiller:
        return cls(sqlite3.connect(urlsplit(url).path.removeprefix("/")))

    async def add_sessions(self, user_id: str, number: int) -> None:
        at = "strftime('%Y-%m-%d %H:%M:%f000', 'now', -i || ' seconds')"
        self._execute(
            f"""INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at, metadata)
                SELECT lower(hex(randomblob(16))), 'title', ?, {at}, {at},
                       iif(i % 2, '{{"pinned":false}}', '{{"pinned":true}}') FROM numbers""",
            number,
            user_id,
        )
        self._execute(
            """INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
               SELECT lower(hex(randomblob(16))), session_id, 'user', ?, updated_at
               FROM chat_sessions WHERE user_id = ?""",
            1,
            CONTENT,
            user_id,
        )

    async def add_messages(self, session_id: str, number: int) -> None:
        self._execute(
            """INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
               SELECT lower(hex(randomblob(16))), ?, 'user', ?,
                      strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%.3f seconds', -i * 0.001))
               FROM numbers""",
            number,
            session_id.replace("-", ""),
            CONTENT,
        )

    async def add_rows(self, number: int) -> None:
        self._execute(
            "INSERT INTO chat_sessions (session_id, title, user_id) "
            "SELECT printf('%032x', i), 'title', 'user' || i FROM numbers",
            OTHERS,
        )
        self._execute(
            """INSERT INTO chat_messages (message_id, session_id, role, content, timestamp)
               SELECT lower(hex(randomblob(16))), printf('%032x', i % ? + 1), 'user', ?,
                      strftime('%Y-%m-%d %H:%M:%f000', 'now', printf('%.3f seconds', -i * 0.001))
               FROM numbers""",
            number,
            OTHERS,
            CONTENT,
        )

    def _execute(self, insert: str, number: int, *values: object) -> None:
        into, select = insert.split("SELECT", 1)
        numbers = (
            f"WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {number})"
        )
        self._connection.execute(f"{into} {numbers} SELECT {select}", values)
        self._connection.commit()

    async def close(self) -> None:
        self._connection.close()


FILLERS: Mapping[str, Any] = {
    "postgres": PostgresFiller,
    "mongodb": MongoFiller,
    "sqlite": SqliteFiller,
    "redis": RedisFiller,
}
