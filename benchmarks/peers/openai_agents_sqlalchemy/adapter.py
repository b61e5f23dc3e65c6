"""The adapter for the OpenAI Agents SDK, on PostgreSQL."""

from __future__ import annotations

from typing import Any

from sessions import SessionRepositoryFactory
from sessions.integrations.openai_agents import AgentSession


class Peer:
    def __init__(self, content: str) -> None:
        self._item: Any = {"role": "user", "content": content}
        self._sessions: dict[str, AgentSession] = {}

    async def open(self, url: str) -> None:
        self._repository = SessionRepositoryFactory.create_repository("postgres", url=url)
        await self._repository.ensure_ready()

    def _session(self, session_id: str) -> AgentSession:
        if session_id not in self._sessions:
            self._sessions[session_id] = AgentSession(
                session_id, repository=self._repository, user_id="alice"
            )
        return self._sessions[session_id]

    async def append(self, session_id: str) -> None:
        await self._session(session_id).add_items([self._item])

    async def fill(self, session_id: str, size: int) -> None:
        await self._session(session_id).add_items([self._item] * size)

    async def history(self, session_id: str) -> int:
        return len(await self._session(session_id).get_items())

    async def close(self) -> None:
        await self._repository.aclose()
