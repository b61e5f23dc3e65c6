"""openai-agents: SQLAlchemySession."""

from __future__ import annotations

from agents.extensions.memory import SQLAlchemySession
from frameworks.openai_agents import SessionCalls
from sqlalchemy.ext.asyncio import create_async_engine


class Peer(SessionCalls):
    async def open(self, url: str) -> None:
        self._engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))

    def new_session(self, session_id: str) -> SQLAlchemySession:
        return SQLAlchemySession(session_id, engine=self._engine, create_tables=True)

    async def close(self) -> None:
        await self._engine.dispose()
