"""llama-index: PostgresChatStore."""

from __future__ import annotations

from llama_index.core.llms import ChatMessage
from llama_index.storage.chat_store.postgres import PostgresChatStore


class Peer:
    def __init__(self, content: str) -> None:
        self._message = ChatMessage(role="user", content=content)

    async def open(self, url: str) -> None:
        self._store = PostgresChatStore.from_params(
            connection_string=url.replace("postgresql://", "postgresql+psycopg://"),
            async_connection_string=url.replace("postgresql://", "postgresql+asyncpg://"),
        )

    async def append(self, session_id: str) -> None:
        await self._store.async_add_message(session_id, self._message)

    async def fill(self, session_id: str, size: int) -> None:
        await self._store.aset_messages(session_id, [self._message] * size)

    async def history(self, session_id: str) -> int:
        return len(await self._store.aget_messages(session_id))

    async def close(self) -> None:
        pass
