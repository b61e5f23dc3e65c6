"""What is measured of a chat store of LlamaIndex."""

from __future__ import annotations

from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore


class StoreCalls:
    """Appends messages to conversations and reads them.

    Args:
        content: Text of each message.
    """

    store: AsyncDBChatStore

    def __init__(self, content: str) -> None:
        self._message = ChatMessage(role="user", content=content)

    async def append(self, session_id: str) -> None:
        await self.store.add_message(session_id, self._message)

    async def fill(self, session_id: str, size: int) -> None:
        await self.store.add_messages(session_id, [self._message] * size)

    async def history(self, session_id: str) -> int:
        return len(await self.store.get_messages(session_id))
