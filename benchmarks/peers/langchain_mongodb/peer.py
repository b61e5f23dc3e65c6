"""langchain-mongodb: MongoDBChatMessageHistory, which has no async operations of its own."""

from __future__ import annotations

from typing import Any

from frameworks.langchain import BlockingHistoryCalls
from langchain_mongodb import MongoDBChatMessageHistory
from pymongo import MongoClient


class Peer(BlockingHistoryCalls):
    def open(self, url: str) -> None:
        self._client: Any = MongoClient(url)

    def new_history(self, session_id: str) -> MongoDBChatMessageHistory:
        return MongoDBChatMessageHistory(None, session_id, database_name="peer", client=self._client)

    def close(self) -> None:
        self._client.close()
