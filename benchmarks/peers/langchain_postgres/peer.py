"""langchain-postgres: PostgresChatMessageHistory."""

from __future__ import annotations

import psycopg
from frameworks.langchain import HistoryCalls
from langchain_postgres import PostgresChatMessageHistory

TABLE = "chat_history"


class Peer(HistoryCalls):
    async def open(self, url: str) -> None:
        self._connection = await psycopg.AsyncConnection.connect(url)
        await PostgresChatMessageHistory.acreate_tables(self._connection, TABLE)

    def new_history(self, session_id: str) -> PostgresChatMessageHistory:
        return PostgresChatMessageHistory(TABLE, session_id, async_connection=self._connection)

    async def close(self) -> None:
        await self._connection.close()
