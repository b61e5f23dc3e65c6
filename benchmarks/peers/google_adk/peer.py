"""google-adk: DatabaseSessionService."""

from __future__ import annotations

from frameworks.adk import APP, USER, ServiceCalls
from google.adk.sessions import DatabaseSessionService

LISTED_USER = "lister"


class Peer(ServiceCalls):
    async def open(self, url: str) -> None:
        self.service = DatabaseSessionService(url.replace("postgresql://", "postgresql+asyncpg://"))
        for _ in range(20):
            await self.service.create_session(app_name=APP, user_id=LISTED_USER)

    async def create(self) -> str:
        return (await self.service.create_session(app_name=APP, user_id=USER)).id

    async def page(self) -> int:
        return len((await self.service.list_sessions(app_name=APP, user_id=LISTED_USER)).sessions)

    async def close(self) -> None:
        await self.service.close()
