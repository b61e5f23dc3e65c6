"""The base of the SQL connection managers: an engine for each event loop, and a schema at head."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Engine, Executable, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import Pool, QueuePool

from sessions import migrations
from sessions.backends.sql.sync_calls import run_sync
from sessions.connections.base import HEALTH_TIMEOUT_SECONDS, AsyncBaseConnectionManager
from sessions.core.forks import ProcessLock
from sessions.core.loops import LoopBound
from sessions.core.shared_work import SharedWork
from sessions.errors import ConfigurationError
from sessions.resilience import extend_call, time_left

__all__ = ["NoAnswerError", "SqlConnectionManager", "SqlPool"]

R = TypeVar("R")

DRAIN_TIMEOUT_SECONDS = 5.0

_migrating = ProcessLock(reentrant=False)


class NoAnswerError(TimeoutError):
    """The server did not respond within ``statement_timeout``."""


@dataclass(slots=True, eq=False)
class SqlPool:
    """An engine of one event loop."""

    engine: AsyncEngine
    preparing: SharedWork = field(default_factory=SharedWork)


class SqlConnectionManager(AsyncBaseConnectionManager):
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
    # True behind a pooler in transaction mode. Autocommit does not work there: the driver prepares and
    # executes a statement in two steps, each a transaction of its own.
    one_transaction_at_a_time = False

    # Time limits in seconds: of a checkout, including a new connection and its initial statements, and of a
    # statement. None if the driver does not wait for a server.
    checkout_timeout: float | None = None
    answer_timeout: float | None = None

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
        self._schema_ready = False
        self._pools = LoopBound(self._open, self._close if self._own else None)

    async def run_step(self, step: Callable[[], Awaitable[R]]) -> R:
        """Await ``step()`` in its own task; a caller that is cancelled does not wait for it."""
        return await self._pools.run(step, interrupt=self.may_be_interrupted)

    @abstractmethod
    def _open_own(self) -> SqlPool:
        """Return a new engine in autocommit; must not connect yet."""

    async def connect(self) -> AsyncEngine:
        """Return the running event loop's engine, with the schema ready.

        Raises:
            SchemaOutdatedError: The schema is older and ``auto_migrate`` is off, or lacks what is needed.
        """
        return (await self._ready()).engine

    async def _ready(self) -> SqlPool:
        pool = await self._pools.get()
        if not self._schema_ready:
            await self._prepare(pool, self._prepare_schema)
        return pool

    async def _prepare(self, pool: SqlPool, work: Callable[[SqlPool], Awaitable[None]]) -> None:
        """Make the schema ready, once for all callers at the same time."""
        seen, began = self.preparations, time.monotonic()

        async def prepare() -> None:
            await work(pool)
            self._note_ready()

        await pool.preparing.run(prepare)
        if self.preparations != seen:
            extend_call(time.monotonic() - began)  # A migration takes as long as it takes.

    async def make_ready(self) -> None:
        """Connect, and upgrade the schema to head or check it, also if it was ready before.

        Raises:
            SchemaOutdatedError: The schema is older and ``auto_migrate`` is off, or lacks what is needed.
        """
        await self._prepare(await self._pools.get(), self._prepare_schema)

    async def prepare_again(self, error: BaseException, *, seen: int) -> bool:
        """Upgrade the schema again if an error reports that it is missing; concurrent callers do it once.

        Args:
            error: From an operation.
            seen: ``preparations`` when the operation began.

        Returns:
            Whether the operation may be retried at once: never without ``auto_migrate``.
        """
        if not (self._auto_migrate and self.is_schema_missing(error)):
            return False
        if self.preparations == seen:
            await self._prepare(await self._pools.get(), self._upgrade)
        return True

    @abstractmethod
    def is_schema_missing(self, error: BaseException) -> bool:
        """Return whether a statement failed because a table, a column or a schema is missing."""

    async def make_database(self) -> None:
        """Create the database if it is a missing file; on a server it exists."""
        return

    def _note_ready(self) -> None:
        self._schema_ready = True

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection with the schema ready; each statement executed on it is committed.

        Raises:
            NoAnswerError: The server did not respond in time; the connection is closed.
        """
        async with self._lend(await self._ready()) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _lend(self, pool: SqlPool, *, at_most: float = math.inf) -> AsyncIterator[AsyncConnection]:
        is_connected = False
        bound = asyncio.timeout(_smaller(self.checkout_timeout, at_most))
        try:
            async with bound:
                check_cancelled = cancellation_check()
                async with self._connected(pool) as connection:
                    check_cancelled()
                    is_connected = True
                    bound.reschedule(_from_now(_smaller(self.answer_timeout, at_most)))
                    yield connection
        except TimeoutError as error:
            if is_connected and bound.expired():
                raise NoAnswerError("no answer in time") from error
            raise

    def _connected(self, pool: SqlPool) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        """Check a connection of an engine out, and return it to the pool."""
        return pool.engine.connect()

    async def fetch(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute one statement in its own transaction and return its rows, each with its columns in order.

        Raises:
            NoAnswerError: The server did not respond in time; the connection is closed.
        """
        rows: Sequence[Any] = await self._run(statement, parameters, rows=True)
        return rows

    async def execute(self, statement: Executable, parameters: Mapping[str, Any]) -> int:
        """Execute one statement in its own transaction and return how many rows it wrote.

        Raises:
            NoAnswerError: The server did not respond in time; the connection is closed.
        """
        count: int = await self._run(statement, parameters, rows=False)
        return count

    async def _run(self, statement: Executable, parameters: Mapping[str, Any], *, rows: bool) -> Any:
        """Return the rows of a statement, or how many it wrote."""
        return await self._run_in(await self._ready(), statement, parameters, rows=rows)

    async def _run_in(
        self, pool: SqlPool, statement: Executable, parameters: Mapping[str, Any], *, rows: bool
    ) -> Any:
        """Do as `_run` does, in a pool whose schema is ready.

        In one greenlet, and without the task in which `connection` returns the connection to the pool.
        """
        engine = pool.engine.sync_engine
        check_cancelled = cancellation_check()
        is_connected = False

        def run(bound: asyncio.Timeout) -> Any:
            nonlocal is_connected
            with engine.connect() as connection:
                check_cancelled()
                is_connected = True
                bound.reschedule(_from_now(self.answer_timeout))

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

        bound = asyncio.timeout(_smaller(self.checkout_timeout, math.inf))
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

    async def _prepare_schema(self, pool: SqlPool) -> None:
        if await self._is_current(pool):
            return
        async with self._lend(pool) as connection:
            if await connection.run_sync(migrations.is_newer):
                await connection.run_sync(migrations.log_newer)
                return
            if not self._auto_migrate:
                await connection.run_sync(migrations.check)
        await self._upgrade(pool)

    async def _is_current(self, pool: SqlPool) -> bool:
        async with self._lend(pool) as connection:
            return await connection.run_sync(migrations.is_current)

    async def _upgrade(self, pool: SqlPool) -> None:
        # Without a time limit: a migration may take long.
        async with self._connected(pool) as connection:
            # Alembic uses globals, so one migration at a time in a process. Polled: a loop that blocks here
            # might be the one that runs the migration it waits for.
            while not _migrating.acquire(blocking=False):  # noqa: ASYNC110 - held by other loops too
                await asyncio.sleep(0.05)
            try:
                await connection.run_sync(migrations.upgrade, one_transaction=self.one_transaction_at_a_time)
            finally:
                _migrating.release()
        # Counted only after an upgrade: a check of the revision does not check the tables.
        self.preparations += 1

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

    def checked_out(self) -> int:
        """Return how many connections are in use, in all event loops."""
        return sum(self._in_use(pool) for pool in self._pools.resources())

    def _in_use(self, pool: SqlPool) -> int:
        count = getattr(pool.engine.pool, "checkedout", None)  # A service's engine may have no such pool.
        return 0 if count is None else int(count())

    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises."""
        try:
            await self.run_step(self._check_writable)
        except Exception as error:
            self.log_unhealthy(error)
            return False
        return True

    async def _check_writable(self) -> None:
        async with self._lend(await self._pools.get(), at_most=HEALTH_TIMEOUT_SECONDS) as connection:
            if (
                self._schema_ready
                or await connection.run_sync(migrations.is_current)
                or await connection.run_sync(migrations.is_newer)
            ):
                try:
                    await self._try_write(connection)
                    return
                except Exception as error:
                    # The schema is missing: a write would upgrade it again.
                    if not (self._auto_migrate and self.is_schema_missing(error)):
                        raise
                await connection.rollback()
            known = await connection.run_sync(migrations.current) in (None, *migrations.REVISIONS)
            if not (self._auto_migrate and known):
                await connection.run_sync(migrations.check)
            if not await self._may_migrate(connection):
                raise ConfigurationError(
                    "the schema is not up to date, and this user may not bring it up to date"
                )

    @abstractmethod
    async def _may_migrate(self, connection: AsyncConnection) -> bool:
        """Return whether the user is allowed to upgrade the schema to head."""

    @abstractmethod
    async def _try_write(self, connection: AsyncConnection) -> None:
        """Try a write without an effect: it fails if a real one would."""

    def _open(self) -> SqlPool:
        if self._given is not None:
            return SqlPool(self._given)
        return self._open_own()

    async def _close(self, pool: SqlPool) -> None:
        # `dispose` detaches connections that are checked out; they would stay open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                while pool.engine.pool.checkedout():  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        await pool.engine.dispose()


def _smaller(seconds: float | None, at_most: float) -> float | None:
    return None if seconds is None else min(time_left(seconds), at_most)


def _from_now(seconds: float | None) -> float | None:
    """Return a time of the running event loop; None for never."""
    return None if seconds is None else asyncio.get_running_loop().time() + time_left(seconds)


def cancellation_check() -> Callable[[], None]:
    """Return a function that raises ``CancelledError`` if the running task lost a cancellation.

    In Python 3.11, SQLAlchemy up to 2.1.5 loses a cancellation during the wait for a connection, if one is
    returned to the pool at the same time.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0

    def check() -> None:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError

    return check


def check_engine(engine: object) -> AsyncEngine:
    """Return a service's own engine.

    Raises:
        ConfigurationError: It is not an ``AsyncEngine``.
    """
    if not isinstance(engine, AsyncEngine):
        kind = "a blocking Engine" if isinstance(engine, Engine) else f"a {type(engine).__name__}"
        raise ConfigurationError(
            f"engine: must be an AsyncEngine, as create_async_engine makes it, not {kind}"
        )
    return engine


def engine_key(engine: AsyncEngine | None, settings: Hashable) -> Hashable:
    """Return the cache key of a manager: the service's own engine, or the settings with the URL."""
    if engine is not None:
        check_engine(engine)
    # The engine itself, not its id, which could be reused after a garbage collection.
    return settings if engine is None else (engine, settings)
