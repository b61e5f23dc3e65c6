"""What the SQL connection managers share: an engine for each event loop, and a schema that is ready."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Executable, PoolProxiedConnection, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import Pool, QueuePool
from sqlalchemy.util import greenlet_spawn

from sessions import migrations
from sessions.connections.base import HEALTH_TIMEOUT_SECONDS, AsyncBaseConnectionManager
from sessions.core.loops import LoopBound
from sessions.errors import ConfigurationError

__all__ = ["NoAnswerError", "SqlConnectionManager", "Watch"]

R = TypeVar("R")

DRAIN_TIMEOUT_SECONDS = 5.0

_migrating = threading.Lock()


class NoAnswerError(TimeoutError):
    """The server kept silent for longer than a statement may take."""


@dataclass(slots=True, eq=False)
class _Pool:
    """An engine of one event loop."""

    engine: AsyncEngine
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Watch:
    """Breaks a connection that is still in use after some seconds: its server may never answer."""

    __slots__ = ("_break", "_connection", "_seconds", "_timer")

    def __init__(
        self, manager: SqlConnectionManager, connection: PoolProxiedConnection, seconds: float | None
    ) -> None:
        self._break, self._connection, self._seconds = manager._break, connection, seconds

    def __enter__(self) -> None:
        if self._seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds, self._break, self._connection)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._seconds is None:
            return
        self._timer.cancel()
        if isinstance(error, exc.DBAPIError) and asyncio.get_running_loop().time() >= self._timer.when():
            raise NoAnswerError("no answer in time") from error


class SqlConnectionManager(AsyncBaseConnectionManager):
    """Hands out an engine in autocommit: every statement is its own transaction.

    Args:
        engine: A service's own engine, used as it is and never closed here.
        auto_migrate: Bring the schema to head on first use, or only check it.
        max_overflow: Connections that an engine of our own opens beyond the size of its pool.
        upgrade_command: What to run where the schema is not at head.
        schema: Where our tables are; None for where the database looks by itself.
    """

    dialect: ClassVar[str]
    # Whether the driver may be cancelled anywhere. If not, its step goes on when the caller is cancelled.
    may_be_interrupted: ClassVar[bool] = False
    # True behind a proxy that lends a server connection for one transaction only. Autocommit is then no
    # use: the driver prepares and executes a statement in two steps, each a transaction of its own.
    one_transaction_at_a_time = False

    # Seconds that a checkout may take, a new connection and its first words included, and a statement.
    # None where nothing can keep the driver waiting for an answer.
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
        if engine is not None and engine.dialect.name != self.dialect:
            raise ConfigurationError(f"engine: is for {engine.dialect.name}, not {self.dialect}")
        self._auto_migrate = auto_migrate
        self._own = engine is None
        # What a service's own engine may open is not known.
        self._max_overflow = max_overflow if self._own else -sys.maxsize
        # Written into each statement, and not a setting of the server's session, which a proxy that lends
        # connections for one transaction would lose.
        self._execution_options: dict[str, Any] = {migrations.UPGRADE_COMMAND: upgrade_command}
        if schema is not None:
            self._execution_options["schema_translate_map"] = {None: schema}
        self._given = None
        if engine is not None:
            self._given = engine.execution_options(isolation_level="AUTOCOMMIT", **self._execution_options)
        self._schema_ready = False
        self._pools = LoopBound(self._open, self._close)

    async def run_step(self, step: Callable[[], Awaitable[R]]) -> R:
        """Await ``step()`` in a task of its own, for which a cancelled caller does not wait."""
        return await self._pools.run(step, interrupt=self.may_be_interrupted)

    @abstractmethod
    def _create_engine(self) -> AsyncEngine:
        """Return a new engine in autocommit; must not connect yet."""

    async def connect(self) -> AsyncEngine:
        """Return the running event loop's engine, with the schema ready.

        Raises:
            SchemaOutdatedError: The schema is not at head and ``auto_migrate`` is off.
        """
        pool = await self._pools.get()
        if not self._schema_ready:
            async with pool.lock:
                if not self._schema_ready:
                    await self._prepare_schema(pool.engine)
                    self._note_ready()
        return pool.engine

    async def make_ready(self) -> None:
        """Connect, and bring the schema to head if it is not there, or check it, whatever is known of it.

        Raises:
            SchemaOutdatedError: The schema is not at head and ``auto_migrate`` is off.
        """
        pool = await self._pools.get()
        async with pool.lock:
            await self._prepare_schema(pool.engine)
            self._note_ready()

    async def prepare_again(self, error: BaseException, *, seen: int) -> bool:
        """Make the schema ready once more, if an error says that it is gone; concurrent callers do it once.

        Args:
            error: From an operation.
            seen: `preparations` when the operation began.

        Returns:
            Whether the operation may be repeated at once: never without ``auto_migrate``.
        """
        if not (self._auto_migrate and self.is_schema_missing(error)):
            return False
        pool = await self._pools.get()
        async with pool.lock:
            if self.preparations == seen:
                await self._upgrade(pool.engine)
                self._note_ready()
        return True

    @abstractmethod
    def is_schema_missing(self, error: BaseException) -> bool:
        """Return whether a statement failed because a table, a column or a schema is not there."""

    def _note_ready(self) -> None:
        self._schema_ready = True
        self.preparations += 1

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection with the schema ready; each statement executed on it is committed.

        Raises:
            NoAnswerError: The server kept silent for too long; the connection is gone.
        """
        async with self._lend(await self.connect()) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _lend(
        self, engine: AsyncEngine, *, at_most: float = math.inf
    ) -> AsyncIterator[AsyncConnection]:
        async with contextlib.AsyncExitStack() as stack:
            check_cancelled = cancellation_check()
            async with asyncio.timeout(self.checkout_timeout and min(self.checkout_timeout, at_most)):
                connection = await stack.enter_async_context(engine.connect())
                check_cancelled()
            seconds = self.answer_timeout and min(self.answer_timeout, at_most)
            assert connection.sync_connection is not None
            stack.enter_context(Watch(self, connection.sync_connection.connection, seconds))
            yield connection

    async def fetch(self, statement: Executable, parameters: Mapping[str, Any]) -> Sequence[Any]:
        """Execute one statement in its own transaction and return its rows, each with its columns in order.

        Raises:
            NoAnswerError: The server kept silent for too long; the connection is gone.
        """
        rows: Sequence[Any] = await self._run(statement, parameters, rows=True)
        return rows

    async def execute(self, statement: Executable, parameters: Mapping[str, Any]) -> int:
        """Execute one statement in its own transaction and return how many rows it wrote.

        Raises:
            NoAnswerError: The server kept silent for too long; the connection is gone.
        """
        count: int = await self._run(statement, parameters, rows=False)
        return count

    async def _run(self, statement: Executable, parameters: Mapping[str, Any], *, rows: bool) -> Any:
        """Return the rows of a statement, or how many it wrote.

        In one greenlet, and without the task that `connection` needs to give the connection back.
        """
        engine = (await self.connect()).sync_engine
        check_cancelled = cancellation_check()

        def run(checkout: asyncio.Timeout) -> Any:
            with engine.connect() as connection:
                check_cancelled()
                checkout.reschedule(None)
                begin = connection.begin if self.one_transaction_at_a_time else contextlib.nullcontext
                with Watch(self, connection.connection, self.answer_timeout), begin():
                    result = connection.execute(statement, parameters)
                    return result.all() if rows else result.rowcount

        async with asyncio.timeout(self.checkout_timeout) as checkout:
            result = await greenlet_spawn(run, checkout)
        await self._let_others_go_first(engine.pool)
        return result

    async def _let_others_go_first(self, pool: Pool) -> None:
        """Let who may wait for a connection have the one that this task has just given back.

        The task's next statement would find it before them, again and again.
        """
        if not isinstance(pool, QueuePool) or pool.overflow() >= self._max_overflow:
            await asyncio.sleep(0)

    def _break(self, connection: PoolProxiedConnection) -> None:
        """Close the socket of a connection at once, so that who waits for its answer gets an error."""

    async def engine(self) -> AsyncEngine:
        """Return the running event loop's engine without looking at the schema."""
        return (await self._pools.get()).engine

    async def _prepare_schema(self, engine: AsyncEngine) -> None:
        async with self._lend(engine) as connection:
            if await connection.run_sync(migrations.is_current):
                return
            if not self._auto_migrate:
                await connection.run_sync(migrations.check)
        await self._upgrade(engine)

    async def _upgrade(self, engine: AsyncEngine) -> None:
        # A migration takes as long as it takes.
        async with engine.connect() as connection:
            # Alembic works on globals, so one migration at a time in a process. Polled: a loop that
            # blocks here might be the one that has to finish the migration it waits for.
            while not _migrating.acquire(blocking=False):  # noqa: ASYNC110 - held by other loops too
                await asyncio.sleep(0.05)
            try:
                await connection.run_sync(migrations.upgrade, one_transaction=self.one_transaction_at_a_time)
            finally:
                _migrating.release()

    async def disconnect(self) -> None:
        """Close the engines of all event loops; a service's own engine is left alone.

        What was known of the database is forgotten: the next call looks at the schema again.
        """
        self._schema_ready = False
        await self._pools.aclose()

    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises."""
        try:
            await self.run_step(self._check_writable)
        except Exception as error:
            self.log_unhealthy(error)
            return False
        return True

    async def _check_writable(self) -> None:
        async with self._lend(await self.engine(), at_most=HEALTH_TIMEOUT_SECONDS) as connection:
            if self._schema_ready or await connection.run_sync(migrations.is_current):
                await self._try_write(connection)
                return
            known = await connection.run_sync(migrations.current) in (None, *migrations.REVISIONS)
            if not (self._auto_migrate and known):
                await connection.run_sync(migrations.check)
            if not await self._may_migrate(connection):
                raise ConfigurationError(
                    "the schema is not up to date, and this user may not bring it up to date"
                )

    @abstractmethod
    async def _may_migrate(self, connection: AsyncConnection) -> bool:
        """Return whether bringing the schema to head, from a revision before it, would be allowed."""

    @abstractmethod
    async def _try_write(self, connection: AsyncConnection) -> None:
        """Do what a write needs to be allowed, and leave nothing behind."""

    def _open(self) -> _Pool:
        if self._given is not None:
            return _Pool(self._given)
        return _Pool(self._create_engine())

    async def _close(self, pool: _Pool) -> None:
        if not self._own:
            return
        # An engine forgets the connections that are in use; they would outlive it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                while pool.engine.pool.checkedout():  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        if not pool.engine.pool.checkedout():  # type: ignore[attr-defined]
            await self._close_idle(pool.engine)
        await pool.engine.dispose()

    async def _close_idle(self, engine: AsyncEngine) -> None:
        """Close an engine's connections all at once, where one after the other may take long."""


def cancellation_check() -> Callable[[], None]:
    """Return what raises ``CancelledError`` if the running task was cancelled since and is not to know.

    SQLAlchemy up to 2.1.5 waits for a connection of a full pool with a function that loses a cancellation in
    Python 3.11, if the connection comes at the same time.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0

    def check() -> None:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError

    return check


def engine_key(engine: AsyncEngine | None, settings: Hashable) -> Hashable:
    """Return the cache key of a manager: the service's own engine, or the settings, the URL among them."""
    # The engine itself, which the key keeps alive: its id alone could become another engine's.
    return settings if engine is None else (engine, settings)
