"""What an error of PostgreSQL, asyncpg or SQLAlchemy means, by SQLSTATE and class, never by its text."""

from __future__ import annotations

import ssl

import asyncpg
from sqlalchemy import exc

from sessions.backends.sql.engine import NoAnswerError, hide_values, unavailable
from sessions.errors import ConfigurationError, SchemaOutdatedError, SessionsError

__all__ = [
    "DRIVER_ERRORS",
    "driver_error",
    "is_duplicate_key",
    "is_schema_missing",
    "is_transient",
    "outcome_is_unknown",
    "translate",
]

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
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
SETTINGS_SQLSTATES = ("28", "3D", "3F")  # authorization, unknown database, unknown schema
UNIQUE_VIOLATION = "23505"
INSUFFICIENT_PRIVILEGE = "42501"
INVALID_SCHEMA_NAME = "3F000"
SCHEMA_SQLSTATES = ("42P01", "42703")  # undefined table, undefined column


def is_transient(error: BaseException) -> bool:
    """Return whether SQLSTATE or the kind of connection error promises better luck."""
    if isinstance(error, exc.TimeoutError):
        return False  # The pool's own wait is over; another one would double the bound.
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    sqlstate = _sqlstate(error)
    if sqlstate is not None:
        return sqlstate in TRANSIENT_SQLSTATES or sqlstate.startswith("08")
    of_driver = driver_error(error)
    if isinstance(of_driver, ssl.SSLCertVerificationError):
        return False
    return isinstance(of_driver, OSError | asyncpg.InterfaceError)


def is_duplicate_key(error: BaseException) -> bool:
    """Return whether a row with the same primary key is there already; no other column is unique."""
    return _sqlstate(error) == UNIQUE_VIOLATION


def is_schema_missing(error: BaseException) -> bool:
    """Return whether a statement failed because a table, a column or a schema is not there."""
    return _sqlstate(error) in (*SCHEMA_SQLSTATES, INVALID_SCHEMA_NAME)


def outcome_is_unknown(error: BaseException) -> bool:
    """Return whether the connection was lost after a statement was sent on it."""
    if isinstance(error, NoAnswerError):
        return True
    # What fails while connecting is not wrapped, and an interface error is raised before sending.
    of_driver = driver_error(error)
    return (
        isinstance(error, exc.DBAPIError)
        and is_transient(error)
        and not isinstance(of_driver, asyncpg.InterfaceError)
        and _sqlstate(error) not in UNDONE_SQLSTATES
    )


def driver_error(error: BaseException) -> BaseException:
    """Return asyncpg's error, which SQLAlchemy wraps twice."""
    while isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if error.__cause__ is not None and type(error).__module__.startswith("sqlalchemy"):
        return error.__cause__
    return error


def translate(error: BaseException) -> SessionsError | None:
    """Return the package's error for an error of SQLAlchemy, asyncpg or the network."""
    hide_values(error)
    of_driver = driver_error(error)
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
    if isinstance(of_driver, ssl.SSLCertVerificationError):
        reason = f"PostgreSQL's certificate is refused: {of_driver.verify_message}"
        return unavailable(reason, of_driver)
    if sqlstate in REASONS:
        return unavailable(f"PostgreSQL {REASONS[sqlstate]}", of_driver)
    if isinstance(error, exc.DBAPIError) or isinstance(of_driver, DRIVER_ERRORS):
        return unavailable("PostgreSQL cannot be used", of_driver)
    return None


def _sqlstate(error: BaseException) -> str | None:
    # SQLAlchemy's wrapper of asyncpg's error has it, too.
    sqlstate = getattr(error.orig if isinstance(error, exc.DBAPIError) else error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None
