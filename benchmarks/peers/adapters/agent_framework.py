"""This package's history provider of the Agent Framework."""

from __future__ import annotations

from frameworks.agent_framework import ProviderCalls
from frameworks.connected import Connected

from sessions.integrations.agent_framework import HistoryProvider


class Peer(Connected, ProviderCalls):
    async def open(self, url: str) -> None:
        await super().open(url)
        self.provider = HistoryProvider(repository=self.repository, user_id="alice")
