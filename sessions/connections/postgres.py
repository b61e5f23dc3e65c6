"""PostgreSQL through SQLAlchemy on asyncpg."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

import asyncpg
from pydantic import SecretStr
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessions.config import PostgresSettings, load_settings
from sessions.connections.sql import SqlConnectionManager, engine_key, hide_values, unavailable
from sessions.errors import ConfigurationError, SchemaOutdatedError, SessionsError

__all__ = ["PostgresConnectionManager"]

# Of a URL; the first is the one that asyncpg takes.
SCHEMES = ("postgresql", "postgresql+asyncpg", "postgres")

# https://www.postgresql.org/docs/current/errcodes-appendix.html
TRANSIENT_SQLSTATES = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "53300",  # too_many_connections
        "55P03",  # lock_not_available
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
    }
)
SETTINGS_SQLSTATES = ("28", "3D", "42501")  # authorization, unknown database, insufficient privilege
SCHEMA_SQLSTATES = ("42P01", "42703")  # undefined table, undefined column


class PostgresConnectionManager(SqlConnectionManager):
    """One PostgreSQL database.

    Args:
        url: ``postgresql://`` or ``postgresql+asyncpg://``, with libpq's query parameters.
        engine: A service's own ``AsyncEngine``; used, never closed.
        **settings: Any key of ``db.postgres``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    dialect: ClassVar[str] = "postgresql"
    survives_cancellation: ClassVar[bool] = True

    def __init__(self, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any) -> None:
        self._settings = _settings(url, engine, settings)
        self._target = _connect_arguments(self._settings) if engine is None else {}
        self.one_transaction_at_a_time = self._settings.pgbouncer
        super().__init__(engine=engine, auto_migrate=self._settings.auto_migrate)

    @classmethod
    def cache_key(
        cls, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any
    ) -> Hashable:
        """Return the service's engine or the complete settings, with the URL in one spelling."""
        return engine_key(engine, _settings(url, engine, settings))

    def _create_engine(self) -> AsyncEngine:
        async def connect() -> asyncpg.Connection:
            try:
                return await asyncpg.connect(**self._target)
            except (ValueError, OverflowError) as error:
                problem = type(error).__name__
            # Unchained: asyncpg quotes the part of the URL it stumbles on, which may be of the password.
            key = "db.postgres.url" if "dsn" in self._target else "db.postgres"
            raise ConfigurationError(f"{key}: is not valid ({problem})")

        proxied = self.one_transaction_at_a_time
        return create_async_engine(
            "postgresql+asyncpg://",
            # asyncpg reads the URL itself, so that all of libpq's forms work as they do in psql.
            async_creator=connect,
            isolation_level="READ COMMITTED" if proxied else "AUTOCOMMIT",
            # Behind a proxy no named statement may stay: the next transaction has another connection.
            connect_args={"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
            if proxied
            else {},
            pool_size=self._settings.pool_size,
            max_overflow=self._settings.max_overflow,
            pool_timeout=self._settings.pool_timeout,
            # The connection that was used last: what it needs is in the caches, of its server process too.
            pool_use_lifo=True,
            # Parameters are the conversation; they belong in no error text and no log.
            hide_parameters=True,
        )

    def is_transient(self, error: BaseException) -> bool:
        """Return whether SQLSTATE or the kind of connection error promises better luck."""
        if isinstance(error, exc.TimeoutError):
            return False  # The pool's own wait is over; another one would double the bound.
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return True
        sqlstate = _sqlstate(error)
        if sqlstate is not None:
            return sqlstate in TRANSIENT_SQLSTATES or sqlstate.startswith("08")
        return isinstance(_driver_error(error), OSError | TimeoutError | asyncpg.InterfaceError)

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for an error of SQLAlchemy, asyncpg or the network."""
        hide_values(error)
        driver_error = _driver_error(error)
        sqlstate = _sqlstate(error)
        if sqlstate is not None and sqlstate.startswith(SETTINGS_SQLSTATES):
            return ConfigurationError(f"db.postgres: refused by the server (SQLSTATE {sqlstate})")
        if sqlstate in SCHEMA_SQLSTATES:
            return SchemaOutdatedError(
                "the schema is not there or not ours; run: sessions db upgrade --backend postgres"
            )
        if isinstance(error, exc.TimeoutError):
            return unavailable("no free PostgreSQL connection within pool_timeout", error)
        if isinstance(error, exc.DBAPIError | asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
            return unavailable("PostgreSQL cannot be used", driver_error)
        return None


def _settings(url: str | None, engine: AsyncEngine | None, overrides: dict[str, Any]) -> PostgresSettings:
    settings = load_settings()
    if engine is not None:
        # The configured database is not meant, so a variable that is unset there is no error.
        return settings.db.postgres.with_overrides(**overrides)
    resolved = settings.backend("postgres", url=url, **overrides)
    scheme, separator, rest = (
        resolved.url.get_secret_value().partition("://") if resolved.url else ("", "", "")
    )
    if separator and scheme in SCHEMES[1:]:
        # One spelling, so that all of them share one manager.
        resolved = resolved.model_copy(update={"url": SecretStr(f"{SCHEMES[0]}://{rest}")})
    return resolved


def _connect_arguments(settings: PostgresSettings) -> dict[str, Any]:
    arguments: dict[str, Any] = {"timeout": settings.connect_timeout}
    if settings.pgbouncer:
        arguments["statement_cache_size"] = 0
    if settings.ssl is not None:
        arguments["ssl"] = settings.ssl
    if settings.url is None:
        return arguments | {
            "host": settings.host,
            "port": settings.port,
            "database": settings.database,
            "user": settings.username,
            "password": settings.password.get_secret_value() if settings.password else None,
        }
    url = settings.url.get_secret_value()
    if not url.startswith(f"{SCHEMES[0]}://"):
        # The URL itself is not shown: it holds the password.
        raise ConfigurationError("db.postgres.url: must start with postgresql:// or postgresql+asyncpg://")
    return arguments | {"dsn": url}


def _driver_error(error: BaseException) -> BaseException:
    """Return the innermost error: SQLAlchemy wraps asyncpg's twice."""
    while isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if error.__cause__ is not None and type(error).__module__.startswith("sqlalchemy"):
        return error.__cause__
    return error


def _sqlstate(error: BaseException) -> str | None:
    sqlstate = getattr(_driver_error(error), "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None
