"""MongoDB through PyMongo's asyncio client, or Motor's where Beanie 1 is installed."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Hashable
from importlib.metadata import version
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import pymongo
from bson import ObjectId
from bson.codec_options import CodecOptions
from pymongo import errors

from sessions.backends.mongodb.client import MongoConnection, durable_write_concern
from sessions.backends.mongodb.schema import ensure_indexes, set_validator
from sessions.config import MongoSettings, PasswordCallable, load_settings
from sessions.config.passwords import password_for_driver
from sessions.connections.base import HEALTH_TIMEOUT_SECONDS, AsyncBaseConnectionManager
from sessions.core.failures import without_values
from sessions.core.loops import LoopBound
from sessions.errors import BackendUnavailableError, ConfigurationError, InvalidInputError, SessionsError
from sessions.models.documents import ChatMessageDocument, ChatSessionDocument

__all__ = ["MongoConnectionManager"]

R = TypeVar("R")

DOCUMENTS = (ChatSessionDocument, ChatMessageDocument)
# Datetimes without a zone, which are in UTC: `aware` adds that. The driver takes four times as long for all
# of a message if it is to do so.
CODEC_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions()
CLOSE_TIMEOUT_SECONDS = 2.0
MAX_INCARNATIONS = 10_000

# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
TRANSIENT_CODES = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        112,  # WriteConflict
        134,  # ReadConcernMajorityNotAvailableYet
        189,  # PrimarySteppedDown
        262,  # ExceededTimeLimit
        9001,  # SocketException
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
TRANSIENT_LABELS = ("RetryableWriteError", "TransientTransactionError")
TOO_LARGE_CODES = frozenset({10334, 17419})  # BSONObjectTooLarge, and what an update would make too large
SETTINGS_CODES = frozenset({11, 13, 18})  # UserNotFound, Unauthorized, AuthenticationFailed


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
        self._client = client
        # Given with a client of one's own, it wins over the database of that client's URL.
        self._database = settings.get("database") if client is not None else None
        # After a fork the driver makes its parts anew, and lets go of the parent's.
        self._connections = LoopBound(
            self._open, self._close, parts=lambda connection: tuple(vars(connection.client).values())
        )
        self._prepared = False
        self.has_transactions = False
        # Facts that never change: which document a session id meant, and whose it was. An entry of a
        # session that is gone is found out by the write it is used for.
        self._incarnations: dict[str, tuple[Any, str]] = {}

    @classmethod
    def cache_key(cls, *, url: str | None = None, client: Any = None, **settings: Any) -> Hashable:
        """Return the complete settings, and the service's client if there is one."""
        resolved = _settings(url, client, settings)
        return resolved if client is None else (id(client), resolved)

    async def connect(self) -> MongoConnection:
        """Return the running event loop's client, with collections, validators and indexes ready."""
        connection = await self._connections.get()
        if not self._prepared:
            async with connection.lock:
                if not self._prepared:
                    await self._prepare(connection)
                    self._prepared = True
        return connection

    async def make_ready(self) -> None:
        """Connect, and make what is missing of collections, indexes and validators, whatever is known."""
        connection = await self._connections.get()
        async with connection.lock:
            await self._prepare(connection)
            self._prepared = True

    async def run_step(self, step: Callable[[], Awaitable[R]]) -> R:
        """Await ``step()`` in a task that goes on in the background if the caller is cancelled.

        PyMongo leaks a socket that is cancelled while it connects, and a write that is cut off half-way
        leaves what the next caller has to clear away.
        """
        return await self._connections.run(step)

    async def _prepare(self, connection: MongoConnection) -> None:
        """Make collections, indexes and validators, unless one look tells that all of them are there."""
        names = [document.Settings.name for document in DOCUMENTS]
        async with connection.deadline():
            found = await connection.database.command("listCollections", filter={"name": {"$in": names}})
        # Replica sets and sharded clusters say when they answered, a standalone server does not.
        self.has_transactions = "operationTime" in found
        present = {entry["name"]: entry.get("options", {}) for entry in found["cursor"]["firstBatch"]}
        for document, name in zip(DOCUMENTS, names, strict=True):
            validation = {"validator": document.VALIDATOR, "validationLevel": "moderate"}
            if validation.items() <= present.get(name, {}).items():
                continue
            # Without a deadline: an index takes as long as it takes.
            await ensure_indexes(connection.collections[name], document.Settings.indexes)
            # The validator last: who finds it knows that the indexes were made before. A collection from
            # before gets it too; documents that break it can still be changed.
            async with connection.deadline():
                await set_validator(connection.database, name, validation)

    async def disconnect(self) -> None:
        """Close the clients of all event loops; a service's own client is left alone."""
        await self._connections.aclose()

    def checked_out(self) -> int:
        """Return how many connections are in use, in all event loops."""
        return sum(_in_use(connection.client) for connection in self._connections.resources())

    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises."""
        try:
            await self.run_step(self._try_write)
        except Exception as error:
            self.log_unhealthy(error)
            return False
        return True

    async def _try_write(self) -> None:
        connection = await self._connections.get()
        with pymongo.timeout(HEALTH_TIMEOUT_SECONDS):
            async with connection.deadline():
                for collection in connection.collections.values():
                    # There is no such document: all is checked, and nothing is written.
                    await collection.update_one({"_id": ObjectId()}, {"$currentDate": {"updated_at": True}})

    def remember(self, session_id: str, incarnation: Any, user_id: str) -> None:
        """Keep which document a session id means."""
        if len(self._incarnations) >= MAX_INCARNATIONS:
            self._incarnations.clear()
        self._incarnations[session_id] = (incarnation, user_id)

    def recall(self, session_id: str, user_id: str | None) -> Any:
        """Return the document that a session id meant last, unless it was another user's."""
        incarnation, owner = self._incarnations.get(session_id, (None, None))
        return incarnation if user_id is None or user_id == owner else None

    def forget(self, session_id: str) -> None:
        """Drop what turned out to be gone."""
        self._incarnations.pop(session_id, None)

    def is_transient(self, error: BaseException) -> bool:
        """Return whether the driver's error class, code or label promises better luck."""
        if isinstance(error, errors.WaitQueueTimeoutError):
            return False  # The pool's own wait is over; another one would double the bound.
        if isinstance(error, errors.ConnectionFailure | errors.InvalidOperation):
            return True  # Invalid is what another thread has closed; the next try connects anew.
        if isinstance(error, errors.PyMongoError) and any(map(error.has_error_label, TRANSIENT_LABELS)):
            return True
        return isinstance(error, errors.OperationFailure) and error.code in TRANSIENT_CODES

    def outcome_is_unknown(self, error: BaseException) -> bool:
        """Return whether the connection was lost after a command was sent on it."""
        refused = errors.ServerSelectionTimeoutError | errors.WaitQueueTimeoutError | errors.NotPrimaryError
        return (isinstance(error, errors.ConnectionFailure) and not isinstance(error, refused)) or (
            isinstance(error, errors.PyMongoError) and error.has_error_label("UnknownTransactionCommitResult")
        )

    def _last_connection_error(self) -> str:
        """Return what kept the running loop's client from a server: its address and the reason."""
        connection = self._connections.peek()
        known = connection.client.topology_description.server_descriptions() if connection else {}
        errors_of = (server.error for server in known.values() if server.error is not None)
        # Without what the driver adds in brackets of its own settings.
        return next((f": {error}".partition(" (configured")[0] for error in errors_of), "")

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for an error of PyMongo."""
        failure = self._failure(error)
        if failure is not None:
            # The server's report quotes the document.
            failure.__cause__ = without_values(error, text=lambda text: text.partition(", full error: ")[0])
        return failure

    def _failure(self, error: BaseException) -> SessionsError | None:
        too_large = isinstance(error, errors.OperationFailure) and error.code in TOO_LARGE_CODES
        if too_large or isinstance(error, errors.DocumentTooLarge):
            return InvalidInputError("content", "is larger than MongoDB stores in one document (16 MB)")
        if isinstance(error, errors.OperationFailure) and error.code in SETTINGS_CODES:
            return ConfigurationError(f"db.mongodb: refused by the server (code {error.code})")
        if isinstance(error, errors.ConfigurationError):
            return ConfigurationError(f"db.mongodb: refused by the driver ({type(error).__name__})")
        if isinstance(error, errors.ServerSelectionTimeoutError):
            reason = "no MongoDB server to write to was found within connect_timeout"
            return BackendUnavailableError(reason + self._last_connection_error())
        if isinstance(error, errors.WaitQueueTimeoutError):
            return BackendUnavailableError("no free MongoDB connection within pool_timeout")
        if isinstance(error, errors.PyMongoError) and error.timeout:
            return BackendUnavailableError(f"MongoDB did not finish within timeout ({type(error).__name__})")
        if isinstance(error, errors.PyMongoError | OSError):
            return BackendUnavailableError(f"MongoDB cannot be used ({type(error).__name__})")
        return None

    def _open(self) -> MongoConnection:
        client = self._client or self._new_client()
        database = client.get_default_database(self._settings.database)
        if self._database is not None:
            database = client[self._database]
        collections = {
            document.Settings.name: database.get_collection(
                document.Settings.name,
                codec_options=CODEC_OPTIONS,
                write_concern=durable_write_concern(client),
            )
            for document in DOCUMENTS
        }
        own_timeout = client.options.timeout
        timeout = self._settings.timeout if own_timeout is None else own_timeout
        return MongoConnection(client, database, collections, timeout)

    def _new_client(self) -> Any:
        url = self._settings.url.get_secret_value() if self._settings.url else None
        try:
            return _client_class()(**_client_options(self._settings, url))
        except (errors.PyMongoError, ValueError) as error:
            # Without the cause: the driver quotes the part of the URL it stumbles on.
            raise ConfigurationError(f"db.mongodb.url: is not valid ({type(error).__name__})") from None

    async def _close(self, connection: MongoConnection) -> None:
        if self._client is None:
            # The driver says good-bye, and would wait for an answer for ever.
            with pymongo.timeout(CLOSE_TIMEOUT_SECONDS):
                closed = connection.client.close()
                if inspect.isawaitable(closed):  # Motor's close is a plain call.
                    await closed


def _client_class() -> Any:
    if version("beanie").startswith("1."):
        from motor.motor_asyncio import AsyncIOMotorClient  # pyright: ignore[reportMissingImports]

        return AsyncIOMotorClient
    from pymongo import AsyncMongoClient

    return AsyncMongoClient


def _settings(url: str | None, client: Any, overrides: dict[str, Any]) -> MongoSettings:
    settings = load_settings()
    if client is not None:
        # The configured database is not meant, so a variable that is unset there is no error.
        return settings.db.mongodb.with_overrides(**overrides)
    return settings.backend("mongodb", url=url, **overrides)


def _client_options(settings: MongoSettings, url: str | None) -> dict[str, Any]:
    seconds = {
        "serverSelectionTimeoutMS": settings.connect_timeout,
        "connectTimeoutMS": settings.connect_timeout,
        "waitQueueTimeoutMS": settings.pool_timeout,
    }
    options: dict[str, Any] = {name: max(1, int(value * 1000)) for name, value in seconds.items()}
    options |= {"maxPoolSize": settings.pool_size, "appname": "agenthub-sessions"}
    # As many as there may be: where callers have to wait for their turn to connect, and have a deadline, the
    # driver (4.20) may let nobody connect any more once a connection was lost.
    options |= {"maxConnecting": settings.pool_size}
    if url is not None:
        # What the URL itself says wins; the driver would let the arguments win.
        said = {name.lower() for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
        return {"host": url} | {name: value for name, value in options.items() if name.lower() not in said}
    options |= {"host": settings.host, "port": settings.port}
    if settings.username:
        options["username"] = settings.username
        if isinstance(settings.password, PasswordCallable):
            raise ConfigurationError("db.mongodb.password: a callable cannot be used with this driver")
        options["password"] = password_for_driver(settings.password)
        if settings.auth_source:
            options["authSource"] = settings.auth_source
    return options


def _in_use(client: Any) -> int:
    # Motor wraps PyMongo's client, of which any other attribute is a database. PyMongo counts the connections
    # of its pools and tells nobody.
    client = vars(client).get("delegate", client)
    servers = client._topology._servers.values() if client._topology is not None else ()
    return sum(server.pool.active_sockets for server in servers)
