"""openai-agents: SQLAlchemySession."""

from __future__ import annotations

from typing import Any

from agents.extensions.memory import SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine


class Peer:
    def __init__(self, content: str) -> None:
        self._item: Any = {"role": "user", "content": content}
        self._sessions: dict[str, SQLAlchemySession] = {}

    async def open(self, url: str) -> None:
        self._engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))

    def _session(self, session_id: str) -> SQLAlchemySession:
        if session_id not in self._sessions:
            self._sessions[session_id] = SQLAlchemySession(
                session_id, engine=self._engine, create_tables=True
            )
        return self._sessions[session_id]

    async def append(self, session_id: str) -> None:
        await self._session(session_id).add_items([self._item])

    async def fill(self, session_id: str, size: int) -> None:
        await self._session(session_id).add_items([self._item] * size)

    async def history(self, session_id: str) -> int:
        return len(await self._session(session_id).get_items())

    async def close(self) -> None:
        await self._engine.dispose()
