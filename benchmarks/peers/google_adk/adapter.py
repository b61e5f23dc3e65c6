"""The adapter for ADK, on PostgreSQL."""

from __future__ import annotations

from google.adk.events import Event
from google.adk.sessions import Session
from google.genai.types import Content, Part

from sessions import SessionRepositoryFactory
from sessions.integrations.adk import SessionService

APP = "benchmark"
USER = "alice"


class Peer:
    def __init__(self, content: str) -> None:
        self._content = content
        self._sessions: dict[str, Session] = {}

    async def open(self, url: str) -> None:
        self._repository = SessionRepositoryFactory.create_repository("postgres", url=url)
        await self._repository.ensure_ready()
        self._service = SessionService(self._repository)

    async def append(self, session_id: str) -> None:
        if session_id not in self._sessions:
            self._sessions[session_id] = await self._service.create_session(
                app_name=APP, user_id=USER, session_id=session_id
            )
        content = Content(role="user", parts=[Part(text=self._content)])
        await self._service.append_event(self._sessions[session_id], Event(author="user", content=content))

    async def fill(self, session_id: str, size: int) -> None:
        for _ in range(size):
            await self.append(session_id)

    async def history(self, session_id: str) -> int:
        found = await self._service.get_session(app_name=APP, user_id=USER, session_id=session_id)
        assert found is not None
        return len(found.events)

    async def close(self) -> None:
        await self._repository.aclose()
