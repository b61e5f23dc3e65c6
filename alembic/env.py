"""Alembic's environment: our tables, our version table, the URL from the settings, one process at a time."""

import asyncio

from sqlalchemy import Connection, MetaData
from sqlalchemy.schema import CreateSchema

from alembic import context
from sessions.backends.sql.engine import SqlConnectionManager
from sessions.config import load_settings
from sessions.connections import ConnectionFactory
from sessions.migrations import VERSION_TABLE, forget_revision, migration_lock, only_looks, schema_of
from sessions.models.records import Base


def configure(schema: str | None, *, compare_in: str | None = None, **target: object) -> None:
    """Configure Alembic for a connection, or for a dialect whose SQL is only printed.

    The schema of the version table is also the schema of our tables; the migrations read it there.
    """
    metadata = Base.metadata if compare_in is None else in_schema(compare_in)

    def include_name(name: str | None, type_: str, parent_names: dict[str, str | None]) -> bool:
        """Look at our own tables only: other services keep theirs in the same database."""
        if type_ == "schema":
            return name == compare_in
        return type_ != "table" or name in Base.metadata.tables

    context.configure(
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        include_name=include_name,
        include_schemas=compare_in is not None,
        # CREATE INDEX CONCURRENTLY leaves the transaction, which is only clean between migrations.
        transaction_per_migration=True,
        **target,
    )


def in_schema(schema: str) -> MetaData:
    """Return the tables of the models, in a schema."""
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.sorted_tables:
        table.to_metadata(metadata, schema=schema)
    return metadata


def run_online(connection: Connection) -> None:
    """Migrate on a connection, under the lock that excludes other processes."""
    one_transaction = context.config.attributes.get("one_transaction", False)
    schema = schema_of(connection)
    # Alembic compares tables of the default schema with the name None.
    compare_in = None if schema == connection.dialect.default_schema_name else schema
    with migration_lock(connection, one_transaction=one_transaction):
        if context.config.attributes.get("forget_revision", False):
            forget_revision(connection)
            if not one_transaction and connection.dialect.name == "postgresql":
                connection.commit()
        configure(schema, compare_in=compare_in, connection=connection)
        if schema is not None and not only_looks(context.get_context()):
            create_schema(connection, schema)
            if not one_transaction:
                connection.commit()
        with context.begin_transaction():
            context.run_migrations()


def create_schema(connection: Connection, schema: str) -> None:
    """Create a schema unless it exists; an existing one needs no privilege."""
    if not connection.dialect.has_schema(connection, schema):
        connection.execute(CreateSchema(schema))


async def connect_and_run(backend: str) -> None:
    """Migrate the database that the settings name."""
    manager = ConnectionFactory.get_connection_manager(backend)
    assert isinstance(manager, SqlConnectionManager)
    context.config.attributes["one_transaction"] = manager.one_transaction_at_a_time
    # Commands that only read, such as "alembic current", create no SQLite file.
    context.configure(dialect_name=manager.dialect)
    if only_looks(context.get_context()):
        manager.require_database()
    try:
        await manager.make_database()
        async with (await manager.engine()).connect() as connection:
            await connection.run_sync(run_online)
    finally:
        await manager.disconnect()


def print_sql(dialect: str, schema: str | None) -> None:
    """Print the SQL of the migrations."""
    configure(schema, dialect_name=dialect, literal_binds=True)
    with context.begin_transaction():
        if schema is not None and context.get_starting_revision_argument() is None:
            context.execute(CreateSchema(schema, if_not_exists=True))
        context.run_migrations()


# MongoDB needs no migrations, so every backend but SQLite means PostgreSQL here.
settings = load_settings()
is_sqlite = settings.sessions.default_repository == "sqlite"

if context.is_offline_mode():
    if is_sqlite:
        print_sql("sqlite", None)
    else:
        print_sql("postgresql", settings.db.postgres.schema_name)
elif (given := context.config.attributes.get("connection")) is not None:
    run_online(given)
else:
    asyncio.run(connect_and_run("sqlite" if is_sqlite else "postgres"))
