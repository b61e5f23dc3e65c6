"""The connections of one event loop, each with a thread in which it runs whole transactions.

SQLAlchemy's pool lends them. An idle one is checked out and returned without the greenlet that SQLAlchemy
needs to open a connection, which takes as long as a short statement. A connection that a call has used is
returned in the next iteration of the event loop, unless the next call uses it before that.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import PoolProxiedConnection, event, exc

from sessions.backends.sql.engine import cancellation_check
from sessions.backends.sql.schema import SqlPool
from sessions.backends.sql.sync_calls import run_sync
from sessions.backends.sqlite.driver import call_in_thread
from sessions.backends.sqlite.files import FileId, idle_connection, is_usable
from sessions.backends.sqlite.setup import KEEPS_NO_LOOP
from sessions.core.telemetry import Checkout

__all__ = ["SqlitePool", "do_nothing"]

R = TypeVar("R")
Work = Callable[[sqlite3.Cursor], R]
# Called at the end of a call, also of a cancelled one, when its thread no longer uses the connection.
Finish = Callable[[], None]


@dataclass(slots=True, eq=False)
class SqlitePool(SqlPool):
    """Calls functions in the threads of its connections.

    Attributes:
        engine: This package's own.
        max_overflow: Connections that it opens beyond its size.
        run: `LoopBound.run`.
        start: `LoopBound.start`.
    """

    max_overflow: int = field(kw_only=True)
    run: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]] = field(kw_only=True)
    start: Callable[..., None] = field(kw_only=True)
    # Until one is invalidated, no idle connection needs to be opened again.
    _are_open: bool = field(default=True, init=False)
    # Not in use, and not returned yet.
    _kept: PoolProxiedConnection | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        event.listen(self.engine.sync_engine, "invalidate", self._note_invalid)

    def _note_invalid(self, *_: object) -> None:
        self._are_open = False

    @property
    def _queue(self) -> Any:
        return self.engine.sync_engine.pool

    async def call(self, work: Work[R], current: FileId | None, finish: Finish) -> R:
        """Call a function in the thread of a connection.

        A caller that is cancelled returns at once; the function runs to its end.

        Args:
            work: Called with a cursor.
            current: The database file, for which an idle connection must be open.
            finish: Called once, at the end.
        """
        with self.meter.checkout(exc.TimeoutError) as checkout:
            return await self._call(work, current, finish, checkout)

    async def _call(self, work: Work[R], current: FileId | None, finish: Finish, checkout: Checkout) -> R:
        try:
            connection = self._idle(current)
        except BaseException:
            finish()
            raise
        if connection is not None:
            checkout.got()
            return await self._call_on(connection, work, finish)
        # aiosqlite leaks a connection whose opening is cancelled.
        result: R = await self.run(functools.partial(self._check_out_and_call, work, finish, checkout))
        return result

    def _idle(self, current: FileId | None) -> PoolProxiedConnection | None:
        """Check out an idle connection; None if there is none that is usable."""
        connection, self._kept = self._kept, None
        if connection is not None:
            if is_usable(connection, current):
                return connection
            self._return(connection)
        queue = self._queue
        # At the limit others may wait for a connection.
        if self._are_open and queue.checkedin() and queue.overflow() < self.max_overflow:
            return idle_connection(queue, current)
        return None

    async def _check_out_and_call(self, work: Work[R], finish: Finish, checkout: Checkout) -> R:
        try:
            check_cancelled = cancellation_check()
            connection = await run_sync(self.engine.sync_engine.raw_connection)
            try:
                check_cancelled()
            except BaseException:
                await self._check_in(connection)
                raise
        except BaseException:
            finish()
            raise
        checkout.got()
        return await self._call_on(connection, work, finish)

    async def _call_on(self, connection: PoolProxiedConnection, work: Work[R], finish: Finish) -> R:
        try:
            result = await call_in_thread(connection.driver_connection, work)
        except asyncio.CancelledError:
            self.start(self._check_in_later, connection, finish)
            raise
        except BaseException:
            finish()
            await self._check_in(connection, keep=False)
            raise
        finish()
        await self._check_in(connection)
        return result

    async def _check_in(self, connection: PoolProxiedConnection, *, keep: bool = True) -> None:
        connection.info[KEEPS_NO_LOOP] = True
        queue = self._queue
        if queue.checkedin() + self.kept < queue.size():
            if keep and self._kept is None and queue.overflow() < self.max_overflow:
                self._kept = connection
                asyncio.get_running_loop().call_soon(self.return_kept)
            else:
                connection.close()
        else:
            await run_sync(connection.close)  # Closes it.

    @property
    def kept(self) -> int:
        """Number of connections that are checked out of SQLAlchemy's pool, and not in use."""
        return 0 if self._kept is None else 1

    def return_kept(self) -> None:
        """Return the connection that the last call has used to SQLAlchemy's pool."""
        connection, self._kept = self._kept, None
        if connection is not None:
            self._return(connection)

    def _return(self, connection: PoolProxiedConnection) -> None:
        queue = self._queue
        if queue.checkedin() < queue.size():
            connection.close()
        else:
            # Others were returned meanwhile: this closes it, which needs the greenlet.
            self.start(run_sync, connection.close)

    async def _check_in_later(self, connection: PoolProxiedConnection, finish: Finish) -> None:
        """Return a connection to the pool when its thread has ended its work."""
        try:
            # The thread takes one function after the other.
            await call_in_thread(connection.driver_connection, do_nothing)
        except BaseException:
            # A close that has lost its patience; the thread may wait for a lock.
            await run_sync(connection.invalidate)
            raise
        else:
            await self._check_in(connection)
        finally:
            finish()


def do_nothing(*_: object) -> None:
    """Do nothing."""
