"""The private part of redis-py that `sessions.backends.redis` uses behaves as it expects."""

from __future__ import annotations

from redis.asyncio import Redis

from sessions.backends.redis.internals import connections_idle


async def test_a_connection_that_was_used_is_idle(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        assert connections_idle(client.connection_pool) == 0
        connection = await client.connection_pool.get_connection()
        assert connections_idle(client.connection_pool) == 0
        await client.connection_pool.release(connection)
        assert connections_idle(client.connection_pool) == 1
