"""openai-agents: RedisSession."""

from __future__ import annotations

from agents.extensions.memory import RedisSession
from frameworks.openai_agents import SessionCalls
from redis.asyncio import Redis


class Peer(SessionCalls):
    async def open(self, url: str) -> None:
        self._client = Redis.from_url(url)

    def new_session(self, session_id: str) -> RedisSession:
        return RedisSession(session_id, redis_client=self._client)

    async def close(self) -> None:
        await self._client.aclose()
