"""What is measured of a history provider of the Agent Framework."""

from __future__ import annotations

from agent_framework import HistoryProvider, Message


class ProviderCalls:
    """Saves messages and reads them.

    Args:
        content: Text of each message.
    """

    provider: HistoryProvider

    def __init__(self, content: str) -> None:
        self._content = content

    async def append(self, session_id: str) -> None:
        await self.provider.save_messages(session_id, [Message("user", [self._content])])

    async def fill(self, session_id: str, size: int) -> None:
        await self.provider.save_messages(session_id, [Message("user", [self._content]) for _ in range(size)])

    async def history(self, session_id: str) -> int:
        return len(await self.provider.get_messages(session_id))
