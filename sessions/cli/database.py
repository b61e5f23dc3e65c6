"""``sessions db``: the work of each command, and the line that it prints."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from sqlalchemy import Connection

from sessions import migrations
from sessions.backends.sql.engine import SqlConnectionManager
from sessions.connections import AsyncBaseConnectionManager, ConnectionFactory
from sessions.errors import BackendUnavailableError, InvalidInputError, SessionsError
from sessions.repositories import SessionRepositoryType

__all__ = ["NAMES", "check", "current", "downgrade", "require", "upgrade"]

R = TypeVar("R")

NAMES = {
    SessionRepositoryType.MONGODB: "MongoDB",
    SessionRepositoryType.POSTGRES: "PostgreSQL",
    SessionRepositoryType.SQLITE: "SQLite",
    SessionRepositoryType.REDIS: "Redis",
}
# What is said of a revision of a newer release, whose tables this one can use.
NEWER = f"newer than this package, whose head is {migrations.HEAD}; it has all that this package needs"


async def upgrade(backend: SessionRepositoryType, url: str | None) -> str:
    """Bring the schema to head, even if ``auto_migrate`` is off; one of a newer release stays as it is.

    Args:
        backend: Type of the database.
        url: Its URL; None for the configured one.

    Raises:
        SchemaOutdatedError: The schema is newer than this package, and lacks what it needs.
    """
    async with _manager(backend, url) as manager:
        if isinstance(manager, SqlConnectionManager):
            await manager.make_database()
            before = await _in_connection(manager, migrations.current)
            one_transaction = manager.one_transaction_at_a_time
            await _in_connection(
                manager, functools.partial(migrations.upgrade, one_transaction=one_transaction)
            )
            after = await _in_connection(manager, migrations.current)
            change = (
                "was there already" if after == before else f"upgraded from {before or 'an empty database'}"
            )
            if after not in migrations.REVISIONS:
                change = f"{NEWER}: nothing to do"
            return f"{NAMES[backend]} schema: revision {after} ({change})"
        await manager.connect()
        ready = (
            "collections and indexes are ready" if backend == SessionRepositoryType.MONGODB else "reachable"
        )
        return f"{NAMES[backend]}: {ready}; it needs no migrations"


async def downgrade(backend: SessionRepositoryType, url: str | None, revision: str) -> str:
    """Bring the schema to an older revision.

    Args:
        backend: Type of the database.
        url: Its URL; None for the configured one.
        revision: Where to go: one of `migrations.REVISIONS`, or ``base`` for an empty database.

    Raises:
        InvalidInputError: It is neither, or newer than the schema, or the database has no migrations.
        SessionsError: There are messages that it cannot hold; it says how many.
    """
    async with _manager(backend, url) as manager:
        manager.require_database()
        if not isinstance(manager, SqlConnectionManager):
            raise InvalidInputError("--backend", f"{NAMES[backend]} needs no migrations")
        if revision not in (*migrations.REVISIONS, "base"):
            known = ", ".join(sorted(migrations.REVISIONS))
            raise InvalidInputError("REVISION", f"must be base, or one of {known}")
        before = await _in_connection(manager, migrations.current)
        if before not in migrations.REVISIONS:
            raise InvalidInputError("REVISION", "the schema has no revision that this package knows")
        if revision != "base" and revision > before:
            raise InvalidInputError("REVISION", f"is newer than the schema, which is at {before}")
        one_transaction = manager.one_transaction_at_a_time
        work = functools.partial(migrations.downgrade, revision=revision, one_transaction=one_transaction)
        await _in_connection(manager, work)
        change = "was there already" if revision == before else f"downgraded from {before}"
        return f"{NAMES[backend]} schema: revision {revision} ({change})"


async def current(backend: SessionRepositoryType, url: str | None) -> str:
    """Return a line with the current revision of the schema."""
    async with _manager(backend, url) as manager:
        manager.require_database()
        if isinstance(manager, SqlConnectionManager):
            revision = await _in_connection(manager, migrations.current)
            if revision is None:
                return f"{NAMES[backend]} schema: no revision (never migrated)"
            note = "head" if revision == migrations.HEAD else f"head is {migrations.HEAD}"
            if revision not in migrations.REVISIONS:
                fits = await _in_connection(manager, migrations.is_newer)
                note = NEWER if fits else f"unknown to this package, whose head is {migrations.HEAD}"
            return f"{NAMES[backend]} schema: revision {revision} ({note})"
        return await _answers(manager, backend)


async def check(backend: SessionRepositoryType, url: str | None) -> str:
    """Check that the schema is at head, or newer and compatible; on MongoDB, remove orphaned messages.

    Raises:
        SchemaOutdatedError: It is older, or lacks what this package needs.
    """
    async with _manager(backend, url) as manager:
        manager.require_database()
        if isinstance(manager, SqlConnectionManager):
            await _in_connection(manager, migrations.check)
            revision = await _in_connection(manager, migrations.current)
            note = "as this package needs it" if revision == migrations.HEAD else NEWER
            return f"{NAMES[backend]} schema: revision {revision}, {note}"
        answer = await _answers(manager, backend)
        if backend != SessionRepositoryType.MONGODB:
            return answer
        return f"{answer}; {await _remove_orphaned(manager)}"


def require(backend: SessionRepositoryType, url: str | None) -> None:
    """Require that the database exists; do not create it."""
    manager = ConnectionFactory.get_connection_manager(backend, url=url)
    assert isinstance(manager, AsyncBaseConnectionManager)
    manager.require_database()


async def _answers(manager: AsyncBaseConnectionManager, backend: SessionRepositoryType) -> str:
    if not await manager.is_healthy():
        raise BackendUnavailableError(f"{NAMES[backend]} does not respond")
    return f"{NAMES[backend]}: reachable; it needs no migrations"


async def _remove_orphaned(manager: AsyncBaseConnectionManager) -> str:
    # Imported here: the other databases do not need MongoDB's driver.
    from sessions.backends.mongodb.connection import MongoConnectionManager
    from sessions.repositories.mongo_session_repository import MongoSessionRepository

    assert isinstance(manager, MongoConnectionManager)
    cleanup = await MongoSessionRepository(connection_manager=manager).remove_orphaned_messages()
    found = f"{cleanup.removed} orphaned messages removed" if cleanup.removed else "no orphaned messages"
    return f"{found}; {cleanup.under_way} operations unfinished" if cleanup.under_way else found


async def _in_connection(manager: SqlConnectionManager, work: Callable[[Connection], R]) -> R:
    engine = await manager.engine()
    async with engine.connect() as connection:
        return await connection.run_sync(work)


@contextlib.asynccontextmanager
async def _manager(
    backend: SessionRepositoryType, url: str | None
) -> AsyncIterator[AsyncBaseConnectionManager]:
    """Open a manager without checking the schema; translate drivers' errors."""
    manager = ConnectionFactory.get_connection_manager(backend, url=url)
    assert isinstance(manager, AsyncBaseConnectionManager)
    try:
        yield manager
    except SessionsError:
        raise
    except Exception as error:
        failure = manager.translate(error)
        if failure is None:
            raise
        raise failure from failure.__cause__ or error
    finally:
        await manager.disconnect()
