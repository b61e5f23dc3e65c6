"""Call async and blocking operations in the same way, so that each test is written once."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from sessions.testing.twins import ASYNC_NAMES, SYNC_NAMES

__all__ = ["AsyncCaller", "Caller", "MixedCaller", "SyncCaller"]


class Caller(ABC):
    """Every operation of a repository as an awaitable call, under its name without suffix.

    Attributes:
        repository: The repository under test.
    """

    def __init__(self, repository: Any) -> None:
        self.repository = repository

    @abstractmethod
    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        """Return an operation, to be awaited."""

    @abstractmethod
    def export_user(self, user_id: Any) -> AsyncGenerator[Any, None]:
        """Iterate over an export."""


class MixedCaller(Caller):
    """Calls the names of `BaseSessionRepository`, and awaits an awaitable result."""

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        """Return an operation, to be awaited."""
        method = getattr(self.repository, operation)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call

    def export_user(self, user_id: Any) -> AsyncGenerator[Any, None]:
        """Raise: the six operations have no export."""
        raise NotImplementedError("BaseSessionRepository has no export_user")


class AsyncCaller(Caller):
    """Calls the async names, on the running loop."""

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        """Return an operation, to be awaited."""
        method: Callable[..., Awaitable[Any]] = getattr(
            self.repository, ASYNC_NAMES.get(operation, operation)
        )
        return method

    def export_user(self, user_id: Any) -> AsyncGenerator[Any, None]:
        """Iterate over ``export_user``."""
        export: AsyncGenerator[Any, None] = self.repository.export_user(user_id)
        return export


class SyncCaller(Caller):
    """Calls the sync names, each call in a worker thread."""

    def __getattr__(self, operation: str) -> Callable[..., Awaitable[Any]]:
        """Return an operation, to be awaited."""
        method = getattr(self.repository, SYNC_NAMES.get(operation, f"{operation}_sync"))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call

    async def export_user(self, user_id: Any) -> AsyncGenerator[Any, None]:
        """Iterate over ``export_user_sync``."""
        export = self.repository.export_user_sync(user_id)
        try:
            while (item := await asyncio.to_thread(next, export, None)) is not None:
                yield item
        finally:
            await asyncio.to_thread(export.close)
