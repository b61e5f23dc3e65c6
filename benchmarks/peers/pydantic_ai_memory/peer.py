"""Pydantic AI: InMemoryConversationStore, the only store that it has; it is lost with its process."""

from __future__ import annotations

from frameworks.pydantic_ai import StoreCalls
from pydantic_ai.conversation_store import InMemoryConversationStore


class Peer(StoreCalls):
    def open(self, url: str) -> None:
        self.store = InMemoryConversationStore()

    def close(self) -> None:
        pass
