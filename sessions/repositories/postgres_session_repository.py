"""Sessions in PostgreSQL: every operation is one statement in autocommit."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from sessions.connections import ConnectionFactory, ConnectionType
from sessions.connections.postgres import PostgresConnectionManager
from sessions.repositories.backend_operations import EarlierTries, MessageRow, NewSession
from sessions.repositories.identifiers import utc_now
from sessions.repositories.session_repository_factory import SessionRepositoryType, register_repository
from sessions.repositories.sql_session_repository import SqlSessionRepository, new_row
from sessions.repositories.sql_statements import parameters
from sessions.resilience import POSTGRES_RETRY_CONFIG, RetryConfig

__all__ = ["PostgresSessionRepository"]


@register_repository(SessionRepositoryType.POSTGRES)
class PostgresSessionRepository(SqlSessionRepository):
    """Sessions in PostgreSQL.

    Args:
        url: ``postgresql://`` or ``postgresql+asyncpg://``; None for the configured database.
        engine: A service's own ``AsyncEngine``; used, never closed.
        connection_manager: A manager made elsewhere, instead of both.
        retry: Tries and delays for transient errors.
        **settings: Any key of ``db.postgres``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        engine: AsyncEngine | None = None,
        connection_manager: PostgresConnectionManager | None = None,
        retry: RetryConfig | None = None,
        **settings: Any,
    ) -> None:
        if connection_manager is None:
            manager = ConnectionFactory.get_connection_manager(
                ConnectionType.POSTGRES, url=url, engine=engine, **settings
            )
            assert isinstance(manager, PostgresConnectionManager)
            connection_manager = manager
        super().__init__(
            ConnectionType.POSTGRES,
            connection_manager=connection_manager,
            default_retry=POSTGRES_RETRY_CONFIG,
            retry=retry,
        )

    async def _ensure(self, new: NewSession, earlier: EarlierTries) -> bool | None:
        while True:
            found = await self._fetch(self._statements.ensure_session, new_row(new))
            # No row: another caller's insert won the race after this statement's snapshot was taken.
            if found:
                break
        user_id, created_at, is_new = found[0]
        if user_id != new.user_id:
            return None
        return is_new or (earlier.failed > 0 and created_at == new.created_at)

    async def _append(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        values = parameters(session_id=session_id, user_id=user_id, now=utc_now())
        if len(rows) == 1:
            [(message_id, role, content)] = rows
            values |= parameters(message_id=message_id, role=role, content=content)
            return bool(await self._fetch(self._statements.add_message[user_id is not None], values))
        values |= parameters(
            message_ids=[message_id for message_id, _, _ in rows],
            roles=[role for _, role, _ in rows],
            contents=[content for _, _, content in rows],
        )
        return bool(await self._fetch(self._statements.add_messages[user_id is not None], values))
