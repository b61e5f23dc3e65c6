"""The repository of an adapter."""

from __future__ import annotations

from sessions import AsyncChats


class Connected:
    """Opens the repository of a database of any kind, and closes it."""

    async def open(self, url: str) -> None:
        self.repository = AsyncChats(url).repository
        await self.repository.ensure_ready()

    async def close(self) -> None:
        await self.repository.aclose()
