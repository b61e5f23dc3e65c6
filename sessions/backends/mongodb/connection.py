"""MongoDB through PyMongo's asyncio client, or Motor's where Beanie 1 is installed."""

from __future__ import annotations

import functools
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import pymongo
from bson import ObjectId
from bson.codec_options import CodecOptions
from pymongo import ReadPreference, errors

from sessions.backends.mongodb import errors as mongo_errors
from sessions.backends.mongodb.client import MongoConnection, durable_write_concern, in_transaction
from sessions.backends.mongodb.internals import connections_idle, connections_in_use, parts_of
from sessions.backends.mongodb.known import KnownSessions
from sessions.backends.mongodb.options import database_of, new_client, place_of, pool_of
from sessions.backends.mongodb.schema import (
    COLLECTION_UUID_MISMATCH,
    DOCUMENTS,
    VALIDATION_FAILURE,
    Ready,
    prepare,
    widen_validators,
)
from sessions.config import MongoSettings, PasswordCallable, load_settings
from sessions.connections.base import HEALTH_TIMEOUT_SECONDS, AsyncBaseConnectionManager
from sessions.connections.keys import name_variables
from sessions.core.batches import GroupLimits, sends_within
from sessions.core.failures import Place
from sessions.core.group_commit import GroupCommit
from sessions.core.loops import LoopBound
from sessions.core.telemetry import PoolMeter, PoolUse, Target, target_of
from sessions.errors import ConfigurationError, SessionsError
from sessions.models.documents import ChatSessionDocument

__all__ = ["MongoConnectionManager"]

R = TypeVar("R")

# Naive datetimes in UTC; `aware` adds the time zone. With `tz_aware` the driver takes four times as long to
# decode a message.
CODEC_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions()
CLOSE_TIMEOUT_SECONDS = 2.0


class MongoConnectionManager(AsyncBaseConnectionManager):
    """One MongoDB database.

    Args:
        url: ``mongodb://`` or ``mongodb+srv://``; the database of its path wins over the configured one.
        client: A service's own client, used and never closed here; it belongs to one event loop.
        **settings: Any key of ``db.mongodb``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    has_transactions: bool
    """Whether the server is a replica set or sharded; known once `connect` has returned."""

    def __init__(self, *, url: str | None = None, client: Any = None, **settings: Any) -> None:
        self._settings = _settings(url, client, settings)
        self._url_given = {"url": url}
        self._client = client
        # Given with a client of one's own, it wins over the database of that client's URL.
        self._database = settings.get("database") if client is not None else None
        # After a fork the driver replaces its parts, and drops the parent's.
        self._connections = LoopBound(
            self._open,
            self._close if client is None else None,
            parts=lambda connection: parts_of(connection.client),
        )
        self.has_transactions = False
        self._ready: Ready | None = None
        self._password: str | None = None
        self.known = KnownSessions()
        self.queues = LoopBound(self._open_queue, None)

    @classmethod
    def cache_key(cls, *, url: str | None = None, client: Any = None, **settings: Any) -> Hashable:
        """Return the complete settings, and the service's client if there is one."""
        resolved = _settings(url, client, settings)
        return resolved if client is None else (id(client), resolved)

    async def connect(self) -> MongoConnection:
        """Return the running event loop's client, with collections, validators and indexes ready."""
        connection, _ = await self.connect_ready()
        return connection

    async def _connection(self) -> MongoConnection:
        """Return the running event loop's client."""
        await self._ask_password()
        return await self._connections.get()

    async def _ask_password(self) -> None:
        """Ask a callable password before a client is made."""
        password = self._settings.password
        if isinstance(password, PasswordCallable) and self._connections.peek() is None:
            self._password = await password()

    async def connect_ready(self) -> tuple[MongoConnection, Ready]:
        """Return the running event loop's client, and the state of its database."""
        connection = self._connections.peek() or await self._connection()
        while (ready := self._ready) is None or ready.until <= time.monotonic():
            await self._prepare(connection)
        return connection, ready

    async def make_ready(self) -> None:
        """Connect, and create missing collections, indexes and validators, also if they were ready before."""
        await self._prepare(await self._connection())

    async def prepare_again(self, error: BaseException, *, seen: int) -> bool:
        """Make the collections ready again if one was dropped, or has the validator of an earlier release.

        Args:
            error: From an operation.
            seen: `preparations` when the operation began.

        Returns:
            Whether the operation may be repeated at once.
        """
        if not isinstance(error, errors.OperationFailure):
            return False
        if error.code == VALIDATION_FAILURE:
            return await widen_validators(await self._connection())
        if error.code != COLLECTION_UUID_MISMATCH:
            return False
        if self.preparations == seen:
            await self._prepare(await self._connection())
        return True

    async def _prepare(self, connection: MongoConnection) -> None:
        """Make the collections ready, once for all callers at the same time."""
        await connection.preparing.run(functools.partial(self._prepare_now, connection))

    async def _prepare_now(self, connection: MongoConnection) -> None:
        self._ready = await prepare(connection)
        self.has_transactions = self._ready.has_transactions
        self.known.clear()
        self.preparations += 1

    async def run_step(self, step: Callable[[], Awaitable[R]]) -> R:
        """Await ``step()`` in a task that continues in the background if the caller is cancelled.

        PyMongo leaks a socket when a connect is cancelled, and an interrupted write leaves messages for a
        later clean-up.
        """
        await self._ask_password()
        return await self._connections.run(step)

    async def disconnect(self) -> None:
        """Close the clients of all event loops, and forget the state of the database.

        A service's own client is not closed.
        """
        self._ready = None
        self.known.clear()
        await self._connections.aclose()

    def using(self, transaction: object) -> AsyncBaseConnectionManager:
        """Return a manager that runs operations in a transaction of the caller's.

        Raises:
            ConfigurationError: It is not a client session of PyMongo's asyncio client or of Motor's.
        """
        from sessions.backends.mongodb.transaction import MongoTransaction

        return MongoTransaction(self, transaction)

    async def in_transaction(self, work: Callable[[AsyncBaseConnectionManager], Awaitable[R]]) -> R:
        """Await ``work(manager)`` in one transaction; commit it, or abort it on an error.

        Repeated a few times after a write conflict.

        Raises:
            NotImplementedError: The server is standalone.
        """
        from sessions.backends.mongodb.transaction import OwnMongoTransaction

        connection, ready = await self.connect_ready()
        if not ready.has_transactions:
            raise NotImplementedError(
                "run_in_transaction: the MongoDB server is standalone; transactions need a replica set"
            )

        def on(client_session: Any) -> Awaitable[R]:
            return work(OwnMongoTransaction(self, client_session))

        return await connection.run(in_transaction, connection, on)

    def checked_out(self) -> int:
        """Return how many connections are in use, in all event loops."""
        return sum(connections_in_use(connection.client) for connection in self._connections.resources())

    def pools(self) -> list[PoolUse]:
        """Return the use of the clients' pools, one for each event loop, of all servers."""
        return [
            PoolUse(
                connections_in_use(connection.client),
                connections_idle(connection.client),
                connection.client.options.pool_options.max_pool_size,
                connection.meter.pending,
            )
            for connection in self._connections.resources()
        ]

    def target(self) -> Target:
        """Return the database, as telemetry names it, with the first of its servers."""
        if (client := self._client) is None:
            return target_of("mongodb", self._place(), namespace=database_of(self._settings))
        name = self._database or client.get_default_database(self._settings.database).name
        host, port = next(iter(client.topology_description.server_descriptions()), (None, None))
        return Target("mongodb", name, host, port)

    async def identity(self) -> str | None:
        """Return the UUID of the collection of sessions; None if the server has none.

        A restored copy gets another one, also under the same name.
        """
        _, ready = await self.connect_ready()
        found = ready.uuids.get(ChatSessionDocument.Settings.name)
        if found is None:
            return None
        # A client with a representation of UUIDs returns them as such.
        return f"mongodb/{(found.bytes if isinstance(found, uuid.UUID) else found).hex()}"

    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises."""
        try:
            await self.run_step(self._try_write)
        except Exception as error:
            self.log_unhealthy(error)
            return False
        return True

    async def _try_write(self) -> None:
        connection = await self._connection()
        with pymongo.timeout(HEALTH_TIMEOUT_SECONDS):
            async with connection.deadline():
                for collection in connection.collections.values():
                    # No document matches: the server checks everything, and writes nothing.
                    await collection.update_one({"_id": ObjectId()}, {"$currentDate": {"updated_at": True}})

    def is_transient(self, error: BaseException) -> bool:
        """Return whether the driver's error is transient, by its class, code or label."""
        return mongo_errors.is_transient(error)

    def took_its_timeout(self, error: BaseException) -> bool:
        """Return whether there was no connection within ``pool_timeout`` or ``refused_timeout``."""
        return mongo_errors.took_its_timeout(error)

    def outcome_is_unknown(self, error: BaseException) -> bool:
        """Return whether the connection was lost after a command was sent on it."""
        return mongo_errors.outcome_is_unknown(error)

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for an error of PyMongo."""
        return mongo_errors.translate(error, self._place(), by_url=self._settings.url is not None)

    def _place(self) -> Place:
        """Return the addresses, database and user for the text of an error."""
        connection = self._connections.peek()
        addresses: tuple[str, ...] = ()
        user = None
        if self._client is None:
            addresses, user = place_of(self._settings)
        elif connection is not None:
            servers = connection.client.topology_description.server_descriptions()
            addresses = tuple(f"{host}:{port}" if port else host for host, port in servers)
        database = connection.database.name if connection is not None else self._settings.database
        return Place("MongoDB", addresses, database, user)

    def _new_client(self) -> Any:
        try:
            return new_client(self._settings, self._password)
        except ConfigurationError as error:
            name_variables(error, self._url_given)
            raise

    def _open_queue(self) -> GroupCommit:
        size, timeout = pool_of(self._settings, self._client)
        # Other operations do not wait behind appends for a connection.
        sends, slow_sends = sends_within(size)
        limits = GroupLimits(
            count=self._settings.append_batch_messages,
            size=self._settings.append_batch_bytes,
            sends=sends,
            slow_sends=slow_sends,
            seconds=timeout,
            queue_timeout=lambda: errors.WaitQueueTimeoutError("no free connection within pool_timeout"),
            no_answer=lambda: errors.NetworkTimeout("no answer within timeout"),
        )
        return GroupCommit(limits, self._connections.start)

    def _open(self) -> MongoConnection:
        client = self._client or self._new_client()
        if not client.write_concern.acknowledged:
            raise ConfigurationError("client: its write concern is w=0; a lost write would not be reported")
        database = client.get_default_database(self._settings.database)
        if self._database is not None:
            database = client[self._database]
        # The first reads from the primary, whatever the client's read preference is.
        collections, readable = (
            {
                document.Settings.name: database.get_collection(
                    document.Settings.name,
                    codec_options=CODEC_OPTIONS,
                    write_concern=durable_write_concern(client),
                    read_preference=preference,
                )
                for document in DOCUMENTS
            }
            for preference in (ReadPreference.PRIMARY, client.read_preference)
        )
        own_timeout = client.options.timeout
        # As for the driver, 0 is no timeout of its own.
        timeout = own_timeout or self._settings.timeout
        return MongoConnection(
            client,
            database,
            collections,
            readable,
            timeout,
            self._settings.refused_timeout,
            meter=PoolMeter(self.target()),
        )

    async def _close(self, connection: MongoConnection) -> None:
        # The driver ends its sessions with `endSessions`, and waits for the response without a time limit.
        with pymongo.timeout(CLOSE_TIMEOUT_SECONDS):
            closed = connection.client.close()
            if inspect.isawaitable(closed):  # Motor's close is a plain call.
                await closed


def _settings(url: str | None, client: Any, overrides: dict[str, Any]) -> MongoSettings:
    settings = load_settings()
    if client is not None:
        # The configured database is not used, so an unset variable there is not an error.
        return settings.db.mongodb.with_overrides(**overrides)
    return settings.backend("mongodb", url=url, **overrides)
