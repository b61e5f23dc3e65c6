"""Alembic's environment: our tables, our version table, the URL from the settings, one process at a time."""

import asyncio

from sqlalchemy import Connection

from alembic import context
from sessions.config import load_settings
from sessions.connections import ConnectionFactory
from sessions.connections.sql import SqlConnectionManager
from sessions.migrations import VERSION_TABLE, migration_lock
from sessions.models.records import Base


def include_name(name: str | None, type_: str, parent_names: dict[str, str | None]) -> bool:
    """Look at our own tables only: other services keep theirs in the same database."""
    return type_ != "table" or name in Base.metadata.tables


def configure(**target: object) -> None:
    """Configure Alembic for a connection, or for a dialect whose SQL is only printed."""
    context.configure(
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=include_name,
        # CREATE INDEX CONCURRENTLY leaves the transaction, which is only clean between migrations.
        transaction_per_migration=True,
        **target,
    )


def run_online(connection: Connection) -> None:
    """Migrate over a connection, while no other process does."""
    with migration_lock(connection, one_transaction=context.config.attributes.get("one_transaction", False)):
        configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()


async def connect_and_run(backend: str) -> None:
    """Migrate the database that the settings name."""
    manager = ConnectionFactory.get_connection_manager(backend)
    assert isinstance(manager, SqlConnectionManager)
    context.config.attributes["one_transaction"] = manager.one_transaction_at_a_time
    async with (await manager.engine()).connect() as connection:
        await connection.run_sync(run_online)
    await manager.disconnect()


# MongoDB needs no migrations, so whatever is not SQLite means PostgreSQL here.
is_sqlite = load_settings().sessions.default_repository == "sqlite"

if context.is_offline_mode():
    configure(dialect_name="sqlite" if is_sqlite else "postgresql", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif (given := context.config.attributes.get("connection")) is not None:
    run_online(given)
else:
    asyncio.run(connect_and_run("sqlite" if is_sqlite else "postgres"))
