"""Reads and writes of one SQLite file, whose writers take turns."""

from __future__ import annotations

import contextlib
import functools
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Executable
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.backends.sql.engine import SqlConnectionManager, SqlPool
from sessions.backends.sql.executing import ConnectionExecutor, Executor
from sessions.backends.sql.transaction import OwnSqlTransaction
from sessions.backends.sqlite.driver import is_ended_by_fork
from sessions.backends.sqlite.errors import driver_error
from sessions.backends.sqlite.executing import compiled, execute_alone, execute_in_transaction, fetch_all
from sessions.backends.sqlite.files import FileId
from sessions.backends.sqlite.pool import SqlitePool
from sessions.backends.sqlite.setup import busy_timeout
from sessions.connections.base import AsyncBaseConnectionManager
from sessions.core.turns import Turns

__all__ = ["SqliteCalls"]

R = TypeVar("R")

# Part of the busy timeout; a writer that waited less keeps the connection's own busy timeout.
SOON = 0.25


class SqliteCalls(SqlConnectionManager):
    """Executes statements, in the threads of this package's own connections or on a service's engine."""

    _busy_timeout: float
    _prepared_file: FileId | None
    _turns: Turns

    @abstractmethod
    def _ready_now(self) -> SqlPool | None:
        """Return what `_ready` returns; None if that takes more than a look."""

    def run_step(self, step: Callable[[], Awaitable[R]]) -> Awaitable[R]:
        """Await ``step()``; without a task for each call if the pool itself handles cancellation."""
        if self._schema_ready and self._own:
            return _repeated_after_fork(step)
        return super().run_step(functools.partial(_repeated_after_fork, step))

    def _own_pool(self, pool: SqlPool) -> SqlitePool | None:
        """Return this package's own pool; None if its engine, or a service's, executes the statements.

        Those who listen to the statements of an engine see them all.
        """
        is_own = isinstance(pool, SqlitePool) and not pool.engine.sync_engine.dispatch.before_cursor_execute
        return cast(SqlitePool, pool) if is_own else None

    def _in_use(self, pool: SqlPool) -> int:
        return super()._in_use(pool) - (pool.kept if isinstance(pool, SqlitePool) else 0)

    async def _close(self, pool: SqlPool) -> None:
        if isinstance(pool, SqlitePool):
            pool.begin_closing()
        await super()._close(pool)

    async def fetch(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute one statement and return its rows, each with its columns in order."""
        pool = self._ready_now() or await self._ready()
        if (own := self._own_pool(pool)) is None:
            send = functools.partial(self._send_in, pool, statement, parameters, rows=True)
            return cast(Sequence[Any], await self._pools.run(send))
        query = compiled(statement)
        arguments = query.arguments(parameters)
        return query.rows(await own.call(fetch_all, query.query, arguments, current=self._prepared_file))

    async def execute(self, statement: Executable, parameters: Mapping[str, Any]) -> int:
        """Execute one statement in its own transaction, in turn, and return how many rows it wrote."""
        pool = self._ready_now() or await self._ready()
        if (own := self._own_pool(pool)) is None:
            execute = functools.partial(self._execute_on_engine, pool, statement, parameters)
            return await self._pools.run(execute)
        return await self._in_turn(own, execute_alone, statement, parameters)

    async def write(self, work: Callable[[Executor], R]) -> R:
        """Call a function in a write transaction, in turn; commit it, or roll it back on an error.

        Args:
            work: Executes the statements; called in the thread of the connection.
        """
        pool = self._ready_now() or await self._ready()
        if (own := self._own_pool(pool)) is None:
            return await self._pools.run(functools.partial(self._write_on_engine, pool, work))
        return await self._in_turn(own, execute_in_transaction, work)

    async def _in_turn(self, pool: SqlitePool, work: Callable[..., R], *arguments: Any) -> R:
        """Call ``work(*arguments, seconds, cursor)``, with the rest of the busy timeout."""
        turns, seconds = self._turns, None
        if not turns.take():
            seconds = self._rest_of_busy_timeout(await turns.acquire(self._busy_timeout))
        return await pool.call(work, *arguments, seconds, current=self._prepared_file, finish=turns.release)

    def _rest_of_busy_timeout(self, waited: float) -> float | None:
        """Return the rest of the busy timeout after a wait for the turn, or None for all of it."""
        soon = waited < SOON * self._busy_timeout
        return None if soon else max(self._busy_timeout - waited, 0.0)

    # -- On a connection of SQLAlchemy -------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _write_transaction(self, pool: SqlPool) -> AsyncIterator[AsyncConnection]:
        async with self._turns.turn(self._busy_timeout) as waited, self._lend(pool) as connection:
            async with busy_timeout(connection, self._rest_of_busy_timeout(waited)):
                # IMMEDIATE acquires the write lock now: a read lock may fail to be upgraded later.
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
            await connection.exec_driver_sql("COMMIT")
            # On any error the pool rolls back when the connection is returned, before the turn ends.

    async def _write_on_engine(self, pool: SqlPool, work: Callable[[Executor], R]) -> R:
        async with self._write_transaction(pool) as connection:
            return await connection.run_sync(self._work_on, work)

    async def in_transaction(self, work: Callable[[AsyncBaseConnectionManager], Awaitable[R]]) -> R:
        """Await ``work(manager)`` in one write transaction, in turn; commit it, or roll it back on an error.

        A caller that is cancelled returns at once; the transaction continues.
        """
        return await self._pools.run(functools.partial(self._transact, await self._ready(), work))

    async def _transact(self, pool: SqlPool, work: Callable[[AsyncBaseConnectionManager], Awaitable[R]]) -> R:
        async with self._write_transaction(pool) as connection:
            return await work(OwnSqlTransaction(self, connection))

    def _work_on(self, connection: Connection, work: Callable[[Executor], R]) -> R:
        return work(ConnectionExecutor(connection, self.statement_options))

    async def _execute_on_engine(
        self, pool: SqlPool, statement: Executable, parameters: Mapping[str, Any]
    ) -> int:
        async with (
            self._turns.turn(self._busy_timeout) as waited,
            self._lend(pool) as connection,
            busy_timeout(connection, self._rest_of_busy_timeout(waited)),
        ):
            return (await connection.execute(statement, parameters)).rowcount


async def _repeated_after_fork(step: Callable[[], Awaitable[R]]) -> R:
    """Await ``step()``; repeat it if a fork ended it before it began."""
    while True:
        try:
            return await step()
        except Exception as error:
            if not is_ended_by_fork(driver_error(error)):
                raise
