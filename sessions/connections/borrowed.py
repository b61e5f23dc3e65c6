"""Base class of the connection managers for a caller's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from sessions.connections.base import AsyncBaseConnectionManager
from sessions.core.loops import running_loop
from sessions.core.telemetry import Target
from sessions.errors import ConfigurationError

__all__ = ["BorrowedConnectionManager"]

R = TypeVar("R")


class BorrowedConnectionManager(AsyncBaseConnectionManager):
    """Uses the caller's connection, never closes it, and belongs to one event loop.

    Args:
        manager: Manager of the same database.
    """

    is_borrowed = True

    def __init__(self, manager: AsyncBaseConnectionManager) -> None:
        self._lender = manager
        self._loop = running_loop()

    async def run_step(self, step: Callable[[], Awaitable[R]]) -> R:
        """Await ``step()`` in the caller's task, whose cancellation reaches the driver.

        Raises:
            ConfigurationError: Called in another event loop, as by a blocking method.
        """
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError(
                "using: the transaction belongs to another event loop; await the async methods there"
            )
        return await step()

    async def in_transaction(self, work: Callable[[AsyncBaseConnectionManager], Awaitable[R]]) -> R:
        """Await ``work(manager)`` in the caller's transaction, which the caller ends."""
        return await work(self)

    async def disconnect(self) -> None:
        """Do nothing: the connection is the caller's."""

    async def is_healthy(self) -> bool:
        """Return whether a write would work now, on a connection of the database's own manager."""
        return await self._lender.is_healthy()

    def target(self) -> Target:
        """Return the database, as telemetry names it."""
        return self._lender.target()

    async def identity(self) -> str | None:
        """Return what tells the database from every other one."""
        return await self._lender.identity()

    def identity_epoch(self) -> Hashable:
        """Return what changes when `identity` may have changed."""
        return self._lender.identity_epoch()

    def driver_error(self, error: BaseException) -> BaseException:
        """Return the error of the driver itself."""
        return self._lender.driver_error(error)

    def is_duplicate_key(self, error: BaseException) -> bool:
        """Return whether a row with the same primary key exists."""
        return self._lender.is_duplicate_key(error)
