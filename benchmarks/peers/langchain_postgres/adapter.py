"""The adapter for LangChain, on PostgreSQL."""

from __future__ import annotations

from langchain_core.messages import HumanMessage

from sessions import SessionRepositoryFactory
from sessions.integrations.langchain import ChatMessageHistory


class Peer:
    def __init__(self, content: str) -> None:
        self._content = content
        self._histories: dict[str, ChatMessageHistory] = {}

    async def open(self, url: str) -> None:
        self._repository = SessionRepositoryFactory.create_repository("postgres", url=url)
        await self._repository.ensure_ready()

    def _history(self, session_id: str) -> ChatMessageHistory:
        if session_id not in self._histories:
            self._histories[session_id] = ChatMessageHistory(
                session_id, repository=self._repository, user_id="alice"
            )
        return self._histories[session_id]

    async def append(self, session_id: str) -> None:
        await self._history(session_id).aadd_messages([HumanMessage(self._content)])

    async def fill(self, session_id: str, size: int) -> None:
        await self._history(session_id).aadd_messages([HumanMessage(self._content)] * size)

    async def history(self, session_id: str) -> int:
        return len(await self._history(session_id).aget_messages())

    async def close(self) -> None:
        await self._repository.aclose()
