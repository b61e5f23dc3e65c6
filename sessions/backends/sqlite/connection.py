"""SQLite through SQLAlchemy on aiosqlite: one file, no server."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import sqlite3
import tempfile
import uuid
import weakref
from collections.abc import Hashable
from typing import Any, ClassVar

import aiosqlite
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool

from sessions import migrations
from sessions.backends.sql.engine import SqlPool
from sessions.backends.sql.given_engine import engine_key
from sessions.backends.sqlite import errors
from sessions.backends.sqlite.driver import call_in_thread, open_connection
from sessions.backends.sqlite.files import (
    FileId,
    file_id,
    is_missing,
    path_of_engine,
    replace_stale_connections,
)
from sessions.backends.sqlite.health import SqliteHealth
from sessions.backends.sqlite.identity import identity_of
from sessions.backends.sqlite.pool import SqlitePool
from sessions.backends.sqlite.settings import sqlite_target, url_of
from sessions.backends.sqlite.setup import (
    ensure_wal,
    forget,
    release_loop,
    roll_back,
    set_pragmas,
)
from sessions.config import SqliteSettings, load_settings
from sessions.core import greenlets
from sessions.core.batches import GroupLimits
from sessions.core.failures import Place, upgrade_command
from sessions.core.loops import kept_on
from sessions.core.telemetry import PoolMeter, Target
from sessions.core.turns import Turns, TurnTimeoutError, turns_for

__all__ = ["SqliteConnectionManager"]


class _Owner:
    """Owns what is kept on event loops."""


_OPENED = _Owner()
# The databases in memory of services' own engines.
_in_memory: weakref.WeakKeyDictionary[Pool, str] = weakref.WeakKeyDictionary()
_MAIN_FILE = text("SELECT file FROM pragma_database_list WHERE name = 'main'")


class SqliteConnectionManager(SqliteHealth):
    """One SQLite database file.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` for a temporary
            database of this manager alone, which is deleted on close. ``file:`` URIs and the
            parameters ``mode=ro|rw|rwc|memory``, ``immutable=1`` and ``timeout=`` (seconds, over
            ``busy_timeout``) are accepted; in a path, ``%``, ``?`` and ``#`` are percent-encoded.
        engine: A service's own ``AsyncEngine``; used, never closed. It must set ``foreign_keys=ON``.
        **settings: Any key of ``db.sqlite``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong, or a parameter of the URL is not supported.
    """

    dialect: ClassVar[str] = "sqlite"
    # A file that is created after this one was deleted may get its inode, once nobody has this one open.
    may_end_with_close: ClassVar[bool] = True

    def __init__(self, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any) -> None:
        self._settings = _settings(url, settings)
        self._target = sqlite_target(self._settings)
        self._busy_timeout = self._target.busy_timeout or self._settings.busy_timeout
        self._remove_temporary: weakref.finalize[..., Any] | None = None
        self._temporary_file: str | None = None
        self._creates = True
        self._prepared_file: FileId | None = None
        # None for a temporary file, and for one that only the engine knows.
        self._path = self._target.path if engine is None else path_of_engine(engine)
        self._place = Place("SQLite", (self._path,) if self._path else ())
        given = engine is not None or url is not None or "path" in settings
        self._upgrade_command = upgrade_command(
            "sqlite", url=url_of(self._path) if given and self._path is not None else None
        )
        super().__init__(
            engine=engine,
            auto_migrate=self._settings.auto_migrate,
            max_overflow=self._settings.max_overflow,
            upgrade_command=self._upgrade_command,
        )
        if engine is not None and self._path is not None:
            replace_stale_connections(engine.sync_engine, functools.partial(str, self._path))
        self._turns = self._turns_of_writers(engine)

    @classmethod
    def cache_key(
        cls, *, url: str | None = None, engine: AsyncEngine | None = None, **settings: Any
    ) -> Hashable | None:
        """Return the service's engine or the complete settings, with the file's absolute path.

        None for a temporary database: each manager has its own.
        """
        resolved = _settings(url, settings)
        if engine is not None:
            return engine_key(engine, resolved)
        target = sqlite_target(resolved)
        return None if target.path is None else (resolved, target)

    def _turns_of_writers(self, engine: AsyncEngine | None) -> Turns:
        """Return the turns that all writers of the file in this process share, whatever its path."""
        if self._path is not None:
            return turns_for(("sqlite", os.path.realpath(self._path)))
        return Turns() if engine is None else turns_for(("sqlite", weakref.ref(engine.sync_engine)))

    # -- Connections -------------------------------------------------------------------------------

    def _open_own(self) -> SqlPool:
        # References that outlive a manager that is collected without being closed: the event loop closes the
        # connections. A loop that is no longer referenced is collected together with them.
        opened: set[aiosqlite.Connection] = kept_on(asyncio.get_running_loop()).setdefault(_OPENED, set())

        async def connect() -> aiosqlite.Connection:
            path = self._file()
            try:
                connection = await self._open_connection("ro" if self._target.read_only else "rw")
            except sqlite3.OperationalError as error:
                if is_missing(path):
                    raise errors.MissingFileError(f"there is no file {path}") from error
                raise
            opened.add(connection)
            return connection

        engine = create_async_engine(
            "sqlite+aiosqlite:///file",
            async_creator=connect,
            execution_options=self._execution_options,
            isolation_level="AUTOCOMMIT",
            # Under gevent a connection that waits for another one's lock blocks that one.
            pool_size=1 if greenlets.are_used() else self._settings.pool_size,
            max_overflow=0 if greenlets.are_used() else self._settings.max_overflow,
            pool_timeout=self._settings.pool_timeout,
            hide_parameters=True,
            pool_reset_on_return=None,
        )
        event.listen(engine.sync_engine, "connect", set_pragmas)
        event.listen(engine.sync_engine, "reset", roll_back)
        event.listen(engine.sync_engine, "close", functools.partial(forget, opened))
        replace_stale_connections(engine.sync_engine, self._file)
        event.listen(engine.sync_engine, "checkin", release_loop)
        return SqlitePool(
            engine,
            PoolMeter(self.target()),
            max_overflow=self._max_overflow,
            run=self._pools.run,
            start=self._pools.start,
        )

    def _append_limits(self) -> GroupLimits:
        # The file has one writer at a time.
        return GroupLimits(
            count=self._settings.append_batch_messages,
            size=self._settings.append_batch_bytes,
            sends=1,
            slow_sends=0,
            seconds=self._busy_timeout,
            queue_timeout=lambda: TurnTimeoutError("the turn did not come in time"),
            no_answer=lambda: TurnTimeoutError("the turn did not end in time"),
        )

    async def _open_connection(self, mode: Any) -> aiosqlite.Connection:
        uri = self._target.uri(self._file(), mode)
        return await open_connection(uri, uri=True, busy_timeout=self._busy_timeout)

    def _file(self) -> str:
        if self._path is not None:
            return self._path
        # A file, because an in-memory database belongs to one connection and so to one event loop.
        if self._remove_temporary is None or not self._remove_temporary.alive or not self._temporary_file:
            folder = tempfile.mkdtemp(prefix="sessions-")
            self._remove_temporary = weakref.finalize(self, _remove_folder, folder, os.getpid())
            self._temporary_file = os.path.join(folder, "sessions.db")
        return self._temporary_file

    async def make_database(self) -> None:
        """Create the file, unless it exists or the URL's mode forbids it. Nothing else creates it.

        Raises:
            SchemaOutdatedError: It does not exist, and `require_database` was called.
        """
        if not self._own or self._target.mode != "rwc" or file_id(self._file()) is not None:
            return
        if not self._creates:
            raise self._no_file()
        if self._path is None:
            os.makedirs(os.path.dirname(self._file()), mode=0o700, exist_ok=True)
        connection = await self._open_connection("rwc")
        try:
            await call_in_thread(connection, functools.partial(ensure_wal, self._busy_timeout))
        finally:
            await connection.close()

    def target(self) -> Target:
        """Return the database, as telemetry names it: the path of the file."""
        return Target("sqlite", self._path or "temporary")

    def shared_name(self) -> str | None:
        """Return the path of the file; None for a temporary one."""
        return None if self._path is None else f"sqlite/{os.path.realpath(self._path)}"

    async def identity_from(self, source: Any) -> str | None:
        """Return the identity of the file; of a database in memory that of its pool."""
        path = self._known_path
        if path is None:
            [(path,)] = await source.fetch(_MAIN_FILE, {})
        if path:
            found = file_id(path)
            return None if found is None else identity_of(found)
        pool = (await self._pools.get()).engine.pool
        return f"sqlite/memory/{_in_memory.setdefault(pool, uuid.uuid4().hex)}"

    def identity_epoch(self) -> Hashable:
        """Return what changes with the schema, and with the file at the path."""
        path = self._known_path
        return self.preparations, None if path is None else file_id(path)

    def require_database(self) -> None:
        """Create no file until `disconnect`: without one, connecting raises ``SchemaOutdatedError``."""
        self._creates = self._path is None

    async def _ready(self) -> SqlPool:
        """Return the running event loop's pool, with the schema of the current file ready."""
        if (pool := self._ready_now()) is not None:
            return pool
        if self._schema_ready:
            return await self._pools.get()
        return await self._pools.run(super()._ready)

    def _ready_now(self) -> SqlPool | None:
        if self._schema_ready and (path := self._known_path) is not None:
            # False after the file is deleted or replaced: a new file has no schema.
            self._schema_ready = file_id(path) == self._prepared_file
        return self._pools.peek() if self._schema_ready else None

    @property
    def _known_path(self) -> str | None:
        return self._path or self._temporary_file

    def _note_ready(self) -> None:
        self._prepared_file = None if self._known_path is None else file_id(self._known_path)
        super()._note_ready()

    async def disconnect(self) -> None:
        """Close the engines of all event loops, and remove a temporary database."""
        await super().disconnect()
        self._creates = True
        if self._remove_temporary is not None:
            self._remove_temporary()

    # -- The schema --------------------------------------------------------------------------------

    async def _prepare_schema(self, pool: SqlPool) -> None:
        if self._auto_migrate:
            await self.make_database()
        if self._own and not self._target.read_only:
            async with self._lend(pool) as connection:
                raw = await connection.get_raw_connection()
                set_mode = functools.partial(ensure_wal, self._busy_timeout)
                await call_in_thread(raw.driver_connection, set_mode)
        await super()._prepare_schema(pool)

    async def _upgrade(self, pool: SqlPool) -> None:
        if self._target.read_only:
            raise self._outdated("the schema is not up to date, and its URL says mode=ro")
        # With the time limit of a migration: another event loop may run one.
        async with self._turns.turn(migrations.LOCK_TIMEOUT_SECONDS):
            await super()._upgrade(pool)


def _remove_folder(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # A forked child inherits the finalizer; the database is its parent's.
        shutil.rmtree(folder, ignore_errors=True)


def _settings(url: str | None, overrides: dict[str, Any]) -> SqliteSettings:
    return load_settings().backend("sqlite", url=url, **overrides)
