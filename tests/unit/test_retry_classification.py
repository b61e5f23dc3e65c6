"""Errors of the drivers that are retried, and those after which an attempt may have taken effect."""

from __future__ import annotations

import sqlite3
from typing import Any

import asyncpg
import pytest
from pymongo import errors
from sqlalchemy import exc

from sessions import ConnectionFactory

TRANSIENT_SQLSTATES = ["08000", "08006", "40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03"]
LASTING_SQLSTATES = ["22P02", "23502", "23503", "23505", "23514", "25006", "28P01", "3D000", "42501"]
LASTING_SQLSTATES += ["42601", "42P01", "53100", "57014", "XX000"]


def postgres() -> Any:
    return ConnectionFactory.get_connection_manager("postgres", url="postgresql://h/d")


def mongodb() -> Any:
    return ConnectionFactory.get_connection_manager("mongodb", url="mongodb://h/d")


def wrapped(error: BaseException, *, broken: bool = False) -> exc.DBAPIError:
    """Return an error as SQLAlchemy raises it for a statement."""
    return exc.DBAPIError("SELECT 1", {}, error, connection_invalidated=broken)


def of_sqlstate(sqlstate: str) -> asyncpg.PostgresError:
    error = asyncpg.PostgresError("refused")
    error.sqlstate = sqlstate
    return error


@pytest.mark.parametrize("in_statement", [True, False])
@pytest.mark.parametrize("sqlstate", [*TRANSIENT_SQLSTATES, *LASTING_SQLSTATES])
def test_postgresql_errors_are_classified_by_sqlstate(sqlstate: str, in_statement: bool) -> None:
    error: Exception = of_sqlstate(sqlstate)
    if in_statement:
        error = wrapped(error)
    assert postgres().is_transient(error) is (sqlstate in TRANSIENT_SQLSTATES)


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (wrapped(asyncpg.ConnectionDoesNotExistError("closed in the middle"), broken=True), True),
        (wrapped(ConnectionResetError("reset"), broken=True), True),
        (wrapped(of_sqlstate("57P01"), broken=True), True),
        (wrapped(of_sqlstate("08006"), broken=True), True),
        (wrapped(asyncpg.InterfaceError("connection is closed"), broken=True), False),
        (wrapped(of_sqlstate("40001")), False),
        (wrapped(of_sqlstate("55P03")), False),
        (ConnectionRefusedError("refused"), False),
        (TimeoutError("while connecting"), False),
        (of_sqlstate("57P03"), False),
        (of_sqlstate("53300"), False),
    ],
)
def test_only_a_postgresql_connection_lost_in_a_statement_leaves_its_outcome_open(
    error: Exception, unknown: bool
) -> None:
    assert postgres().is_transient(error) is True
    assert postgres().outcome_is_unknown(error) is unknown


def of_code(code: int, *labels: str) -> errors.OperationFailure:
    return errors.OperationFailure("failed", code, {"errorLabels": list(labels), "code": code})


@pytest.mark.parametrize(
    ("error", "transient", "unknown"),
    [
        (errors.AutoReconnect("closed"), True, True),
        (errors.NetworkTimeout("silent"), True, True),
        (errors.NotPrimaryError("stepped down"), True, False),
        (errors.ServerSelectionTimeoutError("none"), True, False),
        (errors.WaitQueueTimeoutError("busy"), False, False),
        (of_code(10107), True, False),
        (of_code(112), True, False),
        (of_code(175), True, False),
        (of_code(189), True, False),
        (of_code(8000, "RetryableWriteError"), True, False),
        (of_code(251, "TransientTransactionError"), True, False),
        (of_code(50, "UnknownTransactionCommitResult"), False, True),
        (of_code(11000), False, False),
        (of_code(121), False, False),
        (of_code(13), False, False),
        (of_code(50), False, False),
        (errors.DocumentTooLarge("large"), False, False),
        (errors.ConfigurationError("wrong"), False, False),
    ],
)
def test_mongodb_errors_are_classified_by_class_code_and_label(
    error: Exception, transient: bool, unknown: bool
) -> None:
    assert mongodb().is_transient(error) is transient
    assert mongodb().outcome_is_unknown(error) is unknown


@pytest.mark.parametrize(
    ("code", "transient"),
    [
        (sqlite3.SQLITE_BUSY, True),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, True),
        (sqlite3.SQLITE_LOCKED, True),
        (sqlite3.SQLITE_FULL, False),
        (sqlite3.SQLITE_READONLY, False),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, False),
        (sqlite3.SQLITE_CORRUPT, False),
    ],
)
def test_sqlite_errors_are_classified_by_code(code: int, transient: bool) -> None:
    manager: Any = ConnectionFactory.get_connection_manager("sqlite", url="sqlite://")
    error = sqlite3.OperationalError("refused")
    error.sqlite_errorcode = code
    assert manager.is_transient(wrapped(error)) is transient
    # SQLite reports the outcome of every commit.
    assert manager.outcome_is_unknown(wrapped(error)) is False


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), TypeError("wrong"), KeyError("wrong"), AssertionError(), RuntimeError()]
)
def test_a_mistake_in_a_program_is_never_retried(error: Exception) -> None:
    assert not postgres().is_transient(error)
    assert not mongodb().is_transient(error)
