"""google-adk: DatabaseSessionService."""

from __future__ import annotations

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService, Session
from google.genai.types import Content, Part

APP = "benchmark"
USER = "alice"
LISTED_USER = "lister"


class Peer:
    def __init__(self, content: str) -> None:
        self._content = content
        self._sessions: dict[str, Session] = {}

    async def open(self, url: str) -> None:
        self._service = DatabaseSessionService(url.replace("postgresql://", "postgresql+asyncpg://"))
        for _ in range(20):
            await self._service.create_session(app_name=APP, user_id=LISTED_USER)

    async def create(self) -> str:
        return (await self._service.create_session(app_name=APP, user_id=USER)).id

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

    async def page(self) -> int:
        return len((await self._service.list_sessions(app_name=APP, user_id=LISTED_USER)).sessions)

    async def close(self) -> None:
        await self._service.close()
