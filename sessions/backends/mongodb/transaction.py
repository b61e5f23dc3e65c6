"""A caller's own transaction, in place of this package's client."""

from __future__ import annotations

import functools
from typing import Any

from pymongo import WriteConcern, errors

from sessions.backends.mongodb.client import MongoConnection
from sessions.backends.mongodb.connection import MongoConnectionManager
from sessions.backends.mongodb.known import KnownSessions
from sessions.backends.mongodb.schema import Ready
from sessions.connections.borrowed import BorrowedConnectionManager
from sessions.errors import ConfigurationError, SessionsError

__all__ = ["MongoTransaction", "OwnMongoTransaction"]

# Methods of a collection and a database that take a client session.
_COMMANDS = frozenset(
    {
        "aggregate",
        "bulk_write",
        "command",
        "count_documents",
        "delete_many",
        "delete_one",
        "distinct",
        "find",
        "find_one",
        "insert_one",
        "update_many",
        "update_one",
    }
)
# Methods that return another collection or database.
_VIEWS = frozenset({"get_collection", "with_options"})


class _Taking:
    """A collection or a database whose commands take part in a transaction."""

    def __init__(self, target: Any, client_session: Any) -> None:
        self._target, self._client_session = target, client_session

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name == "write_concern":
            return WriteConcern()  # Only the transaction itself may have a write concern.
        if name == "database":
            return _Taking(found, self._client_session)
        if name in _VIEWS:
            return lambda *args, **options: _Taking(found(*args, **options), self._client_session)
        if name not in _COMMANDS:
            return found

        @functools.wraps(found)
        def call(*args: Any, **options: Any) -> Any:
            return found(*args, **options | {"session": self._client_session})

        return call


class MongoTransaction(BorrowedConnectionManager):
    """Runs operations in a transaction that the caller starts, commits and aborts.

    Nothing is committed, repeated or closed here.

    Args:
        manager: Manager of the same database.
        client_session: The caller's ``AsyncClientSession``, or Motor's ``AsyncIOMotorClientSession``, of a
            client of the same server.

    Raises:
        ConfigurationError: It is not a client session.
    """

    has_transactions = True

    def __init__(self, manager: MongoConnectionManager, client_session: Any) -> None:
        # A client or a database returns a database or a collection for any attribute.
        if not isinstance(getattr(client_session, "in_transaction", None), bool):
            kind = type(client_session).__name__
            raise ConfigurationError(f"using: must be a client session, not {kind}")
        super().__init__(manager)
        self._manager = manager
        self._client_session = client_session
        # A cache of this transaction: entries in the manager's cache would outlive an abort.
        self.known = KnownSessions()

    async def connect(self) -> MongoConnection:
        """Return a connection whose operations run in the caller's transaction."""
        connection, _ = await self.connect_ready()
        return connection

    async def connect_ready(self) -> tuple[MongoConnection, Ready]:
        """Return a connection in the caller's transaction, and the state of the database.

        Raises:
            ConfigurationError: No transaction is under way, or the server has none.
        """
        if not self._client_session.in_transaction:
            raise ConfigurationError("using: the client session has no transaction under way")
        # Made ready outside the transaction, in which indexes cannot be created.
        own, ready = await self._manager.connect_ready()
        if not ready.has_transactions:
            raise ConfigurationError(
                "using: the MongoDB server is standalone; transactions need a replica set"
            )
        database = self._client_session.client[own.database.name]
        collections = {
            name: _Taking(
                database.get_collection(name, codec_options=collection.codec_options), self._client_session
            )
            for name, collection in own.collections.items()
        }
        connection = MongoConnection(
            self._client_session.client,
            database,
            collections,
            collections,
            own.timeout,
            own.refused_timeout,
            client_session=self._client_session,
        )
        return connection, ready

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error; None for one after which the caller may repeat the transaction.

        PyMongo's ``with_transaction`` repeats it for an error with that label, and for no other.
        """
        if isinstance(error, errors.PyMongoError) and error.has_error_label("TransientTransactionError"):
            return None
        return self._manager.translate(error)


class OwnMongoTransaction(MongoTransaction):
    """Runs operations in a transaction that the manager starts, commits and aborts."""

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return None: the manager, which may repeat the transaction, translates its error."""
        return None
