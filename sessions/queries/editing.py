"""PostgreSQL: statements that change messages that are stored, each with its session.

A statement sees the data as of its start, also after it waited for a lock. So each of these chooses the
messages, then updates the session, which serialises all writers of it, on condition that nobody has changed
it since the start; the messages are changed only if that update took place. All messages are what they were
when they were chosen, because every writer updates the session: this release its version, older ones its
``updated_at``.

Each statement returns one row if the user has the session: its version as of the start, whether something was
chosen, whether it is written, and then columns of its own. If it was chosen and is not written, though the
version is the expected one, another writer came first: execute the statement again after `lock_session`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Text,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy import tuple_ as row_of
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.columns import MESSAGE_COLUMNS, MESSAGE_ID, MESSAGE_ORDER, OWNED, bind
from sessions.queries.ranges import Ranges
from sessions.queries.reading import is_of
from sessions.queries.times import ONE, later

__all__ = ["Editing", "any_row", "scalar", "seen_session", "write_session"]


def any_row(table: Any) -> ColumnElement[bool]:
    """Return whether a table expression has a row."""
    return exists(select(literal_column("1")).select_from(table))


def scalar(column: Any) -> Any:
    """Return the only value of a column, or NULL."""
    return select(column).scalar_subquery()


def ids_of(parameter: str) -> Any:
    """Return the ids of a parameter, an array of texts, as an array."""
    # Text: asyncpg asks the server what any other array is, once for each connection.
    texts: Any = func.unnest(bind(parameter, type_=ARRAY(Text())))
    [text_id] = texts.table_valued("id", name="ids").render_derived().c
    return func.array(select(cast(text_id, ChatMessageRecord.message_id.type)).scalar_subquery())


def seen_session() -> Any:
    """Return the owner's session as of the start of the statement."""
    columns = ChatSessionRecord.session_id, ChatSessionRecord.version, ChatSessionRecord.updated_at
    return select(*columns).where(OWNED).cte("seen")


def write_session(seen: Any, *conditions: ColumnElement[bool], steps: Any = ONE) -> Any:
    """Return the update of a session that nobody has changed since the start of the statement.

    Args:
        seen: Result of `seen_session`.
        *conditions: Whether something changes.
        steps: By how many microseconds ``updated_at`` changes at least: one for each message.
    """
    expected = bind("expected_version", type_=BigInteger())
    written = (
        update(ChatSessionRecord)
        .where(
            OWNED,
            ChatSessionRecord.version == scalar(seen.c.version),
            ChatSessionRecord.updated_at == scalar(seen.c.updated_at),
            ChatSessionRecord.version == func.coalesce(expected, ChatSessionRecord.version),
            *conditions,
        )
        .values(
            {
                ChatSessionRecord.version: ChatSessionRecord.version + ONE,
                ChatSessionRecord.updated_at: later(steps, postgres=True),
            }
        )
        .returning(ChatSessionRecord.session_id, ChatSessionRecord.updated_at)
    )
    return written.cte("owner")


class Editing:
    """Builds the statements that change messages."""

    def __init__(self) -> None:
        self._ranges = Ranges(postgres=True)
        message_id, *others = MESSAGE_COLUMNS
        self._columns = (cast(message_id, Text).label("message_id"), *others)

    def lock_session(self) -> Any:
        """Lock the owner's session until the end of the transaction."""
        return select(ChatSessionRecord.session_id).where(OWNED).with_for_update(key_share=True)

    def _messages(self, seen: Any, *conditions: ColumnElement[bool]) -> Any:
        is_its = ChatMessageRecord.session_id == scalar(seen.c.session_id)
        return select(ChatMessageRecord.message_id).where(is_its, *conditions)

    def _delete(self, seen: Any, chosen: Any, *extra: Any) -> Any:
        """Return a statement that deletes the chosen messages; then how many, then extra columns."""
        owner = write_session(seen, any_row(chosen))
        gone = self._gone(owner, chosen).returning(literal_column("1").label("one")).cte("gone")
        return select(
            seen.c.version,
            any_row(chosen).label("chosen"),
            any_row(owner).label("written"),
            select(func.count()).select_from(gone).scalar_subquery().label("deleted"),
            *extra,
        ).select_from(seen)

    def _gone(self, owner: Any, chosen: Any) -> Any:
        # The session comes first, so that it is locked before its messages.
        ids = select(chosen.c.message_id).select_from(owner.join(chosen, literal_column("true")))
        return delete(ChatMessageRecord).where(self._ranges.among(ChatMessageRecord.message_id, ids))

    def clear_messages(self) -> Any:
        """Delete all messages of a session."""
        seen = seen_session()
        chosen = self._ranges.ordered(self._messages(seen), *MESSAGE_ORDER).cte("chosen")
        return self._delete(seen, chosen)

    def delete_messages(self) -> Any:
        """Delete the messages of a session that have one of the ids of an array."""
        seen = seen_session()
        chosen = select(ChatMessageRecord.message_id).where(
            ChatMessageRecord.message_id == func.any(ids_of("message_ids")),
            is_of(scalar(seen.c.session_id), postgres=True),
        )
        return self._delete(seen, chosen.cte("chosen"))

    def delete_messages_from(self, inclusive: bool) -> Any:
        """Delete the messages after one; the last column tells whether the session has that one."""
        seen = seen_session()
        columns = ChatMessageRecord.timestamp, ChatMessageRecord.write_order
        is_its = is_of(scalar(seen.c.session_id), postgres=True)
        anchor = select(*columns).where(ChatMessageRecord.message_id == MESSAGE_ID, is_its).cte("anchor")
        place = row_of(scalar(anchor.c.timestamp), scalar(anchor.c.write_order), MESSAGE_ID)
        order = row_of(*MESSAGE_ORDER)
        chosen = self._messages(seen, order >= place if inclusive else order > place)
        return self._delete(
            seen,
            self._ranges.ordered(chosen, *MESSAGE_ORDER).cte("chosen"),
            any_row(anchor).label("has_message"),
        )

    def pop_message(self) -> Any:
        """Delete the newest message of a session; then its columns, or NULLs."""
        seen = seen_session()
        newest_first = (column.desc() for column in MESSAGE_ORDER)
        chosen = self._ranges.ordered(self._messages(seen), *newest_first, limit=literal_column("1"))
        chosen = chosen.cte("chosen")
        owner = write_session(seen, any_row(chosen))
        gone = self._gone(owner, chosen).returning(*self._columns).cte("gone")
        return select(
            seen.c.version, any_row(chosen).label("chosen"), any_row(gone).label("written"), *gone.c
        ).select_from(seen.outerjoin(gone, literal_column("true")))

    def update_message(self) -> Any:
        """Change a message; the last column tells whether the session has it.

        A parameter that is NULL keeps the old value; the payload is kept unless ``set_payload`` is true.
        """
        seen = seen_session()
        metadata = ChatMessageRecord.message_metadata
        replaced = func.coalesce(cast(bind("metadata", type_=Text()), JSONB), metadata, type_=JSONB())
        merged = replaced.concat(
            cast(func.coalesce(bind("merge", type_=Text()), literal_column("'{}'")), JSONB)
        )
        new = (
            func.coalesce(bind("content", type_=Text()), ChatMessageRecord.content).label("content"),
            merged.label("metadata"),
            case(
                (bind("set_payload", type_=Boolean()), bind("payload", type_=Text())),
                else_=ChatMessageRecord.payload,
            ).label("payload"),
        )
        content, new_metadata, payload = (column.element for column in new)
        # The metadata as text: for JSONB, 1 and 1.0 are the same number.
        differs = or_(
            content != ChatMessageRecord.content,
            cast(new_metadata, Text) != cast(metadata, Text),
            payload.is_distinct_from(ChatMessageRecord.payload),
        ).label("differs")
        is_its = is_of(scalar(seen.c.session_id), postgres=True)
        is_target = ChatMessageRecord.message_id == MESSAGE_ID
        target: Any = (
            select(ChatMessageRecord.message_id, *new, differs).where(is_target, is_its).cte("target")
        )
        chosen = select(target).where(target.c.differs).cte("chosen")
        owner = write_session(seen, any_row(chosen))
        ids = select(chosen.c.message_id).select_from(owner.join(chosen, literal_column("true")))
        changed = (
            update(ChatMessageRecord)
            .where(self._ranges.among(ChatMessageRecord.message_id, ids))
            .values(
                {
                    ChatMessageRecord.content: scalar(chosen.c.content),
                    metadata: scalar(chosen.c.metadata),
                    ChatMessageRecord.payload: scalar(chosen.c.payload),
                }
            )
            .returning(literal_column("1").label("one"))
            .cte("changed")
        )
        return select(
            seen.c.version,
            any_row(chosen).label("chosen"),
            any_row(changed).label("written"),
            any_row(target).label("has_message"),
        ).select_from(seen)
