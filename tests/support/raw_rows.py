"""What is really in a database, read and written past the package."""

from __future__ import annotations

import json
import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import asyncpg
import redis
from pymongo import MongoClient

from sessions.backends.redis import mapping
from tests.support.databases import Backend, run_in_thread

Row = dict[str, Any]

MESSAGES = "SELECT message_id, session_id, role, content, timestamp FROM chat_messages"
SESSIONS = "SELECT session_id, user_id, title, metadata, created_at, updated_at FROM chat_sessions"
INSERT_SESSION = "INSERT INTO chat_sessions (session_id, user_id, title, metadata, created_at, updated_at)"
MONGO_MESSAGE = dict.fromkeys(("message_id", "session_id", "role", "content", "timestamp"), 1) | {"_id": 0}
MONGO_SESSION = dict.fromkeys(
    ("session_id", "user_id", "title", "metadata", "created_at", "updated_at"), 1
) | {"_id": 0}


def messages(backend: Backend) -> list[Row]:
    """Return all messages, in the order of their ids."""
    return sorted(_read(backend, MESSAGES, "chat_messages", MONGO_MESSAGE), key=lambda row: row["message_id"])


def sessions(backend: Backend) -> list[Row]:
    """Return all sessions, in the order of their ids."""
    return sorted(_read(backend, SESSIONS, "chat_sessions", MONGO_SESSION), key=lambda row: row["session_id"])


def everything(backend: Backend) -> tuple[list[Row], list[Row]]:
    """Return all sessions and messages; equal to an earlier answer if nothing was stored or changed."""
    return sessions(backend), messages(backend)


def orphans(backend: Backend) -> list[Row]:
    """Return the messages whose session is not there."""
    there = {row["session_id"] for row in sessions(backend)}
    return [row for row in messages(backend) if row["session_id"] not in there]


def add_sessions(backend: Backend, user_id: str, moments: list[datetime]) -> list[str]:
    """Store a session for each ``updated_at`` and return their ids."""
    ids = [str(uuid.uuid4()) for _ in moments]
    if backend.repository_type == "mongodb":
        with MongoClient[Row](backend.url) as client:
            client.get_default_database()["chat_sessions"].insert_many(
                [
                    {"session_id": session_id, "user_id": user_id, "title": "raw", "metadata": {}}
                    | {"created_at": moment, "updated_at": moment}
                    for session_id, moment in zip(ids, moments, strict=True)
                ]
            )
    elif backend.repository_type == "postgres":

        async def insert(connection: Any) -> None:
            rows = [(session_id, user_id, moment) for session_id, moment in zip(ids, moments, strict=True)]
            await connection.executemany(f"{INSERT_SESSION} VALUES ($1, $2, 'raw', '{{}}', $3, $3)", rows)

        _on_postgres(backend, insert)
    elif backend.repository_type == "redis":
        base = f"sessions:{{{mapping.tag_of(user_id)}}}:"
        with redis.Redis.from_url(backend.url) as client:
            for session_id, moment in zip(ids, moments, strict=True):
                text = mapping.encode_moment(moment)
                client.hset(f"{base}s:{session_id}", mapping={"t": "raw", "c": text, "u": text, "v": "0"})
                client.zadd(f"{base}index", {mapping.index_place(moment, session_id): 0})
                client.zadd("sessions:sessions", {f"{session_id}\0{mapping.tag_of(user_id)}": 0})
                client.zadd("sessions:users", {mapping.tag_of(user_id): 0})
    else:
        with closing(sqlite3.connect(_file(backend))) as connection, connection:
            rows = [
                (session_id.replace("-", ""), user_id, "raw", "{}", *[f"{moment:%Y-%m-%d %H:%M:%S.%f}"] * 2)
                for session_id, moment in zip(ids, moments, strict=True)
            ]
            connection.executemany(f"{INSERT_SESSION} VALUES (?, ?, ?, ?, ?, ?)", rows)
    return ids


def _read(backend: Backend, query: str, collection: str, projection: Row) -> list[Row]:
    if backend.repository_type == "mongodb":
        with MongoClient[Row](backend.url) as client:
            return list(client.get_default_database()[collection].find({}, projection))
    if backend.repository_type == "redis":
        return _read_redis(backend, collection, projection)
    if backend.repository_type == "postgres":

        async def fetch(connection: Any) -> list[Row]:
            return [dict(row) for row in await connection.fetch(query)]

        rows = _on_postgres(backend, fetch)
    else:
        with closing(sqlite3.connect(_file(backend))) as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute(query)]
    for row in rows:
        for name in ("session_id", "message_id"):
            if name in row:
                row[name] = str(uuid.UUID(str(row[name])))
        if "metadata" in row:
            row["metadata"] = json.loads(row["metadata"])
    return rows


def _read_redis(backend: Backend, collection: str, projection: Row) -> list[Row]:
    found: list[Any] = []
    kind = "s" if collection == "chat_sessions" else "o"
    with redis.Redis.from_url(backend.url, decode_responses=True) as client:
        for key in client.scan_iter(f"sessions:{{*}}:{kind}:*", count=1000):
            tag, _, session_id = key.removeprefix("sessions:{").partition(f"}}:{kind}:")
            if kind == "s":
                fields = [text for pair in client.hgetall(key).items() for text in pair]
                found.append(mapping.to_session(session_id, mapping.user_of(tag), fields))
            else:
                found += [mapping.to_message(session_id, member) for member in client.zrange(key, 0, -1)]
    return [{name: getattr(item, name) for name, chosen in projection.items() if chosen} for item in found]


def _on_postgres(backend: Backend, work: Any) -> Any:
    async def connected() -> Any:
        connection = await asyncpg.connect(backend.url)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return run_in_thread(connected)


def _file(backend: Backend) -> str:
    return backend.url.removeprefix("sqlite:///")


def in_milliseconds(count: int) -> list[datetime]:
    """Return moments in the past of which several are the same."""
    start = int(datetime.now(UTC).timestamp()) - 100_000
    return [datetime.fromtimestamp(start + number // 7 / 1000, UTC) for number in range(count)]
