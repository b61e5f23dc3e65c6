"""PostgreSQL: the statement that replaces all messages of a session; see `sessions.queries.editing`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Text,
    and_,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sessions.models.records import ChatMessageRecord
from sessions.queries.columns import COMPLETE_MESSAGE_FIELDS, MESSAGE_ORDER, bind
from sessions.queries.editing import any_row, scalar, seen_session, write_session
from sessions.queries.ranges import Ranges
from sessions.queries.times import MICROSECOND, ONE

__all__ = ["replace_messages"]

ARRAYS = ("message_ids", "roles", "contents", "timestamps", "metadata", "payloads")


def replace_messages() -> Any:
    """Replace all messages of a session by those of arrays of one length.

    The last column tells whether an id is taken by a message of another session; then nothing is changed. If
    it is taken after the start of the statement, the statement violates the primary key.
    """
    ranges = Ranges(postgres=True)
    seen = seen_session()
    is_its = ChatMessageRecord.session_id == scalar(seen.c.session_id)
    own = ranges.ordered(select(ChatMessageRecord.message_id).where(is_its), *MESSAGE_ORDER).cte("own")
    # All of them text: asyncpg asks the server what any other array is, once for each connection.
    arrays: Any = func.unnest(*(bind(name, type_=ARRAY(Text())) for name in ARRAYS))
    given = arrays.table_valued(*ARRAYS, with_ordinality="number", name="given").render_derived()
    given_id = cast(given.c.message_ids, ChatMessageRecord.message_id.type)
    batch = select(
        given_id.label("message_id"),
        given.c.roles.label("role"),
        given.c.contents.label("content"),
        cast(given.c.timestamps, DateTime(timezone=True)).label("timestamp"),
        cast(given.c.metadata, JSONB).label("metadata"),
        given.c.payloads.label("payload"),
        cast(given.c.number, BigInteger).label("number"),
        # In the list of columns PostgreSQL hashes the ids; as a condition it might join tables.
        given_id.in_(select(own.c.message_id)).label("is_kept"),
    ).cte("batch")
    new_ids = select(batch.c.message_id).where(~batch.c.is_kept)
    taken: Any = select(ChatMessageRecord.message_id).where(
        ranges.among(ChatMessageRecord.message_id, new_ids)
    )
    taken = taken.cte("taken")
    count = select(func.count()).select_from(batch).scalar_subquery()
    owner = write_session(
        seen, ~any_row(taken), or_(any_row(batch), any_row(own)), steps=func.greatest(count, ONE)
    )
    joined = owner.join(own, literal_column("true"))
    dropped = select(own.c.message_id).select_from(joined)
    dropped = dropped.where(own.c.message_id.not_in(select(batch.c.message_id)))
    gone = delete(ChatMessageRecord).where(ranges.among(ChatMessageRecord.message_id, dropped))
    # Two inserts: an id that the session has is replaced, any other must be new.
    kept = postgresql.insert(ChatMessageRecord).from_select(
        COMPLETE_MESSAGE_FIELDS, _rows(owner, batch, count).where(batch.c.is_kept), include_defaults=False
    )
    names = ("role", "content", "timestamp", "metadata", "payload", "write_order")
    kept = kept.on_conflict_do_update(
        index_elements=[ChatMessageRecord.message_id], set_={name: kept.excluded[name] for name in names}
    )
    added = postgresql.insert(ChatMessageRecord).from_select(
        COMPLETE_MESSAGE_FIELDS, _rows(owner, batch, count).where(~batch.c.is_kept), include_defaults=False
    )
    return (
        select(
            seen.c.version,
            and_(or_(any_row(batch), any_row(own)), ~any_row(taken)).label("chosen"),
            any_row(owner).label("written"),
            any_row(taken).label("is_taken"),
        )
        .select_from(seen)
        .add_cte(gone.cte("gone"), kept.cte("kept"), added.cte("added"))
    )


def _rows(owner: Any, batch: Any, count: Any) -> Any:
    """Return the rows to store: the last one is written at the session's ``updated_at``."""
    written = owner.c.updated_at - MICROSECOND * (count - batch.c.number)
    microseconds = cast(func.extract("epoch", written) * literal_column("1000000"), BigInteger)
    return select(
        batch.c.message_id,
        owner.c.session_id,
        batch.c.role,
        batch.c.content,
        func.coalesce(batch.c.timestamp, written),
        batch.c.metadata,
        batch.c.payload,
        case((batch.c.timestamp.is_(None), literal_column("0")), else_=microseconds),
    ).select_from(owner.join(batch, literal_column("true")))
