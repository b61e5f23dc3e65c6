"""The schema that existing deployments have. On such a database it creates only what is missing.

Revision: 0001
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("chat_sessions", "chat_messages")
INDEXES = (
    ("idx_sessions_user_id", "chat_sessions", "user_id"),
    ("idx_messages_session_id", "chat_messages", "session_id"),
)


def upgrade() -> None:
    """Create both tables and their indexes, where they are not there yet."""
    # The schema of the version table is the one of all our tables.
    schema = op.get_context().version_table_schema
    was_there = _has_rows(schema)
    # SQLite cannot tighten a column later without rebuilding its table, and has no deployments from
    # before: there the columns start as 0002 makes them on PostgreSQL.
    nullable = op.get_context().dialect.name != "sqlite"
    now = sa.func.current_timestamp()
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.create_table(
        "chat_sessions",
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.String(255), nullable=False),
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=nullable),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=now, nullable=nullable),
        sa.Column("metadata", json, server_default=sa.text("'{}'"), nullable=nullable),
        sa.PrimaryKeyConstraint("session_id", name="chat_sessions_pkey"),
        schema=schema,
        if_not_exists=True,
    )
    op.create_table(
        "chat_messages",
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=nullable),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), server_default=now, nullable=nullable),
        sa.PrimaryKeyConstraint("message_id", name="chat_messages_pkey"),
        sa.ForeignKeyConstraint(
            ["session_id"],
            [".".join(filter(None, (schema, "chat_sessions", "session_id")))],
            name="chat_messages_session_id_fkey",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("role IN ('user', 'assistant')", name=op.f("chat_messages_role_check")),
        schema=schema,
        if_not_exists=True,
    )
    if was_there:
        _create_missing_indexes(schema)
        return
    for name, table, column in INDEXES:
        op.create_index(name, table, [column], schema=schema, if_not_exists=True)


def downgrade() -> None:
    """Drop both tables, with everything in them."""
    schema = op.get_context().version_table_schema
    op.drop_table("chat_messages", schema=schema)
    op.drop_table("chat_sessions", schema=schema)


def _has_rows(schema: str | None) -> bool:
    """Return whether a deployment from before has stored something."""
    context = op.get_context()
    if context.as_sql or context.dialect.name == "sqlite":
        return False
    connection = op.get_bind()
    return any(
        connection.execute(sa.select(sa.exists().select_from(sa.table(name, schema=schema)))).scalar_one()
        for name in TABLES
        if sa.inspect(connection).has_table(name, schema=schema)
    )


def _create_missing_indexes(schema: str | None) -> None:
    """Create what is missing without stopping writers, and without a lock for what is there already."""
    missing = [index for index in INDEXES if not _is_valid(index[0], schema)]
    if not missing:
        return
    config = op.get_context().config
    # A proxy that lends connections for one transaction forbids to leave it.
    concurrently = config is None or not config.attributes.get("one_transaction")
    with op.get_context().autocommit_block() if concurrently else op.get_bind().begin_nested():
        for name, table, column in missing:
            # What is left of a build that was interrupted.
            op.drop_index(name, table, schema=schema, postgresql_concurrently=concurrently, if_exists=True)
            op.create_index(name, table, [column], schema=schema, postgresql_concurrently=concurrently)


def _is_valid(index: str, schema: str | None) -> bool:
    name = op.get_context().dialect.identifier_preparer.format_table(sa.table(index, schema=schema))
    valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(op.get_bind().execute(valid, {"name": name}).scalar())
