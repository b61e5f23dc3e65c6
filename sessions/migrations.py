"""Finds the packaged Alembic files, and upgrades a schema to head or names the command.

The functions take a plain SQLAlchemy ``Connection``; with an async engine use ``run_sync``. Where our tables
are in a schema of their own, the connection says so itself, with the execution option
``schema_translate_map={None: schema}`` that the statements need anyway. Alembic is imported only where it has
work to do: a database at head never loads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    AdaptedConnection,
    Connection,
    Select,
    String,
    column,
    delete,
    exc,
    inspect,
    select,
    table,
    text,
)

from sessions.correlation import logger_of
from sessions.errors import BackendUnavailableError, SchemaOutdatedError, SessionsError
from sessions.models.reflection import has_columns, has_tables

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext

__all__ = [
    "HEAD",
    "REVISIONS",
    "VERSION_TABLE",
    "alembic_config",
    "check",
    "current",
    "ini_path",
    "is_current",
    "is_newer",
    "log_newer",
    "migration_lock",
    "only_looks",
    "schema_of",
    "upgrade",
    "version_statement",
]

logger = logger_of(__name__)

VERSION_TABLE = "sessions_alembic_version"
# Oldest first. Known here so that a check needs no Alembic; a test compares it with the scripts.
REVISIONS = ("0001", "0002", "0003")
HEAD = REVISIONS[-1]
# Execution option of a connection: the command that upgrades the schema of its database.
UPGRADE_COMMAND = "sessions_upgrade_command"
# By dialect, where the connection does not say it. With the backend named: the configured default may be
# another one.
UPGRADE_COMMANDS = {
    "postgresql": "sessions db upgrade --backend postgres",
    "sqlite": "sessions db upgrade --backend sqlite",
}

# Any fixed number; every release must use the same.
LOCK_KEY = 7_310_028_430_061_157_219
LOCK_TIMEOUT_SECONDS = 300.0
LOCK_POLL_SECONDS = 0.1


def ini_path() -> Path:
    """Return the ``alembic.ini`` of this installation: in the package (wheel) or beside it (checkout)."""
    package = Path(__file__).resolve().parent
    packaged = package / "alembic.ini"
    return packaged if packaged.exists() else package.parent / "alembic.ini"


def alembic_config(connection: Connection | None = None, *, one_transaction: bool = False) -> Config:
    """Return Alembic's configuration for the packaged scripts.

    Args:
        connection: Use this connection, instead of one that ``env.py`` opens from the settings.
        one_transaction: Do everything in one transaction; see `upgrade`.
    """
    from alembic.config import Config

    # Alembic's own default is the stdout at its import, which may be closed.
    config = Config(str(ini_path()), stdout=sys.stdout)
    config.attributes["one_transaction"] = one_transaction
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def schema_of(connection: Connection) -> str | None:
    """Return the schema of the tables on a connection; None for the default schema."""
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    schema: str | None = translated.get(None)
    return schema


def current(connection: Connection) -> str | None:
    """Return the revision the database is at, or None if it was never migrated."""
    if not inspect(connection).has_table(VERSION_TABLE, schema=schema_of(connection)):
        return None
    return _version(connection)


@functools.cache
def version_statement(schema: str | None) -> Select[Any]:
    """Return the statement for the revision of the tables in a schema; None as in `schema_of`."""
    return select(table(VERSION_TABLE, column("version_num", String()), schema=schema).c.version_num)


def forget_revision(connection: Connection) -> None:
    """Forget the revision of a schema that lacks a table, so that `upgrade` begins at the first one.

    ``env.py`` calls it while no other process migrates.
    """
    if current(connection) is not None and not has_tables(connection, schema_of(connection)):
        versions = table(VERSION_TABLE, schema=schema_of(connection))
        connection.execute(delete(versions))


def _version(connection: Connection) -> str | None:
    revision: str | None = connection.scalar(version_statement(schema_of(connection)))
    return revision


def is_current(connection: Connection) -> bool:
    """Return whether the schema is at this package's head, with one statement if it is."""
    try:
        return _version(connection) == HEAD
    except (exc.ProgrammingError, exc.OperationalError):
        # Probably the table is missing; the slower check finds out.
        connection.rollback()
        return current(connection) == HEAD


def is_newer(connection: Connection) -> bool:
    """Return whether a newer release has upgraded the schema, and its tables have all that this one needs.

    A revision only adds to the one before, so the services of the release before it go on: they may be
    running or start while a newer release is deployed.
    """
    revision = current(connection)
    return (
        revision is not None and revision not in REVISIONS and has_columns(connection, schema_of(connection))
    )


def log_newer(connection: Connection) -> None:
    """Log that a schema is used which `is_newer`."""
    logger.warning(
        "the schema is at revision %s, newer than this package, which knows %s; "
        "its tables have all that this package needs",
        current(connection),
        HEAD,
    )


def check(connection: Connection) -> None:
    """Do nothing if the schema is at head, or `is_newer`.

    Raises:
        SchemaOutdatedError: It is neither; the text names the command that mends it.
    """
    revision = current(connection)
    if revision == HEAD or is_newer(connection):
        return
    default = UPGRADE_COMMANDS[connection.dialect.name]
    command = connection.get_execution_options().get(UPGRADE_COMMAND, default)
    if (schema := schema_of(connection)) is not None:
        command = f"POSTGRES_SCHEMA={shlex.quote(schema)} {command}"
    if revision is None:
        raise SchemaOutdatedError(f"the database has no schema yet; run: {command}")
    if revision in REVISIONS:
        raise SchemaOutdatedError(
            f"the schema is at revision {revision}, this package needs {HEAD}; run: {command}"
        )
    raise SchemaOutdatedError(
        f"the schema is at revision {revision}, which this package does not know (its newest is {HEAD}), "
        "and lacks what this package needs; update the package: pip install --upgrade agenthub-sessions"
    )


def upgrade(connection: Connection, *, one_transaction: bool = False) -> None:
    """Upgrade the schema to head. Of concurrent processes one upgrades, and the others wait.

    Where a table is gone and the version table is not, every revision is run again: each creates and
    changes only what is not as it should be. A schema that `is_newer` is left as it is.

    Args:
        connection: To the database.
        one_transaction: Do everything in one transaction, as a transaction-pooling proxy demands. It
            builds indexes with writers waiting, which matters only if there are many rows.

    Raises:
        SchemaOutdatedError: The schema is newer than this package, and lacks what it needs.
        BackendUnavailableError: Another process kept the migration lock for five minutes.
    """
    revision = current(connection)
    if revision is not None and revision not in REVISIONS:
        check(connection)
        log_newer(connection)
    elif revision != HEAD or not has_tables(connection, schema_of(connection)):
        from alembic import command

        try:
            config = alembic_config(connection, one_transaction=one_transaction)
            config.attributes["forget_revision"] = True
            command.upgrade(config, "head")
        except exc.PendingRollbackError as error:
            # Of Alembic, which commits at the end of a block even if the connection was lost in it.
            if not isinstance(error.__context__, exc.DBAPIError):
                raise
            raise error.__context__ from error.__context__.orig


def downgrade(connection: Connection, *, revision: str, one_transaction: bool = False) -> None:
    """Downgrade the schema; what the older revision does not store is lost.

    Args:
        connection: To the database, whose schema is at a known revision.
        revision: A revision that is not newer, or ``base``.
        one_transaction: As in `upgrade`.

    Raises:
        BackendUnavailableError: Another process kept the migration lock for five minutes.
        SessionsError: There are messages that the older revision cannot hold; it says how many.
    """
    from alembic.util import CommandError

    from alembic import command

    try:
        command.downgrade(alembic_config(connection, one_transaction=one_transaction), revision)
    except CommandError as error:
        raise SessionsError(str(error)) from error


def only_looks(context: MigrationContext) -> bool:
    """Return whether Alembic was asked what there is, as by ``alembic current``, and must change nothing.

    Its commands say so with an option of the context, ``dont_mutate``, which its manual does not name;
    nothing public tells ``env.py`` which command runs it. A test fails when Alembic changes that.
    """
    return bool(context.opts.get("dont_mutate"))


@contextlib.contextmanager
def migration_lock(connection: Connection, *, one_transaction: bool = False) -> Iterator[None]:
    """Keep every other process from migrating this database; ``env.py`` holds it around its work.

    Raises:
        BackendUnavailableError: Another process held it for five minutes.
    """
    if connection.dialect.name == "postgresql":
        # Out of the pool's autocommit: a migration is one transaction, except where it says otherwise.
        connection.commit()
        connection.execution_options(isolation_level="READ COMMITTED")
        with _transaction_lock(connection) if one_transaction else _session_lock(connection):
            yield
    else:
        with _foreign_keys_off(connection):
            # SQLite's write lock covers the whole file, schema included, and waits for the busy timeout.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")


@contextlib.contextmanager
def _foreign_keys_off(connection: Connection) -> Iterator[None]:
    """Let a migration of SQLite drop a table that it has copied, without the rows that refer to it.

    Around the transaction, because SQLite does not change it within one.
    """
    enforced = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
    connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA foreign_keys={enforced}")


@contextlib.contextmanager
def _session_lock(connection: Connection) -> Iterator[None]:
    _wait_for(connection, f"SELECT pg_try_advisory_lock({LOCK_KEY})")
    connection.exec_driver_sql("SET statement_timeout = 0")  # An index build may take long.
    connection.commit()
    try:
        yield
        connection.commit()
    finally:
        # The lock ends with the connection.
        if not connection.invalidated:
            connection.rollback()
            connection.exec_driver_sql("RESET statement_timeout")
            connection.execute(text(f"SELECT pg_advisory_unlock({LOCK_KEY})"))
            connection.commit()


@contextlib.contextmanager
def _transaction_lock(connection: Connection) -> Iterator[None]:
    _wait_for(connection, f"SELECT pg_try_advisory_xact_lock({LOCK_KEY})")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    yield
    connection.commit()


def _wait_for(connection: Connection, try_lock: str) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    # Polled, and no transaction kept open: a session that waits inside pg_advisory_lock holds a
    # snapshot, CREATE INDEX CONCURRENTLY waits for all of those, and so each would wait for the other.
    while not connection.execute(text(try_lock)).scalar():
        connection.rollback()
        if time.monotonic() > deadline:
            raise BackendUnavailableError("another process has been migrating this database for too long")
        _pause(connection)


def _pause(connection: Connection) -> None:
    driver = connection.connection.dbapi_connection
    if isinstance(driver, AdaptedConnection):
        # An asyncio driver: other tasks of its event loop go on.
        driver.run_async(lambda _: asyncio.sleep(LOCK_POLL_SECONDS))
    else:
        time.sleep(LOCK_POLL_SECONDS)
