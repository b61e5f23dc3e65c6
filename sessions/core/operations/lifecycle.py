"""Connecting, checking and closing."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sessions.core.calls import Calls

__all__ = ["LifecycleOperations"]


class LifecycleOperations:
    """Connects, checks and closes."""

    _calls: Calls

    async def ensure_ready(self) -> None:
        """Connect and make the schema ready, or raise the reason.

        For the start of a service: a wrong setting, an old schema or an absent database is found before the
        first request. Every call checks the database, also if it was ready before.
        """
        await self._calls.run("ensure_ready", self._calls.backend.make_ready)

    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises.

        The reason for False is logged as a warning.
        """
        return await self._calls.is_healthy()

    async def aclose(self) -> None:
        """Release the connections at once; all repositories and chats of the same database share them.

        A second close does nothing; a later call connects again. A service's own engine or client is
        never closed. Of several ``async with`` blocks on the same database, the last one to end closes.
        """
        await self._calls.aclose()

    async def __aenter__(self) -> Self:
        self._calls.manager.hold()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._calls.manager.release():
            await self.aclose()
