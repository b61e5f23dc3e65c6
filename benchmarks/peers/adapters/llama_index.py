"""This package's chat store of LlamaIndex."""

from __future__ import annotations

from frameworks.connected import Connected
from frameworks.llama_index import StoreCalls

from sessions.integrations.llama_index import ChatStore


class Peer(Connected, StoreCalls):
    async def open(self, url: str) -> None:
        await super().open(url)
        self.store = ChatStore(self.repository, user_id="alice")
