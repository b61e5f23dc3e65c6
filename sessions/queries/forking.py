"""Statements that copy a session with its messages into a new one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, String, Text, Uuid, cast, func, literal_column, select
from sqlalchemy import tuple_ as row_of
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import Insert

from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime
from sessions.queries.columns import (
    COMPLETE_MESSAGE_FIELDS,
    MESSAGE_ID,
    MESSAGE_ORDER,
    OWNED,
    SESSION_FIELDS,
    SESSION_ID,
    USER_ID,
    bind,
    time,
)
from sessions.queries.editing import any_row, scalar
from sessions.queries.ranges import Ranges
from sessions.queries.reading import is_of

__all__ = ["copy_messages", "fork_session"]

NEW_ID = bind("new_id", type_=ChatSessionRecord.session_id.type)


def fork_session(through: bool) -> Any:
    """PostgreSQL: store the copy of the owner's session, up to one of its messages or all of them.

    No row if the user has no such session; else whether it has that message, and whether the copy is new.
    The snapshot of the statement is the state that is copied, so it needs no lock.

    Args:
        through: Whether the copy ends with the message ``message_id``.
    """
    columns = ChatSessionRecord.session_id, ChatSessionRecord.updated_at
    source = select(*columns).where(OWNED).cte("source")
    place = ChatMessageRecord.timestamp, ChatMessageRecord.write_order
    its = is_of(scalar(source.c.session_id), postgres=True)
    anchor = select(*place).where(ChatMessageRecord.message_id == MESSAGE_ID, its).cte("anchor")
    # Not before the newest message, whose timestamp may be ahead of this host's clock: what is appended to
    # the copy comes after it.
    later = func.greatest(time("now"), source.c.updated_at, type_=UtcDateTime())
    metadata = cast(bind("metadata", type_=Text()), JSONB)
    title = bind("title", type_=ChatSessionRecord.title.type)
    values = select(NEW_ID, title, USER_ID, time("now"), later, metadata).select_from(source)
    if through:
        values = values.where(any_row(anchor))
    created = (
        postgresql.insert(ChatSessionRecord)
        .from_select(SESSION_FIELDS, values, include_defaults=False)
        .on_conflict_do_nothing(index_elements=[ChatSessionRecord.session_id])
        .returning(ChatSessionRecord.session_id)
        .cte("created")
    )
    condition: list[ColumnElement[bool]] = [ChatMessageRecord.session_id == scalar(source.c.session_id)]
    if through:
        at = row_of(scalar(anchor.c.timestamp), scalar(anchor.c.write_order), MESSAGE_ID)
        condition.append(row_of(*MESSAGE_ORDER) <= at)
    messages = _ordered(condition, postgres=True)
    copies = select(func.gen_random_uuid(type_=Uuid(as_uuid=False)), created.c.session_id, *_values(messages))
    copies = copies.select_from(created.join(messages, literal_column("true")))
    copied = postgresql.insert(ChatMessageRecord).from_select(
        COMPLETE_MESSAGE_FIELDS, copies, include_defaults=False
    )
    has_message = any_row(anchor) if through else literal_column("true")
    statement: Any = (
        select(has_message.label("has_message"), any_row(created).label("is_new"))
        .select_from(source)
        .add_cte(copied.cte("copied"))
    )
    return statement


def copy_messages(through: bool) -> Insert:
    """SQLite: copy the messages of a session into the session ``new_id``.

    Args:
        through: Whether the copies end with the message ``message_id``.
    """
    condition: list[ColumnElement[bool]] = [ChatMessageRecord.session_id == SESSION_ID]
    if through:
        anchor = aliased(ChatMessageRecord, name="anchor")
        place = (
            select(column).where(anchor.message_id == MESSAGE_ID).scalar_subquery()
            for column in (anchor.timestamp, anchor.write_order)
        )
        condition.append(row_of(*MESSAGE_ORDER) <= row_of(*place, MESSAGE_ID))
    messages = _ordered(condition, postgres=False)
    copies = select(_random_uuid(), NEW_ID, *_values(messages)).select_from(messages)
    return sqlite.insert(ChatMessageRecord).from_select(
        COMPLETE_MESSAGE_FIELDS, copies, include_defaults=False
    )


def _ordered(condition: list[ColumnElement[bool]], *, postgres: bool) -> Any:
    """Return the messages with their numbers, which become their write order: it must not rest on new ids."""
    number = func.row_number().over(order_by=MESSAGE_ORDER).label("number")
    copied = select(
        ChatMessageRecord.role,
        ChatMessageRecord.content,
        ChatMessageRecord.timestamp,
        ChatMessageRecord.message_metadata.label("metadata"),
        ChatMessageRecord.payload,
        number,
    ).where(*condition)
    if postgres:
        return Ranges(postgres=True).ordered(copied, *MESSAGE_ORDER).subquery("messages")
    return copied.subquery("messages")


def _values(messages: Any) -> tuple[Any, ...]:
    columns = messages.c
    return (
        columns.role,
        columns.content,
        columns.timestamp,
        columns.metadata,
        columns.payload,
        columns.number,
    )


def _random_uuid() -> ColumnElement[str]:
    """Return a UUIDv4 as SQLite stores it: 32 hexadecimal digits."""
    return literal_column(
        "lower(hex(randomblob(6))) || '4' || substr(lower(hex(randomblob(2))), 2)"
        " || substr('89ab', 1 + (random() & 3), 1) || substr(lower(hex(randomblob(2))), 2)"
        " || lower(hex(randomblob(6)))",
        String(),
    )
