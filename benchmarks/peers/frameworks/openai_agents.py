"""What is measured of a session of the OpenAI Agents SDK."""

from __future__ import annotations

from typing import Any


class SessionCalls:
    """Appends items to sessions and reads them.

    Args:
        content: Text of each item.
    """

    def __init__(self, content: str) -> None:
        self.item: Any = {"role": "user", "content": content}
        self._sessions: dict[str, Any] = {}

    def new_session(self, session_id: str) -> Any:
        raise NotImplementedError

    def session(self, session_id: str) -> Any:
        if session_id not in self._sessions:
            self._sessions[session_id] = self.new_session(session_id)
        return self._sessions[session_id]

    async def append(self, session_id: str) -> None:
        await self.session(session_id).add_items([self.item])

    async def fill(self, session_id: str, size: int) -> None:
        await self.session(session_id).add_items([self.item] * size)

    async def history(self, session_id: str) -> int:
        return len(await self.session(session_id).get_items())
