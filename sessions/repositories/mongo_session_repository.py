"""The repository of MongoDB: the operations that users know on its backend."""

from __future__ import annotations

from typing import Any, ClassVar

from sessions.backends.mongodb.cleanup import CleanupResult, MongoCleanup
from sessions.backends.mongodb.connection import MongoConnectionManager
from sessions.connections import ConnectionType
from sessions.core.blocking import run_blocking
from sessions.repositories.async_session_repository import AsyncSessionRepository
from sessions.repositories.session_repository_factory import SessionRepositoryType, register_repository
from sessions.resilience import RetryConfig

__all__ = ["MongoSessionRepository"]


@register_repository(SessionRepositoryType.MONGODB)
class MongoSessionRepository(AsyncSessionRepository):
    """Sessions in MongoDB.

    Args:
        url: ``mongodb://`` or ``mongodb+srv://``; None for the configured database.
        client: A service's own client; used, never closed. It belongs to one event loop.
        connection_manager: A connection manager, instead of both.
        retry: Attempts and delays for transient errors.
        **settings: Any key of ``db.mongodb``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    CONNECTION_TYPE: ClassVar[ConnectionType] = ConnectionType.MONGODB

    def __init__(
        self,
        *,
        url: str | None = None,
        client: Any = None,
        connection_manager: MongoConnectionManager | None = None,
        retry: RetryConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            connection_manager=connection_manager, retry=retry, url=url, client=client, **settings
        )

    async def remove_orphaned_messages(self) -> CleanupResult:
        """Delete the messages that interrupted operations left; no operation returns them before either.

        Safe to run concurrently with other operations. Scans the index of all messages, so it is for
        maintenance.

        Returns:
            How many messages were deleted, and how many operations may still be running.
        """
        backend, run = self._calls.backend, self._calls.run
        assert isinstance(backend, MongoCleanup)
        finished = await run("remove_orphaned_messages", backend.clean_up_unfinished)
        removed = finished.removed
        after: str | None = ""
        while after is not None:
            orphaned, after = await run("remove_orphaned_messages", backend.find_orphaned, after)
            removed += await run("remove_orphaned_messages", backend.delete_orphaned, *orphaned)
        return CleanupResult(removed, finished.under_way)

    def remove_orphaned_messages_sync(self) -> CleanupResult:
        """Delete orphaned messages; the blocking twin of `remove_orphaned_messages`."""
        return run_blocking(self.remove_orphaned_messages)

    async def remove_leftovers(self) -> CleanupResult:
        """Delete orphaned messages. Deprecated: the name is now `remove_orphaned_messages`."""
        return await self.remove_orphaned_messages()

    def remove_leftovers_sync(self) -> CleanupResult:
        """Delete orphaned messages, blocking. Deprecated: the name is now `remove_orphaned_messages_sync`."""
        return self.remove_orphaned_messages_sync()
