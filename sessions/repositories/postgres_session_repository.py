"""The repository of PostgreSQL: the operations that users know on its backend."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy.ext.asyncio import AsyncEngine

from sessions.backends.postgres.connection import PostgresConnectionManager
from sessions.connections import ConnectionType
from sessions.repositories.async_session_repository import AsyncSessionRepository
from sessions.repositories.session_repository_factory import SessionRepositoryType, register_repository
from sessions.resilience import RetryConfig

__all__ = ["PostgresSessionRepository"]


@register_repository(SessionRepositoryType.POSTGRES)
class PostgresSessionRepository(AsyncSessionRepository):
    """Sessions in PostgreSQL.

    Args:
        url: ``postgresql://`` or ``postgresql+asyncpg://``; None for the configured database.
        engine: A service's own ``AsyncEngine``; used, never closed.
        connection_manager: A connection manager, instead of both.
        retry: Attempts and delays for transient errors.
        **settings: Any key of ``db.postgres``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    CONNECTION_TYPE: ClassVar[ConnectionType] = ConnectionType.POSTGRES

    def __init__(
        self,
        *,
        url: str | None = None,
        engine: AsyncEngine | None = None,
        connection_manager: PostgresConnectionManager | None = None,
        retry: RetryConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            connection_manager=connection_manager, retry=retry, url=url, engine=engine, **settings
        )
