"""llama-index: SQLAlchemyChatStore, the store of `Memory`."""

from __future__ import annotations

from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from sqlalchemy.ext.asyncio import create_async_engine


class Peer:
    def __init__(self, content: str) -> None:
        self._message = ChatMessage(role="user", content=content)

    async def open(self, url: str) -> None:
        self._engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
        self._store = SQLAlchemyChatStore("memory", async_engine=self._engine)

    async def append(self, session_id: str) -> None:
        await self._store.add_message(session_id, self._message)

    async def fill(self, session_id: str, size: int) -> None:
        await self._store.add_messages(session_id, [self._message] * size)

    async def history(self, session_id: str) -> int:
        return len(await self._store.get_messages(session_id))

    async def close(self) -> None:
        await self._engine.dispose()
