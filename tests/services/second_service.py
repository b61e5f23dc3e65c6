"""Another service in the same database: its own base, its own Alembic, a foreign key to our sessions."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from sqlalchemy import Connection, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sessions.models.records import ChatSessionRecord

__all__ = ["NoteRecord", "NotesBase", "notes_config", "write_alembic"]


class NotesBase(DeclarativeBase):
    """The other service's declarative base."""


class NoteRecord(NotesBase):
    """A note on one of our sessions, deleted together with it."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey(ChatSessionRecord.session_id, ondelete="CASCADE"))
    text: Mapped[str] = mapped_column(String(100))

    chat_session: Mapped[ChatSessionRecord] = relationship(ChatSessionRecord)


INI = """
[alembic]
script_location = %(here)s/migrations
path_separator = os
"""
# As in the manual: it includes its own tables only.
ENV = """
from alembic import context
from tests.services.second_service import NotesBase


def include_name(name, type_, parent_names):
    return type_ != "table" or name in NotesBase.metadata.tables


connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=NotesBase.metadata, include_name=include_name)
with context.begin_transaction():
    context.run_migrations()
connection.commit()
"""
REVISION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "notes1", None


def upgrade():
    op.create_table(
        "notes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("text", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["{sessions}.session_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade():
    op.drop_table("notes")
"""


def write_alembic(folder: Path, sessions_table: str = "chat_sessions") -> Path:
    """Write the other service's Alembic files and return its ini; its version table is Alembic's default."""
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / "alembic.ini").write_text(INI)
    (folder / "migrations" / "env.py").write_text(ENV)
    (versions / "notes1.py").write_text(REVISION.format(sessions=sessions_table))
    return folder / "alembic.ini"


def notes_config(ini: Path, connection: Connection) -> Config:
    """Return the other service's Alembic configuration."""
    config = Config(str(ini))
    config.attributes["connection"] = connection
    return config
