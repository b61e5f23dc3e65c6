"""This package's session service of ADK."""

from __future__ import annotations

from frameworks.adk import ServiceCalls
from frameworks.connected import Connected

from sessions.integrations.adk import SessionService


class Peer(Connected, ServiceCalls):
    async def open(self, url: str) -> None:
        await super().open(url)
        self.service = SessionService(self.repository)
