"""NOT NULL where the code relies on it; indexes that hold each list page and each history as one range.

Revision: 0002, after 0001
"""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Table, column, and what a row from before gets that has none.
REQUIRED = (
    ("chat_sessions", "created_at", "COALESCE(updated_at, CURRENT_TIMESTAMP)"),
    ("chat_sessions", "updated_at", "COALESCE(created_at, CURRENT_TIMESTAMP)"),
    ("chat_sessions", "metadata", "'{}'"),
    ("chat_messages", "timestamp", "CURRENT_TIMESTAMP"),
    ("chat_messages", "session_id", None),
)
WIDE = (
    ("idx_sessions_user_id", "chat_sessions", ["user_id", sa.text("updated_at DESC"), "session_id"]),
    ("idx_messages_session_id", "chat_messages", ["session_id", "timestamp", "message_id"]),
)
NARROW = (
    ("idx_sessions_user_id", "chat_sessions", ["user_id"]),
    ("idx_messages_session_id", "chat_messages", ["session_id"]),
)


def upgrade() -> None:
    """Fill and require the columns, then widen the indexes without stopping writers."""
    if op.get_context().dialect.name == "sqlite":
        _replace_indexes_at_once(WIDE)
        return
    if _is_one_transaction():
        for table, column, default in REQUIRED:
            _fill(table, column, default)
            op.alter_column(table, column, nullable=False)
        _replace_indexes_at_once(WIDE)
        return
    # Each statement commits by itself, so no lock outlives it; each can be repeated, so an upgrade
    # that was interrupted is simply run again.
    with op.get_context().autocommit_block():
        for table, column, default in REQUIRED:
            _fill(table, column, default)
            _require(table, column)
        _replace_indexes_concurrently(WIDE)


def downgrade() -> None:
    """Take both back."""
    if op.get_context().dialect.name == "sqlite":
        _replace_indexes_at_once(NARROW)
        return
    if _is_one_transaction():
        for table, column, _ in REQUIRED:
            op.alter_column(table, column, nullable=True)
        _replace_indexes_at_once(NARROW)
        return
    with op.get_context().autocommit_block():
        for table, column, _ in REQUIRED:
            op.alter_column(table, column, nullable=True)
        _replace_indexes_concurrently(NARROW)


def _is_one_transaction() -> bool:
    """Return whether a transaction-pooling proxy forbids to leave the transaction."""
    config = op.get_context().config
    return config is not None and bool(config.attributes.get("one_transaction"))


def _fill(table: str, column: str, default: str | None) -> None:
    if default is not None:
        op.execute(f"UPDATE {table} SET {column} = {default} WHERE {column} IS NULL")


def _require(table: str, column: str) -> None:
    """SET NOT NULL without its scan under an exclusive lock: a CHECK that is validated first, which
    lets writers go on, tells PostgreSQL that there is nothing to find.
    """
    check = f"{table}_{column}_not_null"
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {check}")
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {check} CHECK ({column} IS NOT NULL) NOT VALID")
    op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {check}")
    op.alter_column(table, column, nullable=False)
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {check}")


def _replace_indexes_concurrently(indexes: tuple[tuple[str, str, list[object]], ...]) -> None:
    for name, table, columns in indexes:
        new = f"{name}_new"
        op.drop_index(new, table, postgresql_concurrently=True, if_exists=True)
        op.create_index(new, table, columns, postgresql_concurrently=True)
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
        op.execute(f"ALTER INDEX {new} RENAME TO {name}")


def _replace_indexes_at_once(indexes: tuple[tuple[str, str, list[object]], ...]) -> None:
    for name, table, columns in indexes:
        op.drop_index(name, table, if_exists=True)
        op.create_index(name, table, columns)
