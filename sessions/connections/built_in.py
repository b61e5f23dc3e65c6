"""The backends of this package: one row each, which is everything that the factories use."""

from __future__ import annotations

from dataclasses import dataclass

from sessions.connections.base import ConnectionType

__all__ = ["BUILT_IN", "BuiltIn"]


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One backend. Modules are given by name, so that a service loads only the driver that it uses.

    Attributes:
        manager_module: Module of its connection manager.
        manager: Name of the manager class.
        repository_module: Module that registers its repository.
        scheme: Beginning of the scheme of its URLs; a suffix may follow, as in ``mongodb+srv``.
    """

    manager_module: str
    manager: str
    repository_module: str
    scheme: str


BUILT_IN = {
    ConnectionType.MONGODB: BuiltIn(
        "sessions.backends.mongodb.connection",
        "MongoConnectionManager",
        "sessions.repositories.mongo_session_repository",
        "mongodb",
    ),
    ConnectionType.POSTGRES: BuiltIn(
        "sessions.backends.postgres.connection",
        "PostgresConnectionManager",
        "sessions.repositories.postgres_session_repository",
        "postgres",
    ),
    ConnectionType.SQLITE: BuiltIn(
        "sessions.backends.sqlite.connection",
        "SqliteConnectionManager",
        "sessions.repositories.sqlite_session_repository",
        "sqlite",
    ),
}
