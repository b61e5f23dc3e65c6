"""agent-framework-redis: RedisHistoryProvider."""

from __future__ import annotations

from agent_framework_redis import RedisHistoryProvider
from frameworks.agent_framework import ProviderCalls


class Peer(ProviderCalls):
    def open(self, url: str) -> None:
        self.provider = RedisHistoryProvider(redis_url=url, application_id="benchmark")

    async def close(self) -> None:
        await self.provider.aclose()
