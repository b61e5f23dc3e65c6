"""The base of the SQL connection managers: an engine for each event loop, and a schema at head."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Executable, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import Pool, QueuePool

from sessions import migrations
from sessions.backends.sql.given_engine import check_engine
from sessions.backends.sql.limits import cancellation_check, from_now, smaller
from sessions.backends.sql.schema import SchemaManager, SqlPool
from sessions.backends.sql.sync_calls import run_sync
from sessions.connections.base import AsyncBaseConnectionManager
from sessions.core.batches import GroupLimits
from sessions.core.group_commit import GroupCommit
from sessions.core.loops import LoopBound
from sessions.core.telemetry import PoolMeter, PoolUse
from sessions.errors import ConfigurationError

__all__ = ["NoAnswerError", "SqlConnectionManager", "SqlPool"]

R = TypeVar("R")

DRAIN_TIMEOUT_SECONDS = 5.0


class NoAnswerError(TimeoutError):
    """The server did not respond within ``statement_timeout``."""


class SqlConnectionManager(SchemaManager):
    """Hands out an engine in autocommit: every statement is its own transaction.

    Args:
        engine: A service's own engine; used, never closed.
        auto_migrate: Whether to upgrade the schema to head on first use, or only check it.
        max_overflow: Connections that this package's own engine opens beyond the size of its pool.
        upgrade_command: Command that upgrades the schema, for error texts.
        schema: Schema of the tables; None for the default schema.
    """

    dialect: ClassVar[str]
    # Whether the driver supports cancellation. If not, its step continues when the caller is cancelled.
    may_be_interrupted: ClassVar[bool] = False
    # Time limits in seconds: of a checkout, including a new connection and its initial statements, and of a
    # statement. Infinite if the driver does not wait for a server.
    checkout_timeout = math.inf
    answer_timeout = math.inf

    def __init__(
        self,
        *,
        engine: AsyncEngine | None,
        auto_migrate: bool,
        max_overflow: int,
        upgrade_command: str,
        schema: str | None = None,
    ) -> None:
        if engine is not None and check_engine(engine).dialect.name != self.dialect:
            raise ConfigurationError(f"engine: is for {engine.dialect.name}, not {self.dialect}")
        self._auto_migrate = auto_migrate
        self._own = engine is None
        # The limit of a service's own engine is not known.
        self._max_overflow = max_overflow if self._own else -sys.maxsize
        # Rendered into each statement, not set with `search_path`: a pooler in transaction mode would lose
        # the setting.
        self._execution_options: dict[str, Any] = {migrations.UPGRADE_COMMAND: upgrade_command}
        if schema is not None:
            self._execution_options["schema_translate_map"] = {None: schema}
        self.statement_options = {
            key: value for key, value in self._execution_options.items() if key == "schema_translate_map"
        }
        self._given = None
        if engine is not None:
            self._given = engine.execution_options(isolation_level="AUTOCOMMIT", **self._execution_options)
        self._pools = LoopBound(self._open, self._close if self._own else None)
        self.queues = LoopBound(self._open_queue, None)

    def _open_queue(self) -> GroupCommit:
        return GroupCommit(self._append_limits(), self._pools.start)

    @abstractmethod
    def _append_limits(self) -> GroupLimits:
        """Return the bounds of a queue of appends."""

    def run_step(self, step: Callable[[], Awaitable[R]]) -> Awaitable[R]:
        """Await ``step()`` in its own task; a caller that is cancelled does not wait for it."""
        return self._pools.run(step, interrupt=self.may_be_interrupted)

    @abstractmethod
    def _open_own(self) -> SqlPool:
        """Return a new engine in autocommit; must not connect yet."""

    async def connect(self) -> AsyncEngine:
        """Return the running event loop's engine, with the schema ready.

        Raises:
            SchemaOutdatedError: The schema is older and ``auto_migrate`` is off, or lacks what is needed.
        """
        return (await self._ready()).engine

    @contextlib.asynccontextmanager
    async def _lend(self, pool: SqlPool, *, at_most: float = math.inf) -> AsyncIterator[AsyncConnection]:
        is_connected = False
        bound = asyncio.timeout(smaller(self.checkout_timeout, at_most))
        try:
            async with bound:
                check_cancelled = cancellation_check()
                async with self._connected(pool) as connection:
                    check_cancelled()
                    is_connected = True
                    bound.reschedule(from_now(smaller(self.answer_timeout, at_most)))
                    yield connection
        except TimeoutError as error:
            if is_connected and bound.expired():
                raise NoAnswerError("no answer in time") from error
            raise

    @contextlib.asynccontextmanager
    async def _connected(self, pool: SqlPool) -> AsyncIterator[AsyncConnection]:
        """Check a connection of an engine out, and return it to the pool."""
        with pool.meter.checkout(exc.TimeoutError) as checkout:
            async with pool.engine.connect() as connection:
                checkout.got()
                yield connection

    def fetch(self, statement: Executable, parameters: Mapping[str, Any]) -> Awaitable[Sequence[Any]]:
        """Execute one statement in its own transaction and return its rows, each with its columns in order.

        Raises:
            NoAnswerError: The server did not respond in time; the connection is closed.
        """
        return self._send(statement, parameters, rows=True)

    def execute(self, statement: Executable, parameters: Mapping[str, Any]) -> Awaitable[int]:
        """Execute one statement in its own transaction and return how many rows it wrote.

        Raises:
            NoAnswerError: The server did not respond in time; the connection is closed.
        """
        return self._send(statement, parameters, rows=False)

    async def _send(self, statement: Executable, parameters: Mapping[str, Any], *, rows: bool) -> Any:
        """Return the rows of a statement, or how many it wrote."""
        return await self._send_in(await self._ready(), statement, parameters, rows=rows)

    async def _send_in(
        self, pool: SqlPool, statement: Executable, parameters: Mapping[str, Any], *, rows: bool
    ) -> Any:
        """Execute as `_send` does, in a pool whose schema is ready.

        In one greenlet, and without the task in which SQLAlchemy returns a connection to the pool.
        """
        engine = pool.engine.sync_engine
        check_cancelled = cancellation_check()
        is_connected = False

        def run(bound: asyncio.Timeout) -> Any:
            nonlocal is_connected
            with pool.meter.checkout(exc.TimeoutError) as checkout, engine.connect() as connection:
                checkout.got()
                check_cancelled()
                is_connected = True
                bound.reschedule(from_now(self.answer_timeout))

                def execute() -> Any:
                    begin = connection.begin if self.one_transaction_at_a_time else contextlib.nullcontext
                    with begin():
                        result = connection.execute(statement, parameters)
                        return result.all() if rows else result.rowcount

                try:
                    return execute()
                except exc.DBAPIError as error:
                    if not self.is_outdated_plan(error):
                        raise
                # On the same connection: others in the pool may have outdated plans, too.
                return execute()

        bound = asyncio.timeout(smaller(self.checkout_timeout, math.inf))
        try:
            # When the task is cancelled, the driver also cancels the statement on the server.
            async with bound:
                result = await run_sync(run, bound)
        except TimeoutError as error:
            if is_connected and bound.expired():
                raise NoAnswerError("no answer in time") from error
            raise
        await self._let_others_go_first(engine.pool)
        return result

    def is_outdated_plan(self, error: BaseException) -> bool:
        """Return whether the plan of a prepared statement is outdated by a change of a table; here never."""
        return False

    async def _let_others_go_first(self, pool: Pool) -> None:
        """Let a waiting task check out the connection that this task has just returned.

        Otherwise the next statement of this task gets it before them every time.
        """
        if not isinstance(pool, QueuePool) or pool.overflow() >= self._max_overflow:
            await asyncio.sleep(0)

    async def engine(self) -> AsyncEngine:
        """Return the running event loop's engine without checking the schema."""
        return (await self._pools.get()).engine

    async def disconnect(self) -> None:
        """Close the engines of all event loops; a service's own engine is not closed.

        The next call checks the schema again.
        """
        self._schema_ready = False
        await self._pools.aclose()

    def using(self, transaction: object) -> AsyncBaseConnectionManager:
        """Return a manager that executes statements in a transaction of the caller's.

        Raises:
            ConfigurationError: It is not an ``AsyncSession`` or ``AsyncConnection`` of this kind of database.
        """
        from sessions.backends.sql.transaction import SqlTransaction

        return SqlTransaction(self, transaction)

    async def in_transaction(self, work: Callable[[AsyncBaseConnectionManager], Awaitable[R]]) -> R:
        """Await ``work(manager)`` in one transaction; commit it, or roll it back on an error.

        Raises:
            NoAnswerError: It took longer than a statement may; the connection is closed.
        """
        from sessions.backends.sql.transaction import OwnSqlTransaction

        async with self._lend(await self._ready()) as connection:
            # Each statement of the transaction sees the data as of its own start.
            await connection.execution_options(isolation_level="READ COMMITTED")
            async with connection.begin():
                result = await work(OwnSqlTransaction(self, connection))
                # Fails if a statement failed before, and the server would roll back and report a success.
                await connection.exec_driver_sql("SELECT 1")
                return result

    async def identity(self) -> str | None:
        """Return what tells the database from every other one; None if it is not known."""
        await self._ready()
        return await self.identity_from(self)

    @abstractmethod
    async def identity_from(self, source: Any) -> str | None:
        """Return the identity of the database.

        Args:
            source: Executes statements, with ``fetch``: this manager, or a transaction of the database.
        """

    def took_its_timeout(self, error: BaseException) -> bool:
        """Return whether no connection of the pool was free within ``pool_timeout``."""
        return isinstance(error, exc.TimeoutError)

    def checked_out(self) -> int:
        """Return how many connections are in use, in all event loops."""
        return sum(self._in_use(pool) for pool in self._pools.resources())

    def _in_use(self, pool: SqlPool) -> int:
        count = getattr(pool.engine.pool, "checkedout", None)  # A service's engine may have no such pool.
        return 0 if count is None else int(count())

    def pools(self) -> list[PoolUse]:
        """Return the use of the pools, one for each event loop."""
        return [self._use_of(pool) for pool in self._pools.resources()]

    def _use_of(self, pool: SqlPool) -> PoolUse:
        queue = pool.engine.pool
        if not isinstance(queue, QueuePool):
            return PoolUse(self._in_use(pool), 0, None, pool.meter.pending)
        limit = queue.size() + self._max_overflow if self._own else None
        used = self._in_use(pool)
        return PoolUse(used, queue.checkedout() + queue.checkedin() - used, limit, pool.meter.pending)

    def _open(self) -> SqlPool:
        if self._given is not None:
            return SqlPool(self._given, PoolMeter(self.target()))
        return self._open_own()

    async def _close(self, pool: SqlPool) -> None:
        # `dispose` detaches connections that are checked out; they would stay open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                while pool.engine.pool.checkedout():  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        await pool.engine.dispose()
