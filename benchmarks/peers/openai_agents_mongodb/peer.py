"""openai-agents: MongoDBSession."""

from __future__ import annotations

from typing import Any

from agents.extensions.memory import MongoDBSession
from pymongo import AsyncMongoClient


class Peer:
    def __init__(self, content: str) -> None:
        self._item: Any = {"role": "user", "content": content}
        self._sessions: dict[str, MongoDBSession] = {}

    async def open(self, url: str) -> None:
        self._client: Any = AsyncMongoClient(url)

    def _session(self, session_id: str) -> MongoDBSession:
        if session_id not in self._sessions:
            self._sessions[session_id] = MongoDBSession(session_id, client=self._client, database="peer")
        return self._sessions[session_id]

    async def append(self, session_id: str) -> None:
        await self._session(session_id).add_items([self._item])

    async def fill(self, session_id: str, size: int) -> None:
        for _ in range(size):  # A batch is one document; a conversation grows by single items.
            await self._session(session_id).add_items([self._item])

    async def history(self, session_id: str) -> int:
        return len(await self._session(session_id).get_items())

    async def close(self) -> None:
        await self._client.close()
