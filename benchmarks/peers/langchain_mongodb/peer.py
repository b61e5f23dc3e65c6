"""langchain-mongodb: MongoDBChatMessageHistory, which has no async operations of its own."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage
from langchain_mongodb import MongoDBChatMessageHistory
from pymongo import MongoClient


class Peer:
    def __init__(self, content: str) -> None:
        self._content = content
        self._histories: dict[str, MongoDBChatMessageHistory] = {}

    def open(self, url: str) -> None:
        self._client: Any = MongoClient(url)

    def _history(self, session_id: str) -> MongoDBChatMessageHistory:
        if session_id not in self._histories:
            self._histories[session_id] = MongoDBChatMessageHistory(
                None, session_id, database_name="peer", client=self._client
            )
        return self._histories[session_id]

    def append(self, session_id: str) -> None:
        self._history(session_id).add_message(HumanMessage(self._content))

    def fill(self, session_id: str, size: int) -> None:
        for _ in range(size):
            self.append(session_id)

    def history(self, session_id: str) -> int:
        return len(self._history(session_id).messages)

    def close(self) -> None:
        self._client.close()
