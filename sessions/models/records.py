"""SQLAlchemy records: the rows behind `ChatSession` and `ChatMessage` in PostgreSQL and SQLite.

Services may query them with their own ``AsyncSession``; deleting a session deletes its messages
in the database (``ON DELETE CASCADE``), so the ORM never loads them for that. Alembic owns the schema:
nothing calls ``create_all``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast, overload

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

__all__ = ["Base", "ChatMessageRecord", "ChatSessionRecord", "UtcDateTime"]

# The names PostgreSQL itself gave the constraints of existing deployments.
NAMING_CONVENTION = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "uq": "%(table_name)s_%(column_0_name)s_key",
}


# Characters of a time that SQLite stores: of one width, which sorts.
WIDTH = len("2026-01-31 12:00:00.000000")
JSON_OBJECT = JSON().with_variant(JSONB(), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC datetime on every database; a naive value is rejected.

    SQLite has no time zones: there the UTC wall clock is stored as text of one width, which sorts.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value in UTC.

        Raises:
            ValueError: The value is naive.
        """
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("a timezone-aware datetime is needed")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the stored value, timezone-aware in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def bind_processor(self, dialect: Dialect) -> Callable[..., Any] | None:
        """Return what is called for each parameter."""
        return _to_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[..., Any] | None:
        """Return what is called for each value, or None where the driver's are in UTC already."""
        if dialect.name == "sqlite":
            return loaded_time
        return None if dialect.driver == "asyncpg" else super().result_processor(dialect, coltype)


def stored_time(value: datetime) -> str:
    """Return the text that SQLite stores for a timezone-aware datetime.

    Raises:
        ValueError: The value is naive.
    """
    if value.tzinfo is not UTC:
        if value.utcoffset() is None:
            raise ValueError("a timezone-aware datetime is needed")
        value = value.astimezone(UTC)
    return value.isoformat(" ", "microseconds")[:WIDTH]


def _to_text(value: datetime | None) -> str | None:
    return None if value is None else stored_time(value)


@overload
def loaded_time(value: str) -> datetime: ...


@overload
def loaded_time(value: None) -> None: ...


def loaded_time(value: str | None) -> datetime | None:
    """Return the timezone-aware datetime of a text that SQLite stores."""
    # The default of a column has no microseconds.
    if value is None:
        return None
    if len(value) <= WIDTH:
        # Several times as fast as `datetime.replace`.
        return datetime.fromisoformat(value + "+00:00")
    found = datetime.fromisoformat(value)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def loaded_times(values: Sequence[str | None]) -> list[datetime | None]:
    """Return what `loaded_time` returns for each value."""
    try:
        parse = datetime.fromisoformat
        return [parse(value + "+00:00") for value in cast(Sequence[str], values)]
    except (TypeError, ValueError):  # NULL, or a text with an offset.
        return [loaded_time(value) for value in values]


class Base(DeclarativeBase):
    """Declarative base of this package alone, so that another service's metadata stays apart."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class ChatSessionRecord(Base):
    """A row of ``chat_sessions``.

    The column ``metadata`` is the attribute ``session_metadata``: SQLAlchemy keeps the name
    ``metadata`` on declarative classes.
    """

    __tablename__ = "chat_sessions"

    session_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    title: Mapped[str] = mapped_column(String(255))
    user_id: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.current_timestamp())
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.current_timestamp())
    session_metadata: Mapped[dict[str, Any]] = mapped_column(
        "metadata", JSON_OBJECT, server_default=text("'{}'")
    )
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    messages: Mapped[list[ChatMessageRecord]] = relationship(
        back_populates="chat_session",
        cascade="all, delete-orphan",
        passive_deletes=True,
        order_by="(ChatMessageRecord.timestamp, ChatMessageRecord.write_order, ChatMessageRecord.message_id)",
    )

    __table_args__ = (Index("idx_sessions_user_id", "user_id", updated_at.desc(), "session_id"),)


class ChatMessageRecord(Base):
    """A row of ``chat_messages``.

    A session's messages are ordered by ``timestamp``, then ``write_order``, then ``message_id``. Timestamps
    that the package assigns strictly increase within a session, and their ``write_order`` is 0. Timestamps
    that callers give may be equal: their ``write_order`` is the time of the write, in microseconds.

    The column ``metadata`` is the attribute ``message_metadata``, as in `ChatSessionRecord`. ``payload`` is
    JSON text, which the database does not look into.
    """

    __tablename__ = "chat_messages"

    message_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("chat_sessions.session_id", ondelete="CASCADE"))
    role: Mapped[str] = mapped_column(String(20))
    content: Mapped[str] = mapped_column(Text)
    timestamp: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.current_timestamp())
    message_metadata: Mapped[dict[str, Any]] = mapped_column(
        "metadata", JSON_OBJECT, server_default=text("'{}'")
    )
    payload: Mapped[str | None] = mapped_column(Text)
    write_order: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    chat_session: Mapped[ChatSessionRecord] = relationship(back_populates="messages")

    __table_args__ = (
        CheckConstraint("role IN ('user', 'assistant', 'system', 'developer', 'tool')", name="role"),
        Index("idx_messages_session_id", "session_id", "timestamp", "write_order", "message_id"),
    )
