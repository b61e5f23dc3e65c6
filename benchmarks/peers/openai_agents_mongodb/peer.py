"""openai-agents: MongoDBSession."""

from __future__ import annotations

from typing import Any

from agents.extensions.memory import MongoDBSession
from frameworks.openai_agents import SessionCalls
from pymongo import AsyncMongoClient


class Peer(SessionCalls):
    async def open(self, url: str) -> None:
        self._client: Any = AsyncMongoClient(url)

    def new_session(self, session_id: str) -> MongoDBSession:
        return MongoDBSession(session_id, client=self._client, database="peer")

    async def fill(self, session_id: str, size: int) -> None:
        for _ in range(size):  # A batch is one document; a conversation grows by single items.
            await self.append(session_id)

    async def close(self) -> None:
        await self._client.close()
