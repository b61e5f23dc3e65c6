"""The columns, parameters and conditions of the statements."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    Dialect,
    SQLColumnExpression,
    Text,
    TypeDecorator,
    and_,
    bindparam,
    cast,
    func,
    literal_column,
    select,
)

from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime

__all__ = [
    "COMPLETE_MESSAGE_FIELDS",
    "IS_USERS",
    "LIMIT",
    "MESSAGE_COLUMNS",
    "MESSAGE_FIELDS",
    "MESSAGE_ID",
    "MESSAGE_ORDER",
    "NEWEST_FIRST",
    "OF_USER",
    "OLDEST_FIRST",
    "OWNED",
    "SESSION_COLUMNS",
    "SESSION_FIELDS",
    "SESSION_ID",
    "USER_ID",
    "bind",
    "listed_ids",
    "newest_first",
    "oldest_first",
    "optional",
    "parameters",
    "session_columns",
    "time",
]

# Columns of an insert, in order.
SESSION_FIELDS = (
    ChatSessionRecord.session_id,
    ChatSessionRecord.title,
    ChatSessionRecord.user_id,
    ChatSessionRecord.created_at,
    ChatSessionRecord.updated_at,
    ChatSessionRecord.session_metadata,
)
MESSAGE_FIELDS = (
    ChatMessageRecord.message_id,
    ChatMessageRecord.session_id,
    ChatMessageRecord.role,
    ChatMessageRecord.content,
    ChatMessageRecord.timestamp,
)
COMPLETE_MESSAGE_FIELDS = (
    *MESSAGE_FIELDS,
    ChatMessageRecord.message_metadata,
    ChatMessageRecord.payload,
    ChatMessageRecord.write_order,
)


# The JSON travels as text: what the driver makes of a number must not depend on a service's engine.
def session_columns(record: Any) -> tuple[SQLColumnExpression[Any], ...]:
    """Return the columns of a session, of the record or of an alias of it."""
    return (
        record.session_id,
        record.title,
        record.user_id,
        record.created_at,
        record.updated_at,
        cast(record.session_metadata, Text).label("metadata"),
        record.version,
    )


SESSION_COLUMNS = session_columns(ChatSessionRecord)
# Without the session's id, which the caller has.
MESSAGE_COLUMNS: tuple[SQLColumnExpression[Any], ...] = (
    ChatMessageRecord.message_id,
    ChatMessageRecord.role,
    ChatMessageRecord.content,
    ChatMessageRecord.timestamp,
    cast(ChatMessageRecord.message_metadata, Text).label("metadata"),
    ChatMessageRecord.payload,
)


def parameters(**values: Any) -> dict[str, Any]:
    """Return values under the names that the statements' parameters have.

    They carry a prefix because SQLAlchemy reserves the columns' own names in INSERT and UPDATE.
    """
    return {f"p_{name}": value for name, value in values.items()}


def bind(name: str, type_: Any = None) -> Any:
    """Return the bind parameter for a name of `parameters`."""
    return bindparam(f"p_{name}", type_=type_)


def optional(name: str, type_: Any, value: Any = None) -> Any:
    """Return the bind parameter for a name of `parameters`, with the value that it has if none is given."""
    return bindparam(f"p_{name}", value=value, type_=type_)


SESSION_ID = bind("session_id", type_=ChatSessionRecord.session_id.type)
USER_ID = bind("user_id", type_=ChatSessionRecord.user_id.type)
OF_USER = ChatSessionRecord.user_id == USER_ID
# For sessions that are selected by id. No index contains the expression: without statistics PostgreSQL
# assumes few sessions for a user, and would search all of them for the id.
IS_USERS = ChatSessionRecord.user_id.concat(literal_column("''")) == USER_ID
OWNED = and_(ChatSessionRecord.session_id == SESSION_ID, IS_USERS)
MESSAGE_ID = bind("message_id", type_=ChatMessageRecord.message_id.type)
LIMIT: Any = bind("limit")
# The order of a session's messages: write_order decides between equal timestamps that callers gave, and the
# id between those of a batch of release 0.2 or older.
MESSAGE_ORDER = (
    ChatMessageRecord.timestamp,
    ChatMessageRecord.write_order,
    ChatMessageRecord.message_id,
)


def newest_first(record: Any) -> tuple[Any, ...]:
    """Return the order of a listing, for the record or an alias of it."""
    return record.updated_at.desc(), record.session_id


def oldest_first(record: Any) -> tuple[Any, ...]:
    """Return the order of an export, for the record or an alias of it."""
    return record.updated_at, record.session_id.desc()


NEWEST_FIRST, OLDEST_FIRST = newest_first(ChatSessionRecord), oldest_first(ChatSessionRecord)


class JsonIds(TypeDecorator[list[str]]):
    """SQLite: a list of UUIDs as a JSON array of the texts that are stored."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> str | None:
        """Return the JSON text."""
        return None if value is None else json.dumps([one.replace("-", "") for one in value])


def listed_ids(name: str) -> Any:
    """SQLite: return the ids of a parameter, for ``IN``. One statement for any number of them."""
    ids: Any = func.json_each(bind(name, JsonIds()))
    return select(ids.table_valued("value", name="ids").c.value)


def time(name: str) -> Any:
    """Return a parameter for a datetime."""
    return bind(name, type_=UtcDateTime())
