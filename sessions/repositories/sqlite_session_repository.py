"""Sessions in SQLite: one statement each, or a short transaction where SQLite has no single statement."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from sessions.connections import ConnectionFactory, ConnectionType
from sessions.connections.sqlite import SqliteConnectionManager
from sessions.repositories.backend_operations import EarlierTries, MessageRow, NewSession
from sessions.repositories.identifiers import utc_now
from sessions.repositories.session_repository_factory import SessionRepositoryType, register_repository
from sessions.repositories.sql_session_repository import SqlSessionRepository, new_row
from sessions.repositories.sql_statements import parameters
from sessions.resilience import SQLITE_RETRY_CONFIG, RetryConfig

__all__ = ["SqliteSessionRepository"]


@register_repository(SessionRepositoryType.SQLITE)
class SqliteSessionRepository(SqlSessionRepository):
    """Sessions in one SQLite file.

    Args:
        url: ``sqlite:///file.db``, or ``sqlite://`` for a temporary database; None for the configured one.
        engine: A service's own ``AsyncEngine`` that sets ``foreign_keys=ON``; used, never closed.
        connection_manager: A manager made elsewhere, instead of both.
        retry: Tries and delays for a file that others keep busy.
        **settings: Any key of ``db.sqlite``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        engine: AsyncEngine | None = None,
        connection_manager: SqliteConnectionManager | None = None,
        retry: RetryConfig | None = None,
        **settings: Any,
    ) -> None:
        if connection_manager is None:
            manager = ConnectionFactory.get_connection_manager(
                ConnectionType.SQLITE, url=url, engine=engine, **settings
            )
            assert isinstance(manager, SqliteConnectionManager)
            connection_manager = manager
        super().__init__(
            ConnectionType.SQLITE,
            connection_manager=connection_manager,
            default_retry=SQLITE_RETRY_CONFIG,
            retry=retry,
        )

    @contextlib.asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        """Open a write transaction, and commit or take it back."""
        async with self._sql_manager.connection() as connection:
            # IMMEDIATE takes the write lock now: a read lock cannot be upgraded while another waits.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            await connection.exec_driver_sql("COMMIT")
            # On any error the pool rolls back when it takes the connection in.

    async def _ensure(self, new: NewSession, earlier: EarlierTries) -> bool | None:
        row = new_row(new)
        # Looked up first: readers do not wait for the one writer, and mostly the session is there.
        found: Sequence[Any] = await self._fetch(self._statements.find_owner, row)
        if not found:
            async with self._write() as connection:
                if (await connection.execute(self._statements.ensure_session, row)).rowcount:
                    return True
                found = (await connection.execute(self._statements.find_owner, row)).all()
        [(owner, _)] = found
        return False if owner == new.user_id else None

    async def _append(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        touch = self._statements.touch_session[user_id is not None]
        key = parameters(session_id=session_id, user_id=user_id, now=utc_now())
        async with self._write() as connection:
            touched = (await connection.execute(touch, key)).first()
            if touched is None:
                return False
            messages = [
                parameters(
                    message_id=message_id,
                    session_id=session_id,
                    role=role,
                    content=content,
                    timestamp=touched.updated_at,
                )
                for message_id, role, content in rows
            ]
            if messages:
                await connection.execute(self._statements.insert_message, messages)
            return True
