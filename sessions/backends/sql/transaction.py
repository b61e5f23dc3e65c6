"""A caller's own transaction, in place of this package's connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, delete, false
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from sessions.backends.sql.engine import SqlConnectionManager
from sessions.backends.sql.executing import ConnectionExecutor, Executor
from sessions.connections.borrowed import BorrowedConnectionManager
from sessions.errors import ConfigurationError, SessionsError
from sessions.models.records import ChatSessionRecord

__all__ = ["OwnSqlTransaction", "SqlTransaction"]

R = TypeVar("R")

# Deletes nothing.
_TAKE_WRITE_LOCK = delete(ChatSessionRecord).where(false())


class SqlTransaction(BorrowedConnectionManager):
    """Executes statements in a transaction that the caller begins, commits and rolls back.

    Nothing is committed, repeated or closed here.

    Args:
        manager: Manager of the same database.
        transaction: The caller's ``AsyncSession`` or ``AsyncConnection``.

    Raises:
        ConfigurationError: It is neither, or of another kind of database.
    """

    def __init__(self, manager: SqlConnectionManager, transaction: object) -> None:
        if not isinstance(transaction, AsyncSession | AsyncConnection):
            kind = type(transaction).__name__
            raise ConfigurationError(f"using: must be an AsyncSession or an AsyncConnection, not {kind}")
        super().__init__(manager)
        self._manager = manager
        self._transaction = transaction
        # A connection executes one statement at a time; concurrent calls take turns.
        self._turn = asyncio.Lock()
        self.dialect = manager.dialect
        self.statement_options = manager.statement_options
        if isinstance(transaction, AsyncConnection):
            self._check_dialect(transaction)

    def _check_dialect(self, connection: AsyncConnection) -> None:
        if connection.dialect.name != self.dialect:
            raise ConfigurationError(f"using: is for {connection.dialect.name}, not {self.dialect}")

    async def connect(self) -> AsyncConnection:
        """Return the caller's connection; an ``AsyncSession`` begins its transaction, if it has none."""
        if isinstance(self._transaction, AsyncConnection):
            return self._transaction
        connection = await self._transaction.connection()
        self._check_dialect(connection)
        return connection

    async def fetch(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute one statement and return its rows, each with its columns in order."""
        rows: Sequence[Any] = (await self._execute(statement, parameters)).all()
        return rows

    async def fetch_locked(
        self, lock: Executable, statement: Executable, parameters: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Execute a statement that locks rows, then another one; return the rows of that."""
        await self._execute(lock, parameters)
        return await self.fetch(statement, parameters)

    async def execute(self, statement: Executable, parameters: Mapping[str, Any]) -> int:
        """Execute one statement and return how many rows it wrote."""
        count: int = (await self._execute(statement, parameters)).rowcount
        return count

    async def _execute(self, statement: Executable, parameters: Mapping[str, Any]) -> Any:
        async with self._turn:
            connection = await self.connect()
            return await connection.execute(statement, parameters, execution_options=self.statement_options)

    async def write(self, work: Callable[[Executor], R]) -> R:
        """Call a function that executes several statements of one transaction, with SQLite's write lock.

        The driver begins a transaction with the first statement that writes: what was read before it could
        change until then.
        """
        async with self._turn:
            connection = await self.connect()
            await connection.execute(_TAKE_WRITE_LOCK)
            return await connection.run_sync(self._work_on, work)

    def _work_on(self, connection: Connection, work: Callable[[Executor], R]) -> R:
        return work(ConnectionExecutor(connection, self._manager.statement_options))

    async def identity(self) -> str | None:
        """Return what tells the database from every other one, on the caller's connection.

        Another one might not be free before the transaction ends.
        """
        return await self._manager.identity_from(self)

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for one of SQLAlchemy or the driver."""
        return self._manager.translate(error)


class OwnSqlTransaction(SqlTransaction):
    """Executes statements in a transaction that the manager begins, commits and rolls back.

    On SQLite it holds the write lock.
    """

    async def write(self, work: Callable[[Executor], R]) -> R:
        """Call a function that executes several statements of the transaction."""
        async with self._turn:
            return await (await self.connect()).run_sync(self._work_on, work)

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return None: the manager, which may repeat the transaction, translates its error."""
        return None
