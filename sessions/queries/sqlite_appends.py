"""SQLite: the statements of an append to several sessions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Integer, Text, func, literal_column, type_coerce, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.dml import Update

from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime
from sessions.queries.columns import COMPLETE_MESSAGE_FIELDS, bind, time
from sessions.queries.times import later

__all__ = ["insert_message", "touch_sessions"]


def touch_sessions(*, equally: bool) -> Update:
    """Bump sessions, and return their ids and their new times, as SQLite stores them.

    The time of the first message of each session is ``first``, unless the session's own time is later. The
    parameter ``targets`` is a JSON object with values for the id of each session, all as they are stored. A
    session that does not exist, or has another owner, is not returned.

    Args:
        equally: Whether all sessions get as much: ``now`` is the time of the last message, ``calls`` is how
            many calls append, and ``steps`` how many messages. The value of each is its owner, null for any,
            so that SQLite parses no JSON for it. If not, the value is an array: its owner, the time of its
            last message, how many calls append to it, and how many messages.
    """
    each: Any = func.json_each(bind("targets", Text())).table_valued("key", "value", name="target")
    if equally:
        user_id, last, calls, steps = each.c.value, time("now"), bind("calls", Integer()), bind("steps")
    else:
        user_id, last, calls, steps = (
            func.json_extract(each.c.value, literal_column(f"'$[{place}]'")) for place in range(4)
        )
    new_time = later(steps, time("first"), type_coerce(last, UtcDateTime()), postgres=False)
    returned = ChatSessionRecord.session_id, ChatSessionRecord.updated_at
    statement: Update = (
        update(ChatSessionRecord)
        .where(
            ChatSessionRecord.session_id == type_coerce(each.c.key, Text()),
            ChatSessionRecord.user_id == func.coalesce(user_id, ChatSessionRecord.user_id),
        )
        .values(
            {
                ChatSessionRecord.updated_at: new_time,
                ChatSessionRecord.version: ChatSessionRecord.version + calls,
            }
        )
        .returning(*(type_coerce(column, Text()).label(column.key) for column in returned))
    )
    return statement


def insert_message() -> str:
    """Return the SQL that stores a message. Its values are those of `COMPLETE_MESSAGE_FIELDS`, as stored."""
    values = {field: bind(field.key, Text()) for field in COMPLETE_MESSAGE_FIELDS}
    insert: Any = sqlite.insert(ChatMessageRecord).values(values)
    compiled = insert.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    assert compiled.positiontup == [f"p_{field.key}" for field in COMPLETE_MESSAGE_FIELDS]
    return str(compiled)
