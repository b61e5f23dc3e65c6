"""PostgreSQL through SQLAlchemy on asyncpg."""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
import uuid
import weakref
from collections.abc import Hashable
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import asyncpg
from pydantic import SecretStr
from sqlalchemy import (
    Connection,
    Executable,
    Table,
    bindparam,
    delete,
    exc,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sessions.config import PostgresSettings, load_settings
from sessions.connections import postgres_dialect
from sessions.connections.sql import (
    NoAnswerError,
    SqlConnectionManager,
    engine_key,
    hide_values,
    unavailable,
)
from sessions.errors import ConfigurationError, SchemaOutdatedError, SessionsError
from sessions.models.records import ChatMessageRecord, ChatSessionRecord

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
# A connection with one of these was refused before it was of any use, or a statement was taken back.
UNDONE_SQLSTATES = frozenset({"40001", "40P01", "53300", "55P03", "57P03"})
REASONS = {
    "25006": "is read-only",
    "53100": "has no disk space left",
    "53300": "has no connection left (max_connections)",
    "57014": "did not finish within statement_timeout",
}
SETTINGS_SQLSTATES = ("28", "3D", "3F")  # authorization, unknown database, unknown schema
INSUFFICIENT_PRIVILEGE = "42501"
SCHEMA_SQLSTATES = ("42P01", "42703")  # undefined table, undefined column

# The server ends a statement itself, and says so; only one that keeps silent is given up on this much later.
SILENCE_SECONDS = 1.0
CLOSE_TIMEOUT_SECONDS = 2.0


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
        # What each of our engines has opened.
        self._opened: weakref.WeakKeyDictionary[AsyncEngine, weakref.WeakSet[asyncpg.Connection]] = (
            weakref.WeakKeyDictionary()
        )
        self.answer_timeout = self._settings.statement_timeout + SILENCE_SECONDS
        self.checkout_timeout = (
            self._settings.pool_timeout + self._settings.connect_timeout + self.answer_timeout
        )
        self.one_transaction_at_a_time = self._settings.pgbouncer
        super().__init__(
            engine=engine,
            auto_migrate=self._settings.auto_migrate,
            max_overflow=self._settings.max_overflow,
            schema=self._settings.schema_name,
        )

    @classmethod
    def cache_key(
        cls, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any
    ) -> Hashable:
        """Return the service's engine or the complete settings, with the URL in one spelling."""
        return engine_key(engine, _settings(url, engine, settings))

    def _create_engine(self) -> AsyncEngine:
        opened: weakref.WeakSet[asyncpg.Connection] = weakref.WeakSet()

        async def connect() -> asyncpg.Connection:
            try:
                connection: asyncpg.Connection = await asyncpg.connect(**self._target)
                opened.add(connection)
                return connection
            except ssl.SSLError:
                raise  # One of them is a ValueError, too.
            except (ValueError, OverflowError) as error:
                problem = type(error).__name__
            # Unchained: asyncpg quotes the part of the URL it stumbles on, which may be of the password.
            key = "db.postgres.url" if "dsn" in self._target else "db.postgres"
            raise ConfigurationError(f"{key}: is not valid ({problem})")

        proxied = self.one_transaction_at_a_time
        engine = create_async_engine(
            postgres_dialect.URL,
            # asyncpg reads the URL itself, so that all of libpq's forms work as they do in psql.
            async_creator=connect,
            execution_options=self._execution_options,
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
        self._opened[engine] = opened
        return engine

    async def _close_idle(self, engine: AsyncEngine) -> None:
        # The pool would wait for the server's good-bye on each in turn, for ever where it keeps silent.
        opened = tuple(self._opened.get(engine, ()))
        closing = (connection.close(timeout=CLOSE_TIMEOUT_SECONDS) for connection in opened)
        await asyncio.gather(*closing, return_exceptions=True)

    def _break(self, connection: Connection) -> None:
        raw = connection.connection.driver_connection
        if raw is not None:
            raw.terminate()

    async def _may_migrate(self, connection: AsyncConnection) -> bool:
        read_only = func.current_setting("transaction_read_only") == "on"
        may_create = func.has_schema_privilege(func.current_schema(), "CREATE")
        if (schema := self._settings.schema_name) is not None:
            quoted = connection.dialect.identifier_preparer.quote(schema)
            # Nothing is known of a schema that is not there: then it has to be made first.
            may_create = func.coalesce(
                func.has_schema_privilege(func.to_regnamespace(quoted), "CREATE"),
                func.has_database_privilege(func.current_database(), "CREATE"),
            )
        return bool(await connection.scalar(select(~read_only & may_create)))

    async def _try_write(self, connection: AsyncConnection) -> None:
        # Of a session that there is not: every right is checked, and nothing is written.
        await connection.execute(_no_op_write(), {"nobody": str(uuid.uuid4())})

    def is_transient(self, error: BaseException) -> bool:
        """Return whether SQLSTATE or the kind of connection error promises better luck."""
        if isinstance(error, exc.TimeoutError):
            return False  # The pool's own wait is over; another one would double the bound.
        if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
            return True
        sqlstate = _sqlstate(error)
        if sqlstate is not None:
            return sqlstate in TRANSIENT_SQLSTATES or sqlstate.startswith("08")
        driver_error = self.driver_error(error)
        if isinstance(driver_error, ssl.SSLCertVerificationError):
            return False
        return isinstance(driver_error, OSError | asyncpg.InterfaceError)

    def outcome_is_unknown(self, error: BaseException) -> bool:
        """Return whether the connection was lost after a statement was sent on it."""
        if isinstance(error, NoAnswerError):
            return True
        # What fails while connecting is not wrapped, and an interface error is raised before sending.
        driver_error = self.driver_error(error)
        return (
            isinstance(error, exc.DBAPIError)
            and self.is_transient(error)
            and not isinstance(driver_error, asyncpg.InterfaceError)
            and _sqlstate(error) not in UNDONE_SQLSTATES
        )

    def driver_error(self, error: BaseException) -> BaseException:
        """Return asyncpg's error, which SQLAlchemy wraps twice."""
        while isinstance(error, exc.DBAPIError) and error.orig is not None:
            error = error.orig
        if error.__cause__ is not None and type(error).__module__.startswith("sqlalchemy"):
            return error.__cause__
        return error

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for an error of SQLAlchemy, asyncpg or the network."""
        hide_values(error)
        driver_error = self.driver_error(error)
        sqlstate = _sqlstate(error)
        if sqlstate is not None and sqlstate.startswith(SETTINGS_SQLSTATES):
            return ConfigurationError(f"db.postgres: refused by the server (SQLSTATE {sqlstate})")
        if sqlstate == INSUFFICIENT_PRIVILEGE:
            return ConfigurationError(f"db.postgres: the role may not do this (SQLSTATE {sqlstate})")
        if sqlstate in SCHEMA_SQLSTATES:
            return SchemaOutdatedError(
                "the schema is not there or not ours; run: sessions db upgrade --backend postgres"
            )
        if isinstance(error, exc.TimeoutError):
            return unavailable("no free PostgreSQL connection within pool_timeout", error)
        if isinstance(error, NoAnswerError):
            return unavailable("PostgreSQL gave no answer within statement_timeout", error)
        if isinstance(driver_error, ssl.SSLCertVerificationError):
            reason = f"PostgreSQL's certificate is refused: {driver_error.verify_message}"
            return unavailable(reason, driver_error)
        if sqlstate in REASONS:
            return unavailable(f"PostgreSQL {REASONS[sqlstate]}", driver_error)
        if isinstance(error, exc.DBAPIError | asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
            return unavailable("PostgreSQL cannot be used", driver_error)
        return None


@functools.cache
def _no_op_write() -> Executable:
    """Return a write of every kind to the session ``:nobody``."""
    sessions: Table = ChatSessionRecord.__table__  # type: ignore[assignment]
    messages: Table = ChatMessageRecord.__table__  # type: ignore[assignment]
    nobody = sessions.c.session_id == bindparam("nobody", type_=sessions.c.session_id.type)
    found = update(sessions).where(nobody).values(title=sessions.c.title).returning(sessions).cte("found")
    return select(literal_column("1")).add_cte(
        found,
        insert(sessions).from_select(list(found.c.keys()), select(found), include_defaults=False).cte("new"),
        insert(messages)
        .from_select(
            ["message_id", "session_id", "role", "content", "timestamp"],
            select(
                found.c.session_id,
                found.c.session_id,
                literal_column("'user'"),
                found.c.title,
                found.c.updated_at,
            ),
            include_defaults=False,
        )
        .cte("message"),
        delete(sessions).where(nobody).cte("gone"),
    )


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
    url = settings.url.get_secret_value() if settings.url else ""
    if settings.pgbouncer:
        arguments["statement_cache_size"] = 0
    elif "statement_timeout" not in dict(parse_qsl(url.partition("?")[2])):
        # Not through pgbouncer, which refuses what it cannot keep apart; there only silence is bounded.
        milliseconds = max(1, math.ceil(settings.statement_timeout * 1000))
        arguments["server_settings"] = {"statement_timeout": str(milliseconds)}
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
    if not url.startswith(f"{SCHEMES[0]}://"):
        # The URL itself is not shown: it holds the password.
        raise ConfigurationError("db.postgres.url: must start with postgresql:// or postgresql+asyncpg://")
    return arguments | {"dsn": url}


def _sqlstate(error: BaseException) -> str | None:
    # SQLAlchemy's wrapper of asyncpg's error has it, too.
    sqlstate = getattr(error.orig if isinstance(error, exc.DBAPIError) else error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None
