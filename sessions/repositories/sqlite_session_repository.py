"""The repository of SQLite: the operations that users know on its backend."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy.ext.asyncio import AsyncEngine

from sessions.backends.sqlite.connection import SqliteConnectionManager
from sessions.connections import ConnectionType
from sessions.repositories.async_session_repository import AsyncSessionRepository
from sessions.repositories.session_repository_factory import SessionRepositoryType, register_repository
from sessions.resilience import RetryConfig

__all__ = ["SqliteSessionRepository"]


@register_repository(SessionRepositoryType.SQLITE)
class SqliteSessionRepository(AsyncSessionRepository):
    """Sessions in one SQLite file.

    Args:
        url: ``sqlite:///file.db``, or ``sqlite://`` for a temporary database; None for the configured one.
        engine: A service's own ``AsyncEngine`` that sets ``foreign_keys=ON``; used, never closed.
        connection_manager: A connection manager, instead of both.
        retry: Attempts and delays for a file that is busy.
        **settings: Any key of ``db.sqlite``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    CONNECTION_TYPE: ClassVar[ConnectionType] = ConnectionType.SQLITE

    def __init__(
        self,
        *,
        url: str | None = None,
        engine: AsyncEngine | None = None,
        connection_manager: SqliteConnectionManager | None = None,
        retry: RetryConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            connection_manager=connection_manager, retry=retry, url=url, engine=engine, **settings
        )
