"""The connections of one event loop: asyncpg's own pool behind a fair, bounded queue.

In asyncpg's pool a busy task gets the connection that it has just returned before waiting tasks do, and a
wait has no time limit; so a task acquires a semaphore first. A used connection stays acquired for the next
statement: asyncpg starts a task for each release, which takes a quarter of the client's time for a statement.
Statements are executed by asyncpg itself: SQLAlchemy's layers above it take about as long as PostgreSQL does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import exc

from sessions.backends.postgres.errors import ConnectionLostError, ends_the_connection
from sessions.backends.sql.engine import NoAnswerError
from sessions.core.telemetry import PoolMeter, PoolUse
from sessions.resilience import time_left, wait_left

__all__ = ["PostgresPool"]

R = TypeVar("R")

# Time limit for the cancellation of a statement on the server; then the connection is closed.
CANCEL_SECONDS = 1.0
# Time limits of a close: for calls in progress, and then for closing the connections.
DRAIN_SECONDS = 5.0
CLOSE_SECONDS = 2.0
# Period of trimming: as many connections as were in use at once in a period stay open, at least pool_size.
TRIM_SECONDS = 3.0

# SQL with ``$1`` and so on, and the values in order.
Statement = tuple[str, Sequence[Any]]
# Awaits ``work(*arguments)`` in the background: `LoopBound.start`.
Start = Callable[..., None]


class _Connection(asyncpg.Connection):
    """A connection that is accessible through the pool's proxy, and has that proxy while it is acquired."""

    proxy: Any = None

    def itself(self) -> _Connection:
        """Return the connection; the proxy delegates unknown methods to it."""
        return self


class PostgresPool:
    """Executes statements on the connections of one event loop.

    Args:
        connect: Opens a connection; gets the arguments that asyncpg's pool adds to ``asyncpg.connect``.
        size: Connections that stay open.
        overflow: Connections that may be opened beyond ``size``.
        checkout_timeout: Seconds to wait for a connection.
        one_transaction: Execute each statement in a transaction of its own, for a pooler in transaction
            mode.
        start: Runs the clean-up after a cancelled call in the background.
        meter: Measures the waits for a connection, and its use.
    """

    def __init__(
        self,
        connect: Callable[..., Awaitable[Any]],
        *,
        size: int,
        overflow: int,
        checkout_timeout: float,
        one_transaction: bool,
        start: Start,
        meter: PoolMeter,
    ) -> None:
        self._connect = connect
        self._meter = meter
        self._size, self._overflow = size, overflow
        self._checkout_timeout = checkout_timeout
        self._one_transaction = one_transaction
        self._start = start
        self._slots = asyncio.Semaphore(size + overflow)
        # Acquired from asyncpg's pool, and not in use; the last one was used last.
        self._idle: list[_Connection] = []
        self._in_use = self._most_in_use = 0
        self._trimming: asyncio.TimerHandle | None = None
        self._is_open = False
        opening: Any = self._open
        self._pool: Any = asyncpg.create_pool(
            min_size=0,
            max_size=size + overflow,
            # No limit by age or idle time; see `_trim`.
            max_queries=2**62,
            max_inactive_connection_lifetime=0,
            connect=opening,
            connection_class=_Connection,
            # No reset needed: every transaction is ended where it begins.
            reset=_do_nothing,
        )

    @property
    def checked_out(self) -> int:
        """Number of connections in use."""
        return self._in_use

    def use(self) -> PoolUse:
        """Return the connections in use, and those that are open and idle."""
        idle = max(0, self._pool.get_size() - self._in_use)
        return PoolUse(self._in_use, idle, self._size + self._overflow, self._meter.pending)

    async def _open(self, _dsn: None, **options: Any) -> Any:
        connection = await self._connect(**options)
        if self._trimming is None and self._pool.get_size() >= self._size:
            self._trim_later()
        return connection

    # -- Statements --------------------------------------------------------------------------------

    def run(
        self,
        query: str,
        arguments: Sequence[Any],
        *,
        rows: bool,
        seconds: float,
        first: Statement | None = None,
    ) -> Awaitable[Any]:
        """Execute one statement in its own transaction.

        Args:
            query: SQL with ``$1`` and so on.
            arguments: Values in order.
            rows: Whether to return the rows, or else the number of written rows.
            seconds: Time limit for the response.
            first: A statement to execute before it in the same transaction, with its values.

        Raises:
            NoAnswerError: The time limit is exceeded. The statement is cancelled; its outcome is unknown.
            ConnectionLostError: The connection was lost after the statement was sent, or while it was.
            asyncpg.PostgresError: The server rejects the statement; it has no effect.
            sqlalchemy.exc.TimeoutError: No connection became free in time.
        """
        if not (self._one_transaction or first is not None):
            return self._call(functools.partial(_execute, query, arguments, rows), seconds, close=False)
        execute = functools.partial(_execute_both, query, arguments, rows, first)
        return self.run_in_transaction(execute, seconds=seconds)

    def run_made(self, make: Callable[[], Statement], *, seconds: float) -> Awaitable[Any]:
        """Execute a statement that is made once there is a connection for it; return its rows.

        Args:
            make: Returns SQL with ``$1`` and so on, and the values in order.
            seconds: Time limit for the response.

        Raises:
            NoAnswerError: As from `run`, and so for the others.
        """
        execute = functools.partial(_execute_made, make)
        if self._one_transaction:
            return self.run_in_transaction(execute, seconds=seconds)
        return self._call(execute, seconds, close=False)

    def run_in_transaction(
        self, work: Callable[[_Connection], Awaitable[R]], *, seconds: float
    ) -> Awaitable[R]:
        """Await ``work(connection)`` in one transaction, and commit it, or roll it back on an error.

        Args:
            work: Executes statements, and leaves the transaction open.
            seconds: Time limit for all of it.

        Raises:
            NoAnswerError: As from `run`, and so for the others.
        """
        # What ends a transaction that is open after a cancellation is only the end of the connection.
        return self._call(functools.partial(_in_transaction, work), seconds, close=True)

    async def _call(self, work: Callable[[_Connection], Awaitable[R]], seconds: float, *, close: bool) -> R:
        with self._meter.checkout(exc.TimeoutError) as checkout:
            connection = await self._check_out()
            checkout.got()
            return await self._call_on(connection, work, seconds, close)

    async def _call_on(
        self,
        connection: _Connection,
        work: Callable[[_Connection], Awaitable[R]],
        seconds: float,
        close: bool,
    ) -> R:
        try:
            async with asyncio.timeout(time_left(seconds)):
                result = await work(connection)
        except asyncio.CancelledError:
            # asyncpg cancels the statement on the server, for which the caller does not wait.
            self._start(self._recover, connection, close)
            raise
        except TimeoutError as error:  # Not the socket's timeout, which is a connection error.
            self._close_idle()
            self._start(self._recover, connection, close)
            raise NoAnswerError("no answer in time") from error
        except Exception as error:
            if ends_the_connection(error):
                connection.terminate()
            lost = connection.is_closed()
            if lost:
                self._close_idle()  # The idle connections may be lost, too.
            await self._check_in(connection)
            if lost:
                raise ConnectionLostError from error
            raise
        except BaseException:
            connection.terminate()
            await self._check_in(connection)
            raise
        await self._check_in(connection)
        return result

    # -- Checking out and in -----------------------------------------------------------------------

    async def _check_out(self) -> _Connection:
        if self._slots.locked():
            try:
                async with asyncio.timeout(wait_left(self._checkout_timeout)):
                    await self._slots.acquire()
            except TimeoutError as error:
                raise exc.TimeoutError("no connection became free in time") from error
        else:
            await self._slots.acquire()
        try:
            connection = await self._acquire()
        except BaseException:
            self._slots.release()
            raise
        self._in_use += 1
        if self._in_use > self._most_in_use:
            self._most_in_use = self._in_use
        return connection

    async def _acquire(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            await self._release(connection)
        if not self._is_open:
            await self._pool  # Opens no connection yet, so it does not wait.
            self._is_open = True
        proxy = await self._pool.acquire()
        acquired: _Connection = proxy.itself()
        acquired.proxy = proxy
        return acquired

    async def _check_in(self, connection: _Connection) -> None:
        if connection.is_closed():
            await self._return(connection)
        else:
            self._idle.append(connection)
            self._in_use -= 1
            self._slots.release()

    async def _return(self, connection: _Connection, *, seconds: float | None = None) -> None:
        """Check a connection in through asyncpg's pool, which waits until a cancelled statement has ended."""
        proxy = connection.proxy
        try:
            await self._pool.release(proxy, timeout=seconds)
        finally:
            self._release_slot(connection, proxy)

    async def _release(self, connection: _Connection) -> None:
        """Release an idle connection to asyncpg's pool, which forgets a closed one."""
        proxy, connection.proxy = connection.proxy, None
        await self._pool.release(proxy)

    def _release_slot(self, connection: _Connection, proxy: object) -> None:
        if connection.proxy is proxy:  # It is not checked out again.
            connection.proxy = None
        self._in_use -= 1
        self._slots.release()

    async def _recover(self, connection: _Connection, close: bool) -> None:
        """Check a connection in after its statement is cancelled; close it, or if that takes too long."""
        try:
            if close:
                async with asyncio.timeout(CANCEL_SECONDS):
                    await connection.close()
        except BaseException:
            connection.terminate()
        finally:
            with contextlib.suppress(Exception):  # Then asyncpg has closed it.
                await self._return(connection, seconds=CANCEL_SECONDS)

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[asyncpg.Connection]:
        """Check out a connection whose state may change; it is closed afterwards."""
        connection = await self._check_out()
        try:
            yield connection
        finally:
            connection.terminate()
            await self._check_in(connection)

    async def lend_until_closed(self) -> asyncpg.Connection:
        """Check out a connection that the caller closes."""
        connection = await self._check_out()
        proxy = connection.proxy
        connection.add_termination_listener(lambda _: self._release_slot(connection, proxy))
        return connection

    # -- Closing -----------------------------------------------------------------------------------

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()
            self._start(self._release, connection)

    def _trim_later(self) -> None:
        self._most_in_use = self._in_use
        self._trimming = asyncio.get_running_loop().call_later(TRIM_SECONDS, self._trim)

    def _trim(self) -> None:
        """Close the connections beyond the pool's size that were not in use since the last run."""
        self._trimming = None
        needed = max(self._size, self._most_in_use)
        surplus = max(0, self._pool.get_size() - needed)
        for connection in self._idle[:surplus]:
            connection.terminate()
            self._start(self._release, connection)
        del self._idle[:surplus]
        if self._pool.get_size() > self._size:
            self._trim_later()

    async def close(self) -> None:
        """Close all connections, after the calls in progress; those that take too long fail."""
        if self._trimming is not None:
            self._trimming.cancel()
        if not self._is_open:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._in_use:  # noqa: ASYNC110 - at most for some seconds
                    await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                idle, self._idle = self._idle, []
                for connection in idle:
                    await self._release(connection)
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


async def _execute(query: str, arguments: Sequence[Any], rows: bool, connection: _Connection) -> Any:
    if rows:
        return await connection.fetch(query, *arguments)
    status = await connection.execute(query, *arguments)
    return int(status.rpartition(" ")[2])  # Such as "DELETE 3".


async def _execute_made(make: Callable[[], Statement], connection: _Connection) -> Any:
    return await _execute(*make(), True, connection)


async def _execute_both(
    query: str, arguments: Sequence[Any], rows: bool, first: Statement | None, connection: _Connection
) -> Any:
    if first is not None:
        await connection.execute(first[0], *first[1])
    return await _execute(query, arguments, rows, connection)


async def _in_transaction(work: Callable[[_Connection], Awaitable[R]], connection: _Connection) -> R:
    await connection.execute("BEGIN")
    try:
        result = await work(connection)
    except Exception:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    if await connection.execute("COMMIT") != "COMMIT":
        # The server rolls a transaction back in which a statement failed, and reports that as a success.
        raise asyncpg.InFailedSQLTransactionError("the transaction was aborted, and is rolled back")
    return result


async def _do_nothing(_connection: object) -> None:
    pass
