"""What the tests of the migrations share: a schema as plain values, and Alembic as pipelines run it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import migrations

ROOT = Path(__file__).resolve().parents[2]
OUR_TABLES = ("chat_messages", "chat_sessions")

# What deployments from before have, as they made it: with plain statements and no version table.
OLD_SESSIONS = """
    CREATE TABLE IF NOT EXISTS chat_sessions (
        session_id UUID PRIMARY KEY,
        title VARCHAR(255) NOT NULL,
        user_id VARCHAR(255) NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
        metadata JSONB DEFAULT '{}'
    )
"""
OLD_MESSAGES = """
    CREATE TABLE IF NOT EXISTS chat_messages (
        message_id UUID PRIMARY KEY,
        session_id UUID REFERENCES chat_sessions(session_id) ON DELETE CASCADE,
        role VARCHAR(20) NOT NULL CHECK (role IN ('user', 'assistant')),
        content TEXT NOT NULL,
        timestamp TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP
    )
"""
OLD_INDEXES = (
    "CREATE INDEX IF NOT EXISTS idx_sessions_user_id ON chat_sessions(user_id)",
    "CREATE INDEX IF NOT EXISTS idx_messages_session_id ON chat_messages(session_id)",
)
OLD_SCHEMA = (OLD_SESSIONS, OLD_MESSAGES, *OLD_INDEXES)


AlembicCommand = Callable[..., str]


def printed_statements(script: str) -> list[str]:
    """Return the statements of a printed script; none of ours holds a semicolon."""
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


async def with_connection(url: str, function: Callable[[Connection], Any], schema: str | None = None) -> Any:
    """Call a function with a plain SQLAlchemy connection to either database."""
    if url.startswith("sqlite"):
        engine = create_async_engine(
            url.replace("sqlite:", "sqlite+aiosqlite:"), isolation_level="AUTOCOMMIT"
        )
    else:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: asyncpg.connect(url),
            isolation_level="AUTOCOMMIT",
        )
    if schema is not None:
        engine = engine.execution_options(schema_translate_map={None: schema})
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(function)
    finally:
        await engine.dispose()


async def migrate(url: str, revision: str = "head", schema: str | None = None) -> None:
    """Move a database to a revision, up or down."""
    from alembic import command

    def move(connection: Connection) -> None:
        down = revision == "base" or (migrations.current(connection) or "") > revision
        (command.downgrade if down and revision != "head" else command.upgrade)(
            migrations.alembic_config(connection), revision
        )

    await with_connection(url, move, schema)


def sqlite_file(url: str) -> str:
    """Return the file of a ``sqlite:///`` URL."""
    return url.removeprefix("sqlite:///")


def sqlite_rows(url: str, statement: str) -> list[Any]:
    """Return the rows of a statement, over a connection of its own."""
    connection = sqlite3.connect(sqlite_file(url))
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


async def postgres_rows(url: str, statement: str, *arguments: Any) -> list[Any]:
    """Return the rows of a statement, over a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


async def execute(url: str, *statements: str) -> None:
    """Execute PostgreSQL statements one after another, each by itself."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def describe_postgres(url: str, schema: str = "public") -> dict[str, Any]:
    """Return the columns, constraints and indexes of our tables in a schema as plain values."""
    connection = await asyncpg.connect(url, server_settings={"search_path": f'"{schema}"'})

    async def rows(statement: str) -> list[Any]:
        return [tuple(row) for row in await connection.fetch(statement, list(OUR_TABLES))]

    try:
        columns = await rows(
            """
            SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid)
            FROM pg_attribute
            JOIN pg_class ON pg_class.oid = attrelid
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE relname = ANY($1) AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
              AND pg_table_is_visible(attrelid)
            ORDER BY relname, attnum
            """
        )
        # PostgreSQL 18 lists NOT NULL among the constraints; the columns say that already.
        constraints = await rows(
            """
            SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
            WHERE conrelid::regclass::text = ANY($1) AND contype <> 'n' ORDER BY conname
            """
        )
        indexes = await rows(
            f"""
            SELECT indexrelid::regclass::text,
                   replace(pg_get_indexdef(indexrelid), quote_ident('{schema}') || '.', 'public.'),
                   indisvalid
            FROM pg_index WHERE indrelid::regclass::text = ANY($1) ORDER BY 1
            """
        )
    finally:
        await connection.close()
    return {"columns": columns, "constraints": constraints, "indexes": indexes}


async def constraint_names(url: str) -> list[str]:
    """Return the names of all constraints of our tables, from PostgreSQL 18 on with those of NOT NULL."""
    statement = "SELECT conname FROM pg_constraint WHERE conrelid::regclass::text = ANY($1) ORDER BY conname"
    return [name for (name,) in await postgres_rows(url, statement, list(OUR_TABLES))]


def describe_sqlite(url: str) -> dict[str, Any]:
    """Return the columns, foreign keys, definitions and indexes of our tables as plain values."""
    described: dict[str, Any] = {}
    for table in OUR_TABLES:
        described[table] = {
            "columns": sqlite_rows(url, f"PRAGMA table_info({table})"),
            "foreign keys": sqlite_rows(url, f"PRAGMA foreign_key_list({table})"),
        }
    described["definitions"] = [
        (name, re.sub(r"\s+", " ", sql))
        for name, sql in sqlite_rows(
            url,
            "SELECT name, sql FROM sqlite_master "
            "WHERE sql IS NOT NULL AND name NOT LIKE '%version' ORDER BY name",
        )
    ]
    return described
