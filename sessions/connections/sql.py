"""What the SQL connection managers share: an engine for each event loop, and a schema that is ready."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqlalchemy import CursorResult, Engine, Executable, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from sessions import migrations
from sessions.connections.base import AsyncBaseConnectionManager
from sessions.connections.event_loops import LoopBound
from sessions.errors import BackendUnavailableError, ConfigurationError

__all__ = ["SqlConnectionManager"]

HEALTH_TIMEOUT_SECONDS = 5.0
DRAIN_TIMEOUT_SECONDS = 5.0

_migrating = threading.Lock()


@dataclass(slots=True, eq=False)
class _Pool:
    """An engine of one event loop."""

    engine: AsyncEngine
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class SqlConnectionManager(AsyncBaseConnectionManager):
    """Hands out an engine in autocommit: every statement is its own transaction.

    Args:
        engine: A service's own engine, used as it is and never closed here.
        auto_migrate: Bring the schema to head on first use, or only check it.
    """

    dialect: ClassVar[str]
    # True behind a proxy that lends a server connection for one transaction only. Autocommit is then no
    # use: the driver prepares and executes a statement in two steps, each a transaction of its own.
    one_transaction_at_a_time = False

    def __init__(self, *, engine: AsyncEngine | None, auto_migrate: bool) -> None:
        if engine is not None and engine.dialect.name != self.dialect:
            raise ConfigurationError(f"engine: is for {engine.dialect.name}, not {self.dialect}")
        self._auto_migrate = auto_migrate
        self._own = engine is None
        self._given = None if engine is None else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._schema_ready = False
        self._pools = LoopBound(self._open, self._close)

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
                    self._schema_ready = True
        return pool.engine

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection with the schema ready; what is executed on it is committed."""
        engine = await self.connect()
        async with engine.begin() if self.one_transaction_at_a_time else engine.connect() as connection:
            yield connection

    async def execute(self, statement: Executable, parameters: Mapping[str, Any]) -> CursorResult[Any]:
        """Execute one statement in its own transaction; the result is fetched completely.

        `connection` does the same in three steps, each with a greenlet and one with a task of its own.
        """
        engine = await self.connect()
        return await greenlet_spawn(self._execute, engine.sync_engine, statement, parameters)

    def _execute(
        self, engine: Engine, statement: Executable, parameters: Mapping[str, Any]
    ) -> CursorResult[Any]:
        with engine.begin() if self.one_transaction_at_a_time else engine.connect() as connection:
            return connection.execute(statement, parameters)

    async def engine(self) -> AsyncEngine:
        """Return the running event loop's engine without looking at the schema."""
        return (await self._pools.get()).engine

    async def _prepare_schema(self, engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            if await connection.run_sync(migrations.is_current):
                return
            if not self._auto_migrate:
                await connection.run_sync(migrations.check)
            # Alembic works on globals, so one migration at a time in a process. Polled: a loop that
            # blocks here might be the one that has to finish the migration it waits for.
            while not _migrating.acquire(blocking=False):  # noqa: ASYNC110 - held by other loops too
                await asyncio.sleep(0.05)
            try:
                await connection.run_sync(migrations.upgrade, one_transaction=self.one_transaction_at_a_time)
            finally:
                _migrating.release()

    async def disconnect(self) -> None:
        """Close the engines of all event loops; a service's own engine is left alone."""
        await self._pools.aclose()

    async def is_healthy(self) -> bool:
        """Return whether the database answers within five seconds."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
                engine = await self.engine()
                async with engine.connect() as connection:
                    await connection.execute(text("SELECT 1"))
        except (exc.SQLAlchemyError, OSError, TimeoutError):
            return False
        return True

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
        await pool.engine.dispose()


def unavailable(what: str, error: BaseException) -> BackendUnavailableError:
    """Return the error for a database that cannot be used, naming the driver's error class only."""
    return BackendUnavailableError(f"{what} ({type(error).__name__})")


def hide_values(error: BaseException) -> None:
    """Take out of an error, and of what it came from, the values that their texts quote.

    PostgreSQL reports the row that broke a constraint as the detail, and a service's own engine may show
    parameters; both are the conversation, and a chained error is logged with its causes.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, exc.StatementError):
            link.hide_parameters = True
        elif isinstance(getattr(link, "detail", None), str):
            link.detail = None  # type: ignore[attr-defined]
        if link.args and isinstance(link.args[0], str):
            # SQLAlchemy copies the driver's text, with the detail in it.
            link.args = (link.args[0].partition("\nDETAIL:")[0], *link.args[1:])
        link = link.__cause__ or link.__context__


def engine_key(engine: AsyncEngine | None, settings: Hashable) -> Hashable:
    """Return the cache key of a manager: the service's own engine, or the settings, the URL among them."""
    # The engine itself, which the key keeps alive: its id alone could become another engine's.
    return settings if engine is None else (engine, settings)
