"""This package's conversation store of Pydantic AI."""

from __future__ import annotations

from frameworks.connected import Connected
from frameworks.pydantic_ai import StoreCalls

from sessions.integrations.pydantic_ai import ConversationStore


class Peer(Connected, StoreCalls):
    async def open(self, url: str) -> None:
        await super().open(url)
        self.store = ConversationStore(self.repository, user_id="alice")
