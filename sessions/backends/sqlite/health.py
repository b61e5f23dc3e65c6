"""Whether a SQLite file can be used, and why not: health checks, and this package's errors."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import exc, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sessions.backends.sqlite import errors
from sessions.backends.sqlite.calls import SqliteCalls
from sessions.backends.sqlite.files import is_missing
from sessions.backends.sqlite.settings import SqliteTarget
from sessions.backends.sqlite.setup import busy_timeout
from sessions.connections.base import HEALTH_TIMEOUT_SECONDS
from sessions.core.failures import Place, without_values
from sessions.core.turns import TurnTimeoutError
from sessions.errors import SchemaOutdatedError, SessionsError
from sessions.models.records import ChatMessageRecord, ChatSessionRecord

__all__ = ["SqliteHealth"]

# Bytes; more than the largest page size of SQLite.
PROBE_SIZE = 100_000


class SqliteHealth(SqliteCalls):
    """Checks whether a write would work, and explains errors."""

    _path: str | None
    _place: Place
    _target: SqliteTarget
    _upgrade_command: str

    async def _check_writable(self) -> None:
        if self._own and self._path is not None and is_missing(self._path):
            # The first operation creates it; a health check does not.
            if not (self._auto_migrate and self._target.mode == "rwc"):
                raise self._no_file()
            if not os.access(os.path.dirname(self._path), os.W_OK | os.X_OK):
                raise self._place.unusable("permission denied to create it")
            return
        async with self._turns.turn(min(self._busy_timeout, HEALTH_TIMEOUT_SECONDS)):
            await super()._check_writable()

    async def _may_migrate(self, connection: AsyncConnection) -> bool:
        async with self._probing(connection):
            return True

    async def _try_write(self, connection: AsyncConnection) -> None:
        absent = str(uuid.uuid4())
        row = {"session_id": absent, "user_id": absent, "title": absent, "metadata": {}}
        async with self._probing(connection):
            await connection.execute(insert(ChatSessionRecord), row)
            # Large enough to need new pages, which detects a full disk, too.
            message = {
                "message_id": absent,
                "session_id": absent,
                "role": "user",
                "content": "-" * PROBE_SIZE,
            }
            await connection.execute(insert(ChatMessageRecord), message)

    @contextlib.asynccontextmanager
    async def _probing(self, connection: AsyncConnection) -> AsyncIterator[None]:
        async with busy_timeout(connection, min(self._busy_timeout, HEALTH_TIMEOUT_SECONDS)):
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            if raw.in_transaction:  # SQLite itself rolls back where the disk is full.
                await connection.exec_driver_sql("ROLLBACK")

    # -- Errors ------------------------------------------------------------------------------------

    def is_duplicate_key(self, error: BaseException) -> bool:
        """Return whether a row with the same primary key exists."""
        return (
            getattr(errors.driver_error(error), "sqlite_errorcode", None)
            == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
        )

    def is_schema_missing(self, error: BaseException) -> bool:
        """Return whether a statement is invalid: as all are fixed, a table or a column is missing."""
        return errors.result_code(error) == sqlite3.SQLITE_ERROR

    def is_transient(self, error: BaseException) -> bool:
        """Return whether another connection held the lock for longer than the busy timeout."""
        return errors.is_transient(error)

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for an error of SQLAlchemy, sqlite3 or the file system."""
        if isinstance(error, exc.StatementError):
            error.hide_parameters = True  # An error that is not translated is raised itself.
        of_driver = errors.driver_error(error)
        failure = self._failure(error, of_driver)
        if failure is not None:
            # Without SQLAlchemy's error: with a service's own engine it quotes the parameters.
            failure.__cause__ = without_values(of_driver)
        return failure

    def _failure(self, error: BaseException, of_driver: BaseException) -> SessionsError | None:
        if isinstance(error, exc.TimeoutError):
            return self._place.unusable("no connection of the pool is free within pool_timeout")
        if isinstance(error, TurnTimeoutError):
            return self._place.unusable("other writers of this process kept it for longer than busy_timeout")
        if isinstance(of_driver, errors.MissingFileError) and self._target.mode == "rwc":
            return self._no_file()
        if errors.result_code(error) == sqlite3.SQLITE_ERROR:
            # SQLite's only code for a missing table or column; all statements are fixed.
            return self._outdated("the schema is not there or not ours")
        if isinstance(of_driver, sqlite3.Error | OSError) or isinstance(error, exc.DBAPIError):
            return self._place.unusable(errors.reason(error, self._path, read_only=self._target.read_only))
        return None

    def _no_file(self) -> SchemaOutdatedError:
        return SchemaOutdatedError(f"there is no database at {self._path}; run: {self._upgrade_command}")

    def _outdated(self, why: str) -> SchemaOutdatedError:
        return SchemaOutdatedError(f"{self._place}: {why}; run: {self._upgrade_command}")
