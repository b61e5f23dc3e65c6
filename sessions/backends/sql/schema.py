"""Keeps the schema at head: the part of the SQL connection managers that migrates and checks it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from sessions import migrations
from sessions.connections.base import HEALTH_TIMEOUT_SECONDS, AsyncBaseConnectionManager
from sessions.core.forks import ProcessLock
from sessions.core.loops import LoopBound
from sessions.core.shared_work import SharedWork
from sessions.core.telemetry import PoolMeter
from sessions.errors import ConfigurationError
from sessions.resilience import extend_call

__all__ = ["SchemaManager", "SqlPool"]

_migrating = ProcessLock(reentrant=False)


@dataclass(slots=True, eq=False)
class SqlPool:
    """An engine of one event loop."""

    engine: AsyncEngine
    meter: PoolMeter
    preparing: SharedWork = field(default_factory=SharedWork)


class SchemaManager(AsyncBaseConnectionManager):
    """Makes the schema ready before the first operation, and again if it is dropped."""

    # True behind a pooler in transaction mode. Autocommit does not work there: the driver prepares and
    # executes a statement in two steps, each a transaction of its own.
    one_transaction_at_a_time = False

    _pools: LoopBound[SqlPool]
    _auto_migrate: bool
    _schema_ready = False

    @abstractmethod
    def _lend(
        self, pool: SqlPool, *, at_most: float = math.inf
    ) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        """Lend a connection within the time limits."""

    @abstractmethod
    def _connected(self, pool: SqlPool) -> contextlib.AbstractAsyncContextManager[AsyncConnection]:
        """Check a connection of an engine out, and return it to the pool."""

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
