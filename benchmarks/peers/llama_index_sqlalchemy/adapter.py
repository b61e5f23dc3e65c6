"""The adapter for LlamaIndex, on PostgreSQL."""

from __future__ import annotations

from llama_index.core.llms import ChatMessage

from sessions import SessionRepositoryFactory
from sessions.integrations.llama_index import ChatStore


class Peer:
    def __init__(self, content: str) -> None:
        self._message = ChatMessage(role="user", content=content)

    async def open(self, url: str) -> None:
        self._repository = SessionRepositoryFactory.create_repository("postgres", url=url)
        await self._repository.ensure_ready()
        self._store = ChatStore(self._repository, user_id="alice")

    async def append(self, session_id: str) -> None:
        await self._store.add_message(session_id, self._message)

    async def fill(self, session_id: str, size: int) -> None:
        await self._store.add_messages(session_id, [self._message] * size)

    async def history(self, session_id: str) -> int:
        return len(await self._store.get_messages(session_id))

    async def close(self) -> None:
        await self._repository.aclose()
