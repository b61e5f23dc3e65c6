"""A MongoDB client of one event loop: whose turn it is, until when, and transactions."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pymongo
from pymongo import ReadPreference, WriteConcern, errors

from sessions.core.shared_work import SharedWork
from sessions.resilience import time_left

__all__ = [
    "MongoConnection",
    "ServerRefusesError",
    "acknowledged_early",
    "durable_write_concern",
    "in_transaction",
    "is_conflict",
    "raw_cursor",
]

R = TypeVar("R")

# How often it is looked whether servers refuse connections while an operation is under way.
LOOK_SECONDS = 0.5
ABORT_TIMEOUT_SECONDS = 2.0
TRANSACTION_ATTEMPTS = 5
CONFLICT_DELAY_SECONDS = 0.02
# An acknowledged write outlives a crash. A standalone server's own default acknowledges what is in its
# memory alone, and writes it to the journal up to 100 ms later.
DURABLE = WriteConcern(w="majority", j=True)
EARLY = WriteConcern(w=1)


class ServerRefusesError(errors.ServerSelectionTimeoutError):
    """No server accepted a connection for as long as a server that restarts is waited for."""


@dataclass(slots=True, eq=False)
class MongoConnection:
    """A client of one event loop, with the collections of one database.

    Attributes:
        client: ``AsyncMongoClient``, or Motor's ``AsyncIOMotorClient``.
        database: Its database.
        collections: The documents' collections by name, reading from the primary, datetimes without a zone.
        readable: The same, reading from where the client's read preference says.
        timeout: Seconds that an operation may take.
        refused_timeout: Seconds to wait for servers all of which refuse connections.
        client_session: Of a transaction of the caller's, in which all of it takes part.
    """

    client: Any
    database: Any
    collections: Mapping[str, Any]
    readable: Mapping[str, Any]
    timeout: float
    refused_timeout: float
    preparing: SharedWork = field(default_factory=SharedWork)
    client_session: Any = None
    _turns: asyncio.Semaphore | None = None

    def reign(self) -> Hashable:
        """Return what no other life of the server, and no reign of another primary, has in common with this.

        None if that is not known, or there is not one log of all writes, as in a sharded cluster.
        """
        for server in self.client.topology_description.server_descriptions().values():
            if server.server_type_name in ("RSPrimary", "Standalone") and server.topology_version:
                return server.address, server.election_id, server.topology_version["processId"]
        return None

    def __post_init__(self) -> None:
        size = self.client.options.pool_options.max_pool_size
        # PyMongo takes 0 for no limit.
        self._turns = asyncio.Semaphore(size) if size else None

    async def run(self, work: Callable[..., Awaitable[R]], *arguments: Any, more: float = 0.0) -> R:
        """Await ``work(*arguments)`` as one operation: in its turn, before its deadline.

        No more of them at once than the pool has connections: a transaction takes one for each of its
        steps. If those who wait for its end held all of them, it could not go on, and would never end.

        Args:
            work: What to await.
            *arguments: For it.
            more: Seconds beyond ``timeout`` that it may take, as it is known to be large.

        Raises:
            WaitQueueTimeoutError: Its turn took longer to come than a connection of the pool may take.
            ServerSelectionTimeoutError: See `deadline`.
        """
        # Without `deadline`: every operation comes this way, and a generator costs more. The wait for the
        # turn is watched as well: those who have theirs may all wait for servers that refuse.
        async with _RefusalWatch(self):
            if self._turns is not None:
                await self._take_turn(self._turns)
            try:
                await self._find_server()
                with pymongo.timeout(time_left(self.timeout) + more):
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
            async with asyncio.timeout(time_left(math.inf if at_most is None else at_most)):
                await turns.acquire()
        except TimeoutError:
            raise errors.WaitQueueTimeoutError("no free connection within pool_timeout") from None

    @contextlib.asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Bound what is done in it as one operation, however many commands it sends.

        Raises:
            ServerSelectionTimeoutError: No server to write to was found within ``connect_timeout``.
            ServerRefusesError: All servers refused connections for ``refused_timeout``.
        """
        async with _RefusalWatch(self):
            await self._find_server()
            with pymongo.timeout(time_left(self.timeout)):
                yield

    async def _find_server(self) -> None:
        """Look for a server first: under a deadline the driver looks until that is over."""
        if not self.client.topology_description.has_writable_server():
            with pymongo.timeout(time_left(self.client.options.server_selection_timeout)):
                await self.client.admin.command("ping")

    def refusals(self) -> list[errors.PyMongoError]:
        """Return how each known server refuses connections; empty if one of them answers, or keeps silent.

        A member that answers, but is no primary yet, is worth a longer wait, and so may be a silent one.
        """
        servers = self.client.topology_description.server_descriptions().values()
        found = [server.error for server in servers]
        if any(not isinstance(error, errors.AutoReconnect) or isinstance(error, ANSWERS) for error in found):
            return []
        return found


# A server that is slow, or says that it is no primary.
ANSWERS = (errors.NetworkTimeout, errors.NotPrimaryError)


class _RefusalWatch:
    """Ends an operation whose servers have refused connections for too long.

    The driver goes on to look for a server until the operation's deadline, whatever the servers say.
    """

    __slots__ = ("_connection", "_handle", "_looks", "_scope")

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._looks = 0

    async def __aenter__(self) -> None:
        self._scope = await asyncio.timeout(None).__aenter__()
        self._handle = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    async def __aexit__(self, *raised: Any) -> None:
        self._handle.cancel()
        try:
            await self._scope.__aexit__(*raised)
        except TimeoutError:
            reasons = "; ".join(map(str, self._connection.refusals()))
            raise ServerRefusesError(reasons) from None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._looks = self._looks + 1 if self._connection.refusals() else 0
        if self._looks * LOOK_SECONDS >= self._connection.refused_timeout:
            self._scope.reschedule(loop.time())
        else:
            self._handle = loop.call_later(LOOK_SECONDS, self._look)


async def in_transaction(connection: MongoConnection, work: Callable[[Any], Awaitable[R]]) -> R:
    """Await ``work(client_session)`` in a transaction, a few times where another write is in the way.

    Not the driver's own loop: that one goes on for two minutes, also when the server is gone, and where
    many write to the same document, a transaction may never be the one that gets through.

    Raises:
        OperationFailure: `is_conflict` holds for it: others were in the way each time, or once in a
            transaction of the caller's.
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
        # A transaction cannot read anywhere else, whatever the client prefers.
        read_preference=ReadPreference.PRIMARY,
    )
    if inspect.isawaitable(begun):  # Motor's is no coroutine.
        await begun
    try:
        result = await work(client_session)
        await client_session.commit_transaction()
    except BaseException:
        if client_session.in_transaction:
            # Out of the operation's deadline: when that is over nothing is sent any more, and the server
            # would keep the locks for a minute.
            await asyncio.create_task(_abort(client_session), context=contextvars.Context())
        raise
    return result


async def _abort(client_session: Any) -> None:
    # The driver itself lets errors pass: what is not aborted ends by itself.
    with pymongo.timeout(ABORT_TIMEOUT_SECONDS):
        await client_session.abort_transaction()


def durable_write_concern(client: Any) -> WriteConcern:
    """Return what makes writes durable, unless the URL or the service's own client says otherwise."""
    chosen: WriteConcern = client.write_concern
    return DURABLE if chosen.is_server_default else chosen


def acknowledged_early(collection: Any) -> Any | None:
    """Return a collection whose writes are acknowledged before they are durable.

    None where somebody chose how writes are acknowledged.
    """
    return collection.with_options(write_concern=EARLY) if collection.write_concern == DURABLE else None


def is_conflict(error: errors.OperationFailure) -> bool:
    """Return whether the server gave up a transaction because another write was in its way."""
    return error.has_error_label("TransientTransactionError")


async def raw_cursor(query: Any) -> Any:
    """Return the driver's cursor of a Beanie query, which builds no model for each document."""
    return await query.get_cursor() if hasattr(query, "get_cursor") else query.motor_cursor
