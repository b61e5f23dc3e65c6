"""The connections of one event loop, each with a thread in which it runs whole transactions.

SQLAlchemy's pool lends them. An idle one is checked out and returned without the greenlet that SQLAlchemy
needs to open a connection, which takes as long as a short statement. A connection that a call has used is
returned in the next iteration of the event loop, unless the next call uses it before that.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import PoolProxiedConnection, event, exc

from sessions.backends.sql.limits import cancellation_check
from sessions.backends.sql.schema import SqlPool
from sessions.backends.sql.sync_calls import run_sync
from sessions.backends.sqlite.driver import call_in_thread
from sessions.backends.sqlite.files import FileId, idle_connection, is_usable
from sessions.backends.sqlite.setup import KEEPS_NO_LOOP
from sessions.core.telemetry import Checkout

__all__ = ["SqlitePool"]

R = TypeVar("R")
# Called at the end of a call, also of a cancelled one, when its thread no longer uses the connection.
Finish = Callable[[], None]


def do_nothing(*_: object) -> None:
    """Do nothing."""


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
    # A call that has waited for its turn may use the pool while it is being closed, or after that.
    _is_closed: bool = field(default=False, init=False)
    # Not in use, and not returned yet.
    _kept: PoolProxiedConnection | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        event.listen(self.engine.sync_engine, "invalidate", self._note_invalid)

    def _note_invalid(self, *_: object) -> None:
        self._are_open = False

    def begin_closing(self) -> None:
        """From now on, close each connection that a call returns."""
        self.return_kept()
        self._is_closed = True

    @property
    def _queue(self) -> Any:
        return self.engine.sync_engine.pool

    async def call(
        self, work: Callable[..., R], *arguments: Any, current: FileId | None, finish: Finish = do_nothing
    ) -> R:
        """Call a function in the thread of a connection.

        A caller that is cancelled returns at once; the function runs to its end.

        Args:
            work: Called with the arguments and a cursor.
            *arguments: What precedes the cursor.
            current: The database file, for which an idle connection must be open.
            finish: Called once, at the end.
        """
        with self.meter.checkout(exc.TimeoutError) as checkout:
            try:
                connection = self._idle(current)
            except BaseException:
                finish()
                raise
            if connection is not None:
                checkout.got()
                return await self._call_on(connection, work, arguments, finish)
            # aiosqlite leaks a connection whose opening is cancelled.
            step = functools.partial(self._check_out_and_call, work, arguments, finish, checkout)
            result: R = await self.run(step)
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

    async def _check_out_and_call(
        self, work: Callable[..., R], arguments: Sequence[Any], finish: Finish, checkout: Checkout
    ) -> R:
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
        return await self._call_on(connection, work, arguments, finish)

    async def _call_on(
        self,
        connection: PoolProxiedConnection,
        work: Callable[..., R],
        arguments: Sequence[Any],
        finish: Finish,
    ) -> R:
        try:
            result = await call_in_thread(connection.driver_connection, work, *arguments)
        except asyncio.CancelledError:
            self.start(self._check_in_later, connection, finish)
            raise
        except BaseException:
            finish()
            await self._check_in(connection)
            raise
        finish()
        queue, keeps = self._queue, self._kept is None and not self._is_closed
        if keeps and queue.checkedin() < queue.size() and queue.overflow() < self.max_overflow:
            # Until the next iteration of the event loop.
            self._kept = connection
            asyncio.get_running_loop().call_soon(self.return_kept)
        else:
            await self._check_in(connection)
            if queue.overflow() >= self.max_overflow:
                # Others may wait for it: the next call of this task would get it before them every time.
                await asyncio.sleep(0)
        return result

    async def _check_in(self, connection: PoolProxiedConnection) -> None:
        if self._is_closed:
            await run_sync(connection.invalidate)
            return
        connection.info[KEEPS_NO_LOOP] = True
        queue = self._queue
        if queue.checkedin() + self.kept < queue.size():
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
        if self._is_closed:
            self.start(run_sync, connection.invalidate)
            return
        connection.info[KEEPS_NO_LOOP] = True
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
