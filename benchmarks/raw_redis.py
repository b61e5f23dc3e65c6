"""redis-py with the package's keys: the same writes, in a transaction of the server."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
import uuid_utils
from redis.asyncio import Redis

from benchmarks.fillers import CONTENT

__all__ = ["RawBlockingRedis", "RawRedis"]

USER = "alice"
YEAR_1 = datetime(1, 1, 1, tzinfo=UTC)
LAST = timedelta(seconds=999_999_999_999, microseconds=999_999)


def _text(since: timedelta) -> str:
    return f"{since.days * 86400 + since.seconds:012d}{since.microseconds:06d}"


def _base(user_id: str) -> str:
    return f"sessions:{{{user_id}}}:"


def _append(pipeline: Any, session_id: str, old: str | None, contents: list[str]) -> str:
    """Add the commands of an append; return the session's place in the index."""
    base, since = _base(USER), datetime.now(UTC) - YEAR_1
    moment = _text(since)
    members, places = {}, {}
    for content in contents:
        message_id = str(uuid_utils.uuid7())
        place = f"{moment}1{moment:0>19}"
        members[f"{place}{message_id}\0{json.dumps(['user', content])}"] = 0
        places[message_id] = place
    pipeline.zadd(f"{base}o:{session_id}", members)
    pipeline.hset(f"{base}i:{session_id}", mapping=places)
    for message_id in places:
        pipeline.sadd(f"sessions:ids:{message_id[-3:]}", message_id)
    member = f"{_text(LAST - since)}{session_id}"
    pipeline.zadd(f"{base}index", {member: 0})
    if old is not None:
        pipeline.zrem(f"{base}index", old)
    pipeline.hset(f"{base}s:{session_id}", "u", moment)
    pipeline.hincrby(f"{base}s:{session_id}", "v", 1)
    return member


class RawRedis:
    """redis-py's asyncio client."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._places: dict[str, str] = {}

    async def create(self, user_id: str = USER) -> str:
        session_id, base, since = str(uuid.uuid4()), _base(user_id), datetime.now(UTC) - YEAR_1
        moment = _text(since)
        async with self._client.pipeline(transaction=True) as pipeline:
            fields = {"t": "New Chat", "c": moment, "u": moment, "v": 0, "k": session_id}
            pipeline.hset(f"{base}s:{session_id}", mapping=fields)
            pipeline.zadd(f"{base}index", {f"{_text(LAST - since)}{session_id}": 0})
            pipeline.zadd("sessions:sessions", {f"{session_id}\0{user_id}": 0})
            pipeline.zadd("sessions:users", {user_id: 0})
            await pipeline.execute()
        return session_id

    async def append(self, session_id: str, contents: list[str] | None = None) -> object:
        async with self._client.pipeline(transaction=True) as pipeline:
            old = self._places.get(session_id)
            self._places[session_id] = _append(pipeline, session_id, old, contents or [CONTENT])
            return await pipeline.execute()

    async def append_batch(self, session_id: str, size: int) -> object:
        return await self.append(session_id, [CONTENT] * size)

    async def history(self, session_id: str) -> list[Any]:
        members = await self._client.zrange(f"{_base(USER)}o:{session_id}", 0, -1)
        return [json.loads(member.partition(b"\0")[2]) for member in members]

    async def page(self, user_id: str) -> list[Any]:
        base = _base(user_id)
        members = await self._client.zrange(f"{base}index", 0, 19)
        async with self._client.pipeline(transaction=False) as pipeline:
            for member in members:
                pipeline.hgetall(f"{base}s:{member[18:].decode()}")
            return list(await pipeline.execute())

    async def close(self) -> None:
        await self._client.aclose()


class RawBlockingRedis:
    """redis-py's blocking client."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._places: dict[str, str] = {}

    def append(self, session_id: str) -> None:
        with self._client.pipeline(transaction=True) as pipeline:
            old = self._places.get(session_id)
            self._places[session_id] = _append(pipeline, session_id, old, [CONTENT])
            pipeline.execute()
