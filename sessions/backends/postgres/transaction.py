"""A transaction on a connection of this package's own pool."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import Executable

from sessions.backends.sql.compiled import CompiledStatements
from sessions.backends.sql.engine import SqlConnectionManager
from sessions.connections.borrowed import BorrowedConnectionManager
from sessions.errors import SessionsError

__all__ = ["PostgresTransaction"]


class PostgresTransaction(BorrowedConnectionManager):
    """Executes statements in a transaction that the manager begins, commits and rolls back.

    Args:
        manager: Manager of the database.
        compiled: Its statements.
        connection: In the transaction.
    """

    def __init__(
        self, manager: SqlConnectionManager, compiled: CompiledStatements, connection: asyncpg.Connection
    ) -> None:
        super().__init__(manager)
        self._compiled = compiled
        self._connection = connection
        # It executes one statement at a time; concurrent calls take turns.
        self._turn = asyncio.Lock()
        self.dialect = manager.dialect
        self.statement_options = manager.statement_options

    async def connect(self) -> asyncpg.Connection:
        """Return the connection."""
        return self._connection

    async def fetch(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute one statement and return its rows, each with its columns in order."""
        compiled = self._compiled(statement)
        async with self._turn:
            rows = await self._connection.fetch(compiled.query, *compiled.arguments(parameters))
        return compiled.rows(rows)

    async def fetch_locked(
        self, lock: Executable, statement: Executable, parameters: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Execute a statement that locks rows, then another one; return the rows of that."""
        await self.execute(lock, parameters)
        return await self.fetch(statement, parameters)

    async def execute(self, statement: Executable, parameters: Mapping[str, Any]) -> int:
        """Execute one statement and return how many rows it wrote."""
        compiled = self._compiled(statement)
        async with self._turn:
            status = await self._connection.execute(compiled.query, *compiled.arguments(parameters))
        return int(status.rpartition(" ")[2])  # Such as "DELETE 3".

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return None: the manager, which may repeat the transaction, translates its error."""
        return None
