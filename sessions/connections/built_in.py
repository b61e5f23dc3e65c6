"""The backends of this package: one row each, which is all that the factories know of them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sessions.connections.base import ConnectionType

__all__ = ["BUILT_IN", "BuiltIn", "class_of"]


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One backend. Classes are named by text, so that a service loads only the driver that it uses.

    Attributes:
        folder: Its package in `sessions.backends`, with the modules ``connection`` and ``repository``.
        manager: Class of its connection manager, in ``connection``.
        backend: Class of its operations, in ``repository``.
        scheme: How its URLs begin, or each of several ways; more may follow, as in ``mongodb+srv``.
        face: Module that registers the backend's own repository class; None if it has none.
        extra: The extra that installs its driver; None if the package itself does.
    """

    folder: str
    manager: str
    backend: str
    scheme: str | tuple[str, ...]
    face: str | None = None
    extra: str | None = None

    def needs(self, error: ModuleNotFoundError) -> str:
        """Return which module is not installed, and the command that installs it."""
        distribution = f"'agenthub-sessions[{self.extra}]'" if self.extra else "agenthub-sessions"
        package = str(error.name).partition(".")[0]
        return f"{self.folder} needs {package}; install it with: pip install {distribution}"


BUILT_IN = {
    ConnectionType.MONGODB: BuiltIn(
        "mongodb",
        "MongoConnectionManager",
        "MongoBackend",
        "mongodb",
        "sessions.repositories.mongo_session_repository",
    ),
    ConnectionType.POSTGRES: BuiltIn(
        "postgres",
        "PostgresConnectionManager",
        "PostgresBackend",
        "postgres",
        "sessions.repositories.postgres_session_repository",
    ),
    ConnectionType.SQLITE: BuiltIn(
        "sqlite",
        "SqliteConnectionManager",
        "SqliteBackend",
        "sqlite",
        "sessions.repositories.sqlite_session_repository",
    ),
    ConnectionType.REDIS: BuiltIn(
        "redis",
        "RedisConnectionManager",
        "RedisBackend",
        ("redis", "valkey", "unix"),
        "sessions.repositories.redis_session_repository",
        "redis",
    ),
}


def class_of(connection_type: ConnectionType, module: str) -> Any:
    """Return the class of a backend in its module ``connection`` or ``repository``; imports the driver."""
    built_in = BUILT_IN[connection_type]
    name = built_in.manager if module == "connection" else built_in.backend
    return getattr(import_module(f"sessions.backends.{built_in.folder}.{module}"), name)
