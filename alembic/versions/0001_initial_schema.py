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


def upgrade() -> None:
    """Create both tables and their indexes, where they are not there yet."""
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
            ["chat_sessions.session_id"],
            name="chat_messages_session_id_fkey",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("role IN ('user', 'assistant')", name=op.f("chat_messages_role_check")),
        if_not_exists=True,
    )
    op.create_index("idx_sessions_user_id", "chat_sessions", ["user_id"], if_not_exists=True)
    op.create_index("idx_messages_session_id", "chat_messages", ["session_id"], if_not_exists=True)


def downgrade() -> None:
    """Drop both tables, with everything in them."""
    op.drop_table("chat_messages")
    op.drop_table("chat_sessions")
