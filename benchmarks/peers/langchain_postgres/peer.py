"""langchain-postgres: PostgresChatMessageHistory."""

from __future__ import annotations

import psycopg
from langchain_core.messages import HumanMessage
from langchain_postgres import PostgresChatMessageHistory

TABLE = "chat_history"


class Peer:
    def __init__(self, content: str) -> None:
        self._content = content
        self._histories: dict[str, PostgresChatMessageHistory] = {}

    async def open(self, url: str) -> None:
        self._connection = await psycopg.AsyncConnection.connect(url)
        await PostgresChatMessageHistory.acreate_tables(self._connection, TABLE)

    def _history(self, session_id: str) -> PostgresChatMessageHistory:
        if session_id not in self._histories:
            self._histories[session_id] = PostgresChatMessageHistory(
                TABLE, session_id, async_connection=self._connection
            )
        return self._histories[session_id]

    async def append(self, session_id: str) -> None:
        await self._history(session_id).aadd_messages([HumanMessage(self._content)])

    async def fill(self, session_id: str, size: int) -> None:
        await self._history(session_id).aadd_messages([HumanMessage(self._content)] * size)

    async def history(self, session_id: str) -> int:
        return len(await self._history(session_id).aget_messages())

    async def close(self) -> None:
        await self._connection.close()
