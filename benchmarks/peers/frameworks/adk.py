"""What is measured of a session service of ADK."""

from __future__ import annotations

from google.adk.events import Event
from google.adk.sessions import BaseSessionService, Session
from google.genai.types import Content, Part

APP = "benchmark"
USER = "alice"


class ServiceCalls:
    """Appends events to sessions and reads them.

    Args:
        content: Text of each event.
    """

    service: BaseSessionService

    def __init__(self, content: str) -> None:
        self._content = content
        self._sessions: dict[str, Session] = {}

    async def append(self, session_id: str) -> None:
        if session_id not in self._sessions:
            self._sessions[session_id] = await self.service.create_session(
                app_name=APP, user_id=USER, session_id=session_id
            )
        content = Content(role="user", parts=[Part(text=self._content)])
        await self.service.append_event(self._sessions[session_id], Event(author="user", content=content))

    async def fill(self, session_id: str, size: int) -> None:
        for _ in range(size):
            await self.append(session_id)

    async def history(self, session_id: str) -> int:
        found = await self.service.get_session(app_name=APP, user_id=USER, session_id=session_id)
        assert found is not None
        return len(found.events)
