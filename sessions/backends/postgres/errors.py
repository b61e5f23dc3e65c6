"""Classifies errors of PostgreSQL, asyncpg and SQLAlchemy by SQLSTATE and class, never by message text."""

from __future__ import annotations

import os
import socket
import ssl

import asyncpg
from sqlalchemy import exc

from sessions.backends.postgres.connector import pooler_error
from sessions.backends.postgres.url import ESCAPE_HINT
from sessions.backends.sql.engine import NoAnswerError
from sessions.core.failures import Place, shown, without_values
from sessions.errors import SchemaOutdatedError, SessionsError

__all__ = [
    "DRIVER_ERRORS",
    "ConnectionLostError",
    "driver_error",
    "ends_the_connection",
    "is_conflict",
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
CONFLICT_SQLSTATES = frozenset({"40001", "40P01", "55P03"})
# The connection was rejected, or the statement was rolled back.
UNDONE_SQLSTATES = frozenset({"40001", "40P01", "53300", "55P03", "57P03"})
REASONS = {
    "25006": "the server is read-only; with several hosts, target_session_attrs=read-write finds the other",
    "53100": "the server has no disk space left",
    "53300": "the server has no connection left (max_connections)",
    "57014": "the statement did not finish within statement_timeout",
    "57P01": "the server shuts down",
    "57P02": "the server has crashed",
    "57P03": "the server starts up, or shuts down",
}
CONNECTION_EXCEPTION = "08"  # Its messages are about the protocol, or from a pooler, and quote no values.
DATA_EXCEPTION = "22"  # Its messages quote the value.
# Errors of TLS when the connection is lost.
CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
# By SQLSTATE or its class: the setting at fault, and what is wrong with it.
SETTINGS = {
    "28P01": ("db.postgres.password", "the server refuses the user's password"),
    "28": (
        "db.postgres.username",
        "the server does not let the user in: no such role, or not from here, or not without TLS (sslmode)",
    ),
    "3D": ("db.postgres.database", "there is no such database"),
    "3F": ("db.postgres.schema", "there is no such schema"),
    "42501": ("db.postgres.username", "the role may not do this"),
}
# A missing or duplicate prepared statement: it was prepared on another connection.
POOLER_SQLSTATES = ("26000", "42P05")
UNIQUE_VIOLATION = "23505"
INVALID_SCHEMA_NAME = "3F000"
SCHEMA_SQLSTATES = ("42P01", "42703")  # undefined table, undefined column


class ConnectionLostError(Exception):
    """The connection was lost during or after sending a statement; the cause is the driver's error."""


def ends_the_connection(error: BaseException) -> bool:
    """Return whether a connection is unusable after an error of asyncpg."""
    sqlstate = _sqlstate(error)
    if sqlstate is not None:
        # The server process exits, or the protocol is out of sync.
        return sqlstate.startswith(("57P", "08")) or sqlstate == "25P03"
    return isinstance(error, asyncpg.InternalClientError | OSError)


def is_conflict(error: BaseException) -> bool:
    """Return whether the server rolled a statement back because of another transaction."""
    return _sqlstate(driver_error(error)) in CONFLICT_SQLSTATES


def is_transient(error: BaseException) -> bool:
    """Return whether an error is transient, by SQLSTATE or class."""
    if isinstance(error, exc.TimeoutError):
        return False  # It took the whole `pool_timeout`; a retry would double it.
    if isinstance(error, ConnectionLostError):
        return True
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    sqlstate = _sqlstate(error)
    if sqlstate is not None:
        return sqlstate in TRANSIENT_SQLSTATES or sqlstate.startswith("08")
    of_driver = driver_error(error)
    if isinstance(of_driver, ssl.SSLError) and not isinstance(of_driver, CUT_OFF):
        return False
    # During a failover there may be no writable host.
    passing = OSError | asyncpg.InterfaceError | asyncpg.TargetServerAttributeNotMatched
    return isinstance(of_driver, passing)


def is_duplicate_key(error: BaseException) -> bool:
    """Return whether a row with the same primary key exists; no other column is unique."""
    return _sqlstate(error) == UNIQUE_VIOLATION


def is_schema_missing(error: BaseException) -> bool:
    """Return whether a statement failed because a table, a column or a schema is missing."""
    return _sqlstate(error) in (*SCHEMA_SQLSTATES, INVALID_SCHEMA_NAME)


def outcome_is_unknown(error: BaseException) -> bool:
    """Return whether the connection was lost after a statement was sent on it."""
    if isinstance(error, NoAnswerError):
        return True
    # An error on connecting is not wrapped, and an interface error is raised before sending.
    of_driver = driver_error(error)
    return (
        isinstance(error, exc.DBAPIError | ConnectionLostError)
        and is_transient(error)
        and not isinstance(of_driver, asyncpg.InterfaceError)
        and _sqlstate(of_driver) not in UNDONE_SQLSTATES
    )


def driver_error(error: BaseException) -> BaseException:
    """Return asyncpg's error, which SQLAlchemy wraps twice, and the pool if its connection was lost."""
    if isinstance(error, ConnectionLostError) and error.__cause__ is not None:
        return error.__cause__
    while isinstance(error, exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if error.__cause__ is not None and type(error).__module__.startswith("sqlalchemy"):
        return error.__cause__
    return error


def translate(error: BaseException, place: Place, *, upgrade: str) -> SessionsError | None:
    """Return the package's error for an error of SQLAlchemy, asyncpg or the network.

    Args:
        error: Not modified, and neither are its cause and context.
        place: The database, as the text names it.
        upgrade: Command that upgrades the schema.

    Returns:
        The error, whose cause is the driver's error without the values that it quotes.
    """
    if isinstance(error, exc.StatementError):
        error.hide_parameters = True  # An error that is not translated is raised itself.
    failure = _failure(error, place, upgrade)
    if failure is not None:
        failure.__cause__ = _cause(error)
    return failure


def _cause(error: BaseException) -> BaseException:
    of_driver = driver_error(error)
    if isinstance(error, NoAnswerError) and error.__cause__ is not None:
        no_answer = without_values(error)
        no_answer.__cause__ = _cause(error.__cause__)
        return no_answer
    if isinstance(of_driver, asyncpg.DataError):
        return without_values(of_driver, text=lambda _: "a value was refused")
    if not isinstance(of_driver, asyncpg.PostgresError):
        if _sqlstate(of_driver) is None:
            return without_values(of_driver)
        # Of another driver of a service's own engine, whose text has the row in it, too.
        return without_values(of_driver, text=lambda _: f"SQLSTATE {_sqlstate(of_driver)}")
    # They quote the row that violates a constraint; SQLAlchemy copies it into its own texts.
    hidden = {"detail": None, "context": None, "internal_query": None}
    if (of_driver.sqlstate or "").startswith(DATA_EXCEPTION):
        return without_values(
            of_driver, text=lambda _: "a value was refused", hidden=hidden | {"message": None}
        )
    return without_values(of_driver, hidden=hidden)


def _failure(error: BaseException, place: Place, upgrade: str) -> SessionsError | None:
    of_driver = driver_error(error)
    name = type(of_driver).__name__
    sqlstate = _sqlstate(of_driver)
    if sqlstate in POOLER_SQLSTATES:
        return pooler_error(place, sqlstate)
    if sqlstate is not None and (setting := SETTINGS.get(sqlstate) or SETTINGS.get(sqlstate[:2])):
        key, reason = setting
        return place.refused(key, f"{reason} (SQLSTATE {sqlstate})")
    if sqlstate in SCHEMA_SQLSTATES:
        return SchemaOutdatedError(f"{place}: the schema is not there or not ours; run: {upgrade}")
    if isinstance(error, exc.TimeoutError):
        return place.unusable(f"no connection of the pool is free within pool_timeout ({name})")
    if isinstance(error, NoAnswerError):
        return place.unusable(f"no answer within statement_timeout ({name})")
    if sqlstate is not None:
        reason = REASONS.get(sqlstate, "the server reports an error")
        if sqlstate.startswith(CONNECTION_EXCEPTION) and of_driver.args:
            reason = shown(str(of_driver.args[0]))
        return place.unusable(f"{reason} ({name}, SQLSTATE {sqlstate})")
    if isinstance(of_driver, OSError):
        return place.unreachable(f"{_network_reason(of_driver)} ({name})")
    if isinstance(of_driver, asyncpg.TargetServerAttributeNotMatched):
        return place.unusable(f"no host is what target_session_attrs asks for ({name})")
    if isinstance(error, exc.DBAPIError) or isinstance(of_driver, DRIVER_ERRORS):
        return place.unusable(f"the driver reports an error ({name})")
    return None


def _network_reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host's name is not known: {error.strerror}; in a URL, {ESCAPE_HINT}"
    if isinstance(error, TimeoutError):
        return "no answer within connect_timeout"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused, by sslmode or sslrootcert: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS, as sslmode asks for, fails: {error.reason}"
    if error.errno is not None:
        return os.strerror(error.errno)
    # From asyncpg, which has one class for all TLS errors, or from asyncio, for several addresses.
    what = "TLS, as sslmode asks for, fails: " if type(error) is ConnectionError else ""
    return what + shown(str(error))


def _sqlstate(error: BaseException) -> str | None:
    # SQLAlchemy's wrapper of asyncpg's error has the attribute, too.
    sqlstate = getattr(error.orig if isinstance(error, exc.DBAPIError) else error, "sqlstate", None)
    return sqlstate if isinstance(sqlstate, str) else None
