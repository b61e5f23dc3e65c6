"""A MongoDB client of one event loop: concurrency limit, deadlines and transactions."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import pymongo
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern, errors

from sessions.core.shared_work import SharedWork
from sessions.core.telemetry import PoolMeter
from sessions.resilience import time_left, wait_left

__all__ = [
    "MongoConnection",
    "ServerRefusesError",
    "durable_write_concern",
    "in_transaction",
    "is_conflict",
]

R = TypeVar("R")

# Interval of the checks whether servers refuse connections, during an operation.
REFUSAL_CHECK_SECONDS = 0.5
ABORT_TIMEOUT_SECONDS = 2.0
TRANSACTION_ATTEMPTS = 5
CONFLICT_DELAY_SECONDS = 0.02
# An acknowledged write survives a crash. The default write concern of a standalone server acknowledges a
# write in memory, up to 100 ms before it is journaled.
DURABLE = WriteConcern(w="majority", j=True)
EARLY = WriteConcern(w=1)


class ServerRefusesError(errors.ServerSelectionTimeoutError):
    """No server accepted a connection within ``refused_timeout``."""


@dataclass(slots=True, eq=False)
class MongoConnection:
    """A client of one event loop, with the collections of one database.

    Attributes:
        client: ``AsyncMongoClient``, or Motor's ``AsyncIOMotorClient``.
        database: Its database.
        collections: The documents' collections by name, reading from the primary, datetimes without a zone.
        readable: The same, with the read preference of the client.
        timeout: Seconds that an operation may take.
        refused_timeout: Seconds to wait for servers all of which refuse connections.
        client_session: Client session of a caller's transaction, which all operations take part in.
        meter: Measures the waits for a connection, and its use.
    """

    client: Any
    database: Any
    collections: Mapping[str, Any]
    readable: Mapping[str, Any]
    timeout: float
    refused_timeout: float
    preparing: SharedWork = field(default_factory=SharedWork)
    client_session: Any = None
    meter: PoolMeter = field(default_factory=PoolMeter)
    _turns: asyncio.Semaphore | None = None
    _may_be_cancelled: bool = False
    _early: dict[str, Any] = field(default_factory=dict)
    # The last description of the servers that has one to write to; the driver replaces it if one changes.
    _writable: Any = None

    def acknowledged_early(self, name: str) -> Any | None:
        """Return a collection whose writes are acknowledged before they are durable.

        None if the service sets a write concern of its own.
        """
        if name not in self._early:
            collection = self.collections[name]
            is_own = collection.write_concern == DURABLE
            self._early[name] = collection.with_options(write_concern=EARLY) if is_own else None
        return self._early[name]

    def primary_identity(self) -> Hashable:
        """Return what changes with an election or a restart: address, election id, process id of the primary.

        None if they are unknown, and on a sharded cluster, which has no single oplog.
        """
        for server in self.client.topology_description.server_descriptions().values():
            if server.server_type_name in ("RSPrimary", "Standalone") and server.topology_version:
                return server.address, server.election_id, server.topology_version["processId"]
        return None

    def __post_init__(self) -> None:
        size = self.client.options.pool_options.max_pool_size
        # PyMongo takes 0 for no limit.
        self._turns = asyncio.Semaphore(size) if size else None
        # Motor's calls go on in a thread, and a transaction would be left open on the server.
        self._may_be_cancelled = isinstance(self.client, AsyncMongoClient) and self.client_session is None

    async def run(
        self, work: Callable[..., Awaitable[R]], *arguments: Any, more: float = 0.0, reads: bool = False
    ) -> R:
        """Await ``work(*arguments)`` as one operation, with a deadline.

        At most as many operations run at once as the pool has connections. A transaction checks out a
        connection for each command: if operations blocked by it held them all, it could never commit.

        Args:
            work: Coroutine function.
            *arguments: Its arguments.
            more: Seconds added to ``timeout``, for a large operation.
            reads: Whether it writes nothing.

        Raises:
            NetworkTimeout: The deadline has passed.
            WaitQueueTimeoutError: It waited longer than ``pool_timeout``.
            ServerSelectionTimeoutError: See `deadline`.
        """
        # Not `deadline`, a generator: this is the path of every operation, and a generator is slower. Waiting
        # for a turn is watched as well: the operations that run may all wait for servers that refuse.
        async with _RefusalWatch(self) as watch:
            # The turn is the wait for a connection: a command then finds one.
            with self.meter.checkout(errors.WaitQueueTimeoutError) as checkout:
                if self._turns is not None:
                    await self._take_turn(self._turns)
                checkout.got()
                try:
                    await self._find_server()
                    seconds = time_left(self.timeout) + more
                    if reads and self._may_be_cancelled:
                        # The driver's deadline takes a task and three iterations of the loop for a command.
                        # A read can be cancelled instead: the driver closes the connection, and so the server
                        # ends the read.
                        watch.end_in(seconds)
                        return await work(*arguments)
                    with pymongo.timeout(seconds):
                        return await work(*arguments)
                finally:
                    if self._turns is not None:
                        self._turns.release()

    async def _take_turn(self, turns: asyncio.Semaphore) -> None:
        if not turns.locked():
            await turns.acquire()
            return
        try:
            at_most = self.client.options.pool_options.wait_queue_timeout
            async with asyncio.timeout(wait_left(math.inf if at_most is None else at_most)):
                await turns.acquire()
        except TimeoutError:
            raise errors.WaitQueueTimeoutError("no free connection within pool_timeout") from None

    @contextlib.asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Give the block one deadline, however many commands it sends.

        Raises:
            ServerSelectionTimeoutError: No server to write to was found within ``connect_timeout``.
            ServerRefusesError: All servers refused connections for ``refused_timeout``.
        """
        async with _RefusalWatch(self):
            await self._find_server()
            with pymongo.timeout(time_left(self.timeout)):
                yield

    async def _find_server(self) -> None:
        """Select a server first: under a deadline, the driver's server selection takes until the deadline."""
        found = self.client.topology_description
        if found is self._writable:
            return
        if found.has_writable_server():
            self._writable = found
            return
        with pymongo.timeout(time_left(self.client.options.server_selection_timeout)):
            await self.client.admin.command("ping")

    def refusals(self) -> list[errors.PyMongoError]:
        """Return the error of each known server; empty unless all of them refuse connections.

        A member that responds, but is not primary yet, or one that does not respond may become available
        within ``connect_timeout``.
        """
        servers = self.client.topology_description.server_descriptions().values()
        found = [server.error for server in servers]
        if any(not isinstance(error, errors.AutoReconnect) or isinstance(error, ANSWERS) for error in found):
            return []
        return found


# Errors of a server that is slow, or is not the primary.
ANSWERS = (errors.NetworkTimeout, errors.NotPrimaryError)


class _RefusalWatch:
    """Ends an operation whose servers have refused connections for ``refused_timeout``.

    The driver's server selection continues until the operation's deadline, even if all servers refuse.
    """

    __slots__ = ("_connection", "_deadline", "_handle", "_refused_checks", "_scope")

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._refused_checks = 0
        self._deadline = math.inf

    async def __aenter__(self) -> Self:
        self._scope = await asyncio.timeout(None).__aenter__()
        self._handle = asyncio.get_running_loop().call_later(REFUSAL_CHECK_SECONDS, self._check)
        return self

    def end_in(self, seconds: float) -> None:
        """Cancel the operation after so many seconds."""
        loop = asyncio.get_running_loop()
        self._deadline = deadline = loop.time() + seconds
        if seconds < REFUSAL_CHECK_SECONDS:
            self._handle.cancel()
            self._handle = loop.call_at(deadline, self._check)

    async def __aexit__(self, *raised: Any) -> None:
        self._handle.cancel()
        try:
            await self._scope.__aexit__(*raised)
        except TimeoutError:
            if asyncio.get_running_loop().time() >= self._deadline:
                raise errors.NetworkTimeout("no answer within timeout") from None
            reasons = "; ".join(map(str, self._connection.refusals()))
            raise ServerRefusesError(reasons) from None

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._refused_checks = self._refused_checks + 1 if self._connection.refusals() else 0
        refused = self._refused_checks * REFUSAL_CHECK_SECONDS >= self._connection.refused_timeout
        if refused or now >= self._deadline:
            self._scope.reschedule(now)
        else:
            self._handle = loop.call_at(min(now + REFUSAL_CHECK_SECONDS, self._deadline), self._check)


async def in_transaction(connection: MongoConnection, work: Callable[[Any], Awaitable[R]]) -> R:
    """Await ``work(client_session)`` in a transaction; retry a few times after write conflicts.

    Not ``with_transaction``: it retries for two minutes, also without a server, and with many concurrent
    writes to the same document a transaction may never commit.

    Raises:
        OperationFailure: `is_conflict` holds for it: each attempt met a write conflict, or the only one in
            a caller's transaction.
    """
    if connection.client_session is not None:
        return await work(connection.client_session)
    starting = connection.client.start_session()
    # Motor's is a coroutine.
    async with await starting if inspect.isawaitable(starting) else starting as client_session:
        for _ in range(TRANSACTION_ATTEMPTS - 1):
            try:
                return await _transaction(client_session, work)
            except errors.OperationFailure as error:
                if not is_conflict(error):
                    raise
            await asyncio.sleep(random.uniform(0, CONFLICT_DELAY_SECONDS))
        return await _transaction(client_session, work)


async def _transaction(client_session: Any, work: Callable[[Any], Awaitable[R]]) -> R:
    begun = client_session.start_transaction(
        write_concern=durable_write_concern(client_session.client),
        # The only read preference that a transaction allows.
        read_preference=ReadPreference.PRIMARY,
    )
    if inspect.isawaitable(begun):  # Motor's is no coroutine.
        await begun
    try:
        result = await work(client_session)
        await client_session.commit_transaction()
    except BaseException:
        if client_session.in_transaction:
            # Without the operation's deadline: after it the driver sends nothing, and the server keeps the
            # locks for a minute.
            await asyncio.create_task(_abort(client_session), context=contextvars.Context())
        raise
    return result


async def _abort(client_session: Any) -> None:
    # The driver ignores errors here: the server aborts the transaction after its time limit.
    with pymongo.timeout(ABORT_TIMEOUT_SECONDS):
        await client_session.abort_transaction()


def durable_write_concern(client: Any) -> WriteConcern:
    """Return the durable write concern, unless the URL or the service's own client sets one."""
    chosen: WriteConcern = client.write_concern
    return DURABLE if chosen.is_server_default else chosen


def is_conflict(error: errors.OperationFailure) -> bool:
    """Return whether the server aborted a transaction because of a write conflict."""
    return error.has_error_label("TransientTransactionError")
