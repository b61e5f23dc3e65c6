"""The statements that append messages to a session."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal_column,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.dml import Update

from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime
from sessions.queries.columns import (
    COMPLETE_MESSAGE_FIELDS,
    MESSAGE_FIELDS,
    OWNED,
    SESSION_ID,
    bind,
    listed_ids,
    optional,
    time,
)
from sessions.queries.metadata import changed_metadata
from sessions.queries.times import MICROSECOND, ONE, later

__all__ = ["Appends", "complete_columns", "insert_batch"]

PLAIN = ("message_ids", "roles", "contents")
COMPLETE = (*PLAIN, "timestamps", "metadata_texts", "payloads")


def message_array(name: str) -> Any:
    """Return a parameter with an array of texts, one for each message."""
    # All of them text: asyncpg asks the server what any other array is, once for each connection.
    return bind(name, type_=ARRAY(Text()))


def insert_batch(owner: Any, *, complete: bool) -> Any:
    """PostgreSQL: insert the messages of arrays of one length, the last at the session's ``updated_at``.

    Args:
        owner: The session to append to: a CTE with its ``session_id`` and its new ``updated_at``.
        complete: Whether there are arrays of timestamps, metadata and payloads.
    """
    names = COMPLETE if complete else PLAIN
    arrays: Any = func.unnest(*map(message_array, names))
    batch = arrays.table_valued(*names, with_ordinality="place", name="batch").render_derived()
    # The order of a batch does not rest on ids.
    written = owner.c.updated_at - MICROSECOND * (number_of_messages() - batch.c.place)
    columns = [
        cast(batch.c.message_ids, ChatMessageRecord.message_id.type),
        owner.c.session_id,
        batch.c.roles,
        batch.c.contents,
    ]
    if complete:
        columns += complete_columns(batch, written)
    else:
        columns.append(written)
    return postgresql.insert(ChatMessageRecord).from_select(
        COMPLETE_MESSAGE_FIELDS if complete else MESSAGE_FIELDS,
        select(*columns).select_from(owner.join(batch, literal_column("true"))),
        include_defaults=False,
    )


def complete_columns(batch: Any, written: Any) -> list[Any]:
    """PostgreSQL: return the columns of a batch from the timestamp on.

    Args:
        batch: With its timestamps, metadata and payloads.
        written: When its messages are written.
    """
    given = cast(batch.c.timestamps, UtcDateTime())
    microseconds = cast(func.extract("epoch", written) * literal_column("1000000"), BigInteger)
    return [
        func.coalesce(given, written),
        func.coalesce(cast(batch.c.metadata_texts, JSONB), cast(literal_column("'{}'"), JSONB)),
        batch.c.payloads,
        case((given.is_(None), literal_column("0")), else_=microseconds),
    ]


def number_of_messages() -> Any:
    """PostgreSQL: return the length of the arrays."""
    return func.cardinality(message_array("message_ids"))


class Appends:
    """Builds the statements that append messages.

    Args:
        postgres: Whether the dialect is PostgreSQL's.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres

    def _session(self, owned: bool) -> Any:
        return OWNED if owned else ChatSessionRecord.session_id == SESSION_ID

    def _write_session(self, owned: bool, steps: Any, *, extended: bool) -> Any:
        """Bump a session."""
        where, values = (
            self._session(owned),
            {
                ChatSessionRecord.updated_at: later(steps, time("first"), postgres=self._postgres),
                ChatSessionRecord.version: ChatSessionRecord.version + ONE,
            },
        )
        if extended:
            expected = optional("expected_version", BigInteger())
            where = and_(
                where, ChatSessionRecord.version == func.coalesce(expected, ChatSessionRecord.version)
            )
            values[ChatSessionRecord.session_metadata] = changed_metadata(postgres=self._postgres)
        return update(ChatSessionRecord).where(where).values(values)

    def _owner(self, owned: bool, steps: Any, *, extended: bool) -> Any:
        """Bump a session, and return its id and its new ``updated_at``; no row if it does not exist."""
        statement = self._write_session(owned, steps, extended=extended)
        returned = ChatSessionRecord.session_id, ChatSessionRecord.updated_at
        return statement.returning(*returned).cte("owner")

    def add_message(self, owned: bool) -> Select[Any]:
        """PostgreSQL: bump the session and append to it in one statement; no row if it does not exist."""
        owner = self._owner(owned, ONE, extended=False)
        stored = (
            postgresql.insert(ChatMessageRecord)
            .from_select(
                MESSAGE_FIELDS,
                select(
                    bind("message_id", type_=ChatMessageRecord.message_id.type),
                    owner.c.session_id,
                    bind("role", type_=ChatMessageRecord.role.type),
                    bind("content", type_=ChatMessageRecord.content.type),
                    owner.c.updated_at,
                ),
                include_defaults=False,
            )
            .cte("stored")
        )
        return select(owner.c.session_id).add_cte(stored)

    def add_messages(self, owned: bool, *, complete: bool) -> Select[Any]:
        """PostgreSQL: as `add_message`, for arrays of one length.

        Args:
            owned: Whether the owner is given.
            complete: Whether the messages may have timestamps, metadata and payloads, the session a version
                to expect, and its metadata a change.
        """
        owner = self._owner(owned, number_of_messages(), extended=complete)
        stored = insert_batch(owner, complete=complete)
        return select(owner.c.session_id).add_cte(stored.cte("stored"))

    def touch_session(self, owned: bool, *, complete: bool) -> Update:
        """SQLite: bump a session before the same transaction inserts so many messages as ``steps``.

        Returns the session's new time, as SQLite stores it; no row if it does not exist. The first message is
        written at the time ``first``, the last at the time ``now``, if that is later than the old
        ``updated_at``, or else at the next instants.

        Args:
            owned: Whether the owner is given.
            complete: Whether there may be a version to expect, and new metadata.
        """
        statement = self._write_session(owned, bind("steps", BigInteger()), extended=complete)
        last = type_coerce(ChatSessionRecord.updated_at, Text()).label("updated_at")
        touched: Update = statement.returning(last)
        return touched

    def find_stored(self, owned: bool) -> Any:
        """Return the version of a session, and the messages stored under some ids, of any session.

        No row if the session does not exist; one with NULLs for the message if there is no message.
        """
        ids = bind_ids(postgres=self._postgres)
        its_id = ChatMessageRecord.message_id
        is_one = its_id == func.any(ids) if self._postgres else its_id.in_(ids)
        return (
            select(
                ChatSessionRecord.version,
                its_id,
                ChatMessageRecord.session_id,
                ChatMessageRecord.role,
                ChatMessageRecord.content,
            )
            .select_from(ChatSessionRecord)
            .outerjoin(ChatMessageRecord, is_one)
            .where(self._session(owned))
        )


def bind_ids(*, postgres: bool) -> Any:
    """Return the parameter ``message_ids``: an array in PostgreSQL, a query in SQLite."""
    if postgres:
        return cast(message_array("message_ids"), ARRAY(ChatMessageRecord.message_id.type))
    return listed_ids("message_ids")
