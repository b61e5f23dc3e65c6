"""llama-index: SQLAlchemyChatStore, the store of `Memory`."""

from __future__ import annotations

from frameworks.llama_index import StoreCalls
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from sqlalchemy.ext.asyncio import create_async_engine


class Peer(StoreCalls):
    async def open(self, url: str) -> None:
        self._engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
        self.store = SQLAlchemyChatStore("memory", async_engine=self._engine)

    async def close(self) -> None:
        await self._engine.dispose()
