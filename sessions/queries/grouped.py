"""PostgreSQL: one statement that appends the messages of many calls to many sessions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Select, Text, cast, func, literal_column, or_, select, true, update
from sqlalchemy.dialects import postgresql

from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime
from sessions.queries.appends import COMPLETE, PLAIN, complete_columns
from sessions.queries.columns import COMPLETE_MESSAGE_FIELDS, MESSAGE_FIELDS, bind, time
from sessions.queries.times import MICROSECOND, ONE

__all__ = ["append_to_many"]

SESSIONS = ("session_ids", "user_ids", "calls", "steps")
# No value of these is empty: an empty text is NULL.
OPTIONAL = ("user_ids", "timestamps", "metadata_texts", "payloads")


def append_to_many(*, complete: bool) -> Select[Any]:
    """Append messages to several sessions, as if one call after another; return the places of the sessions.

    Each column is a text: its values, separated by ``separator``. The sessions have ids, owners (empty for
    any), how many calls append to them, and how many messages (``steps``). The messages have the place of
    their session, from 1, how many messages of the batch follow them there (``offsets``), ids, and so on. A
    session that does not exist, or has another owner, is not returned.

    All sessions are locked first, in the order of their ids, so that two of these statements never wait for
    each other. The wait for a lock is bounded by ``lock_timeout``, a text such as ``100ms``: a transaction
    that holds one session for long does not hold up the others.

    Args:
        complete: Whether there are timestamps, metadata and payloads.
    """
    columns: Any = func.unnest(*map(_values, SESSIONS))
    target = columns.table_valued(*SESSIONS, with_ordinality="place", name="target").render_derived()
    # Evaluated once, before the first row is locked; it ends with the transaction.
    limit: Any = select(
        func.set_config(literal_column("'lock_timeout'"), bind("lock_timeout", type_=Text()), true())
    )
    locked = (
        select(
            ChatSessionRecord.session_id,
            target.c.place,
            cast(target.c.calls, BigInteger).label("calls"),
            cast(target.c.steps, BigInteger).label("steps"),
        )
        .join_from(
            target,
            ChatSessionRecord,
            ChatSessionRecord.session_id == cast(target.c.session_ids, ChatSessionRecord.session_id.type),
        )
        .where(
            or_(target.c.user_ids.is_(None), ChatSessionRecord.user_id == target.c.user_ids),
            limit.scalar_subquery().is_not(None),
        )
        .order_by(ChatSessionRecord.session_id)
        .with_for_update(key_share=True, of=ChatSessionRecord)
        .cte("locked")
    )
    owner = (
        update(ChatSessionRecord)
        .where(ChatSessionRecord.session_id == locked.c.session_id)
        .values(
            {
                ChatSessionRecord.updated_at: func.greatest(
                    ChatSessionRecord.updated_at + MICROSECOND * locked.c.steps,
                    # The first message is written at this time, or later.
                    time("now") + MICROSECOND * (locked.c.steps - ONE),
                    type_=UtcDateTime(),
                ),
                ChatSessionRecord.version: ChatSessionRecord.version + locked.c.calls,
            }
        )
        .returning(ChatSessionRecord.session_id, ChatSessionRecord.updated_at, locked.c.place)
        .cte("owner")
    )
    stored = _insert(owner, complete=complete).cte("stored")
    return select(owner.c.place).add_cte(stored)


def _values(name: str) -> Any:
    """Return the values of a column as an array of texts."""
    nulls: list[Any] = [literal_column("''")] if name in OPTIONAL else []
    return func.string_to_array(bind(name, type_=Text()), bind("separator", type_=Text()), *nulls)


def _insert(owner: Any, *, complete: bool) -> Any:
    fields = COMPLETE if complete else PLAIN
    names = ("places", "offsets", *fields)
    columns: Any = func.unnest(*map(_values, names))
    batch = columns.table_valued(*names, name="batch").render_derived()
    written = owner.c.updated_at - MICROSECOND * cast(batch.c.offsets, BigInteger)
    selected = [
        cast(batch.c.message_ids, ChatMessageRecord.message_id.type),
        owner.c.session_id,
        batch.c.roles,
        # The values of an empty text are no values, rather than an empty one.
        func.coalesce(batch.c.contents, literal_column("''")),
    ]
    selected += complete_columns(batch, written) if complete else [written]
    return postgresql.insert(ChatMessageRecord).from_select(
        COMPLETE_MESSAGE_FIELDS if complete else MESSAGE_FIELDS,
        select(*selected).select_from(batch.join(owner, owner.c.place == cast(batch.c.places, BigInteger))),
        include_defaults=False,
    )
