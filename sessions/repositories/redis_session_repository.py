"""The repository of Redis and Valkey: the operations that users know on their backend."""

from __future__ import annotations

from typing import Any, ClassVar

from sessions.backends.redis.connection import RedisConnectionManager
from sessions.connections import ConnectionType
from sessions.repositories.async_session_repository import AsyncSessionRepository
from sessions.repositories.session_repository_factory import SessionRepositoryType, register_repository
from sessions.resilience import RetryConfig

__all__ = ["RedisSessionRepository"]


@register_repository(SessionRepositoryType.REDIS)
class RedisSessionRepository(AsyncSessionRepository):
    """Sessions in one database of a Redis or Valkey server.

    Args:
        url: ``redis://…``, ``rediss://…``, ``valkey://…`` or ``unix://…``; None for the configured one.
        client: A service's own ``redis.asyncio.Redis``, used and never closed; it belongs to one event loop.
            Or its ``redis.asyncio.RedisCluster``, which says where the nodes are and how to connect to them.
        connection_manager: A connection manager, instead of both.
        retry: Attempts and delays for a server that does not respond.
        **settings: Any key of ``db.redis``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    CONNECTION_TYPE: ClassVar[ConnectionType] = ConnectionType.REDIS

    def __init__(
        self,
        *,
        url: str | None = None,
        client: Any = None,
        connection_manager: RedisConnectionManager | None = None,
        retry: RetryConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            connection_manager=connection_manager, retry=retry, url=url, client=client, **settings
        )
