"""SQLite through SQLAlchemy on aiosqlite: one file, no server."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
import uuid
import weakref
from collections.abc import Hashable
from typing import Any, ClassVar

import aiosqlite
from sqlalchemy import event, exc, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sessions.backends.sql.engine import SqlConnectionManager, SqlPool, engine_key
from sessions.config import SqliteSettings, load_settings
from sessions.core import greenlets
from sessions.core.failures import Place, upgrade_command, without_values
from sessions.errors import ConfigurationError, SchemaOutdatedError, SessionsError
from sessions.models.records import ChatMessageRecord, ChatSessionRecord

__all__ = ["SqliteConnectionManager"]

SCHEMES = ("sqlite://", "sqlite+aiosqlite://")
# Bytes; more than the largest page that SQLite can have.
PROBE_SIZE = 100_000
TRANSIENT_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class SqliteConnectionManager(SqlConnectionManager):
    """One SQLite database file.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` for a temporary
            database that lives until it is closed.
        engine: A service's own ``AsyncEngine``; used, never closed. It must set ``foreign_keys=ON``.
        **settings: Any key of ``db.sqlite``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    dialect: ClassVar[str] = "sqlite"

    def __init__(self, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any) -> None:
        self._settings = _settings(url, settings)
        self._path = _path(self._settings)
        self._remove_temporary: weakref.finalize[..., Any] | None = None
        file = self._path if engine is None else engine.url.database
        self._place = Place("SQLite", (file,) if file else ())
        given = file is not None and (engine is not None or url is not None or "path" in settings)
        self._upgrade_command = upgrade_command("sqlite", url=f"sqlite:///{file}" if given else None)
        super().__init__(
            engine=engine,
            auto_migrate=self._settings.auto_migrate,
            max_overflow=self._settings.max_overflow,
            upgrade_command=self._upgrade_command,
        )

    @classmethod
    def cache_key(
        cls, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any
    ) -> Hashable:
        """Return the service's engine or the complete settings, with the file's absolute path."""
        resolved = _settings(url, settings)
        return engine_key(engine, (resolved, _path(resolved)))

    def _open_own(self) -> SqlPool:
        path = self._file()

        async def connect() -> aiosqlite.Connection:
            connecting = aiosqlite.connect(path, timeout=self._settings.busy_timeout, check_same_thread=False)
            # Its own up to 0.21, where a connection is a thread.
            thread: Any = getattr(connecting, "_thread", connecting)
            thread.daemon = True
            try:
                return await connecting
            except BaseException:
                # A failed connection tells its thread to end, which reports back to this event loop.
                await asyncio.to_thread(thread.join)
                raise

        engine = create_async_engine(
            "sqlite+aiosqlite:///file",
            async_creator=connect,
            execution_options=self._execution_options,
            isolation_level="AUTOCOMMIT",
            # Under gevent a connection that waits for another one's lock keeps that one from going on.
            pool_size=1 if greenlets.are_used() else self._settings.pool_size,
            max_overflow=0 if greenlets.are_used() else self._settings.max_overflow,
            pool_timeout=self._settings.pool_timeout,
            hide_parameters=True,
        )
        event.listen(engine.sync_engine, "connect", _set_pragmas)
        event.listen(engine.sync_engine, "checkin", _let_event_loop_go)
        return SqlPool(engine)

    def _file(self) -> str:
        if self._path is not None:
            return self._path
        # A real file, because an in-memory database belongs to one connection and so to one event loop.
        if self._remove_temporary is None or not self._remove_temporary.alive:
            folder = tempfile.mkdtemp(prefix="sessions-")
            self._remove_temporary = weakref.finalize(self, _remove_folder, folder, os.getpid())
            self._temporary_file = os.path.join(folder, "sessions.db")
        return self._temporary_file

    async def disconnect(self) -> None:
        """Close the engines of all event loops, and remove a temporary database."""
        await super().disconnect()
        if self._remove_temporary is not None:
            self._remove_temporary()

    async def _may_migrate(self, connection: AsyncConnection) -> bool:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        await connection.exec_driver_sql("ROLLBACK")
        return True

    async def _try_write(self, connection: AsyncConnection) -> None:
        nobody = str(uuid.uuid4())
        row = {"session_id": nobody, "user_id": nobody, "title": nobody, "metadata": {}}
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            await connection.execute(insert(ChatSessionRecord), row)
            # Long enough to need a page of its own: a full disk is found out, too.
            message = {
                "message_id": nobody,
                "session_id": nobody,
                "role": "user",
                "content": "-" * PROBE_SIZE,
            }
            await connection.execute(insert(ChatMessageRecord), message)
        finally:
            await connection.exec_driver_sql("ROLLBACK")

    def is_duplicate_key(self, error: BaseException) -> bool:
        """Return whether a row with the same primary key is there already."""
        driver_error = error.orig if isinstance(error, exc.DBAPIError) else error
        return getattr(driver_error, "sqlite_errorcode", None) == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY

    def is_schema_missing(self, error: BaseException) -> bool:
        """Return whether a statement failed, as it does for a missing table only: ours are fixed."""
        return _code(error) == sqlite3.SQLITE_ERROR

    def is_transient(self, error: BaseException) -> bool:
        """Return whether another connection held the lock for longer than the busy timeout."""
        return _code(error) in TRANSIENT_CODES

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for an error of SQLAlchemy, sqlite3 or the file system."""
        if isinstance(error, exc.StatementError):
            error.hide_parameters = True  # Where it is not translated, it is shown itself.
        driver_error = error.orig if isinstance(error, exc.DBAPIError) and error.orig else error
        failure = self._failure(error, driver_error)
        if failure is not None:
            # Without SQLAlchemy's error: that of a service's own engine quotes the parameters.
            failure.__cause__ = without_values(driver_error)
        return failure

    def _failure(self, error: BaseException, driver_error: BaseException) -> SessionsError | None:
        if isinstance(error, exc.TimeoutError):
            return self._place.unusable("no connection of the pool is free within pool_timeout")
        if isinstance(driver_error, sqlite3.Error):
            if _code(error) == sqlite3.SQLITE_ERROR:
                # SQLite's only code for a missing table or column; our statements are fixed.
                return SchemaOutdatedError(
                    f"{self._place}: the schema is not there or not ours; run: {self._upgrade_command}"
                )
            name = getattr(driver_error, "sqlite_errorname", type(driver_error).__name__)
            return self._place.unusable(name)
        if isinstance(error, exc.DBAPIError | OSError):
            return self._place.unusable(type(error).__name__)
        return None


def _set_pragmas(dbapi_connection: Any, _record: object) -> None:
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
        # In WAL mode a commit survives a crash of the process; NORMAL could lose it on power loss.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()


class _Nobody:
    """Takes the result of what nobody waits for, in place of a future and its event loop."""

    def get_loop(self) -> _Nobody:
        return self

    def call_soon_threadsafe(self, *_: object) -> None:
        pass


def _let_event_loop_go(dbapi_connection: Any, _record: object) -> None:
    """Let an idle connection's thread forget the event loop that it worked for last.

    aiosqlite's thread holds the last future until the next one comes, and so a loop that was dropped without
    being closed. The queue is the driver's own: nothing public gives the thread work without a future.
    """
    if dbapi_connection is not None:
        dbapi_connection.driver_connection._tx.put_nowait((_Nobody(), int))


def _remove_folder(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # A forked child inherits the finalizer; the database is its parent's.
        shutil.rmtree(folder, ignore_errors=True)


def _settings(url: str | None, overrides: dict[str, Any]) -> SqliteSettings:
    return load_settings().backend("sqlite", url=url, **overrides)


def _path(settings: SqliteSettings) -> str | None:
    """Return the absolute path of the database file, or None for a temporary one."""
    path = settings.path
    if settings.url is not None:
        scheme = next((scheme for scheme in SCHEMES if settings.url.startswith(scheme)), None)
        if scheme is None:
            raise ConfigurationError("db.sqlite.url: must start with sqlite:/// or sqlite+aiosqlite:///")
        path = settings.url.removeprefix(scheme)
        if path and not path.startswith("/"):
            raise ConfigurationError("db.sqlite.url: has a host; write sqlite:///file.db, three slashes")
        path = path.removeprefix("/")
    if path in ("", ":memory:"):
        return None
    # Fixed now, so that a later chdir does not start another database.
    return os.path.abspath(os.path.expanduser(path))


def _code(error: BaseException) -> int | None:
    """Return SQLite's primary result code."""
    driver_error = error.orig if isinstance(error, exc.DBAPIError) else error
    code = getattr(driver_error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None
