"""Statements that read messages. Each reads one range of an index, or looks one message up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Text,
    case,
    cast,
    exists,
    func,
    literal_column,
    select,
)
from sqlalchemy import tuple_ as row_of
from sqlalchemy.orm import aliased

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.columns import (
    LIMIT,
    MESSAGE_COLUMNS,
    MESSAGE_ID,
    MESSAGE_ORDER,
    OWNED,
    SESSION_ID,
    bind,
    time,
)
from sessions.queries.ranges import Ranges

__all__ = ["MessageReads", "is_of"]


def is_of(session_id: Any, *, postgres: bool) -> ColumnElement[bool]:
    """Return the condition that a message, which is looked up by its id, is of a session.

    No index contains the expression on PostgreSQL: without statistics it assumes few messages for a session,
    and would search all of them for the id.
    """
    if postgres:
        its: ColumnElement[bool] = ChatMessageRecord.session_id.is_not_distinct_from(session_id)
        return its
    same: ColumnElement[bool] = ChatMessageRecord.session_id == session_id
    return same


class MessageReads:
    """Builds the statements that read messages.

    Args:
        postgres: Whether the dialect is PostgreSQL's.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres
        self._ranges = Ranges(postgres=postgres)
        message_id, *others = MESSAGE_COLUMNS
        # PostgreSQL makes text of an id faster than Python does.
        shown = cast(message_id, Text).label("message_id") if postgres else message_id
        self.columns = (shown, *others)

    def history(self, limited: bool, before: bool) -> Any:
        """Return a session's messages: all of them oldest first, or the newest first up to a limit."""
        statement = self._of_owner(*self.columns)
        if before:
            statement = statement.where(row_of(*MESSAGE_ORDER) < self._place_of("before"))
        return self._all_or_newest(statement, limited)

    def payloads(self, limited: bool) -> Any:
        """Return messages as `history` does, but of those with a payload nothing else: NULLs."""
        *others, payload = self.columns
        needed = (case((payload.is_(None), column)) for column in others)
        return self._all_or_newest(self._of_owner(*needed, payload), limited)

    def _all_or_newest(self, statement: Any, limited: bool) -> Any:
        if limited:
            newest_first = (column.desc() for column in MESSAGE_ORDER)
            return self._ranges.ordered(statement, *newest_first, limit=LIMIT)
        return self._ranges.ordered(statement, *MESSAGE_ORDER)

    def history_after(self, limited: bool) -> Any:
        """Return the messages after the one with the id ``after``, oldest first."""
        statement = self._of_owner(*self.columns).where(row_of(*MESSAGE_ORDER) > self._place_of("after"))
        return self._ranges.ordered(statement, *MESSAGE_ORDER, limit=LIMIT if limited else None)

    def history_since(self, limited: bool) -> Any:
        """Return the messages with the timestamp ``since`` or a later one, oldest first."""
        statement = self._of_owner(*self.columns).where(ChatMessageRecord.timestamp >= time("since"))
        return self._ranges.ordered(statement, *MESSAGE_ORDER, limit=LIMIT if limited else None)

    def _of_owner(self, *columns: Any) -> Any:
        return select(*columns).where(ChatMessageRecord.session_id == SESSION_ID, self._owned())

    def _owned(self) -> ColumnElement[bool]:
        return exists(select(literal_column("1")).where(OWNED).select_from(ChatSessionRecord))

    def _place_of(self, name: str) -> Any:
        """Return the place of the session's message whose id is a parameter; NULLs if there is none."""
        anchor = aliased(ChatMessageRecord, name="anchor")
        message_id = bind(name, type_=ChatMessageRecord.message_id.type)
        # A scalar for each column: PostgreSQL searches the index only for a row of plain values. The session
        # is no condition, for the reason that `is_of` has: nothing is before or after a NULL.
        at = (
            select(case((anchor.session_id == SESSION_ID, column)))
            .where(anchor.message_id == message_id)
            .scalar_subquery()
            for column in (anchor.timestamp, anchor.write_order)
        )
        return row_of(*at, message_id)

    def lacks_message(self) -> Any:
        """Return a row if the owner has the session, and it has no message with the id ``message_id``."""
        its_session = select(ChatMessageRecord.session_id).where(ChatMessageRecord.message_id == MESSAGE_ID)
        of_another = its_session.scalar_subquery().is_distinct_from(ChatSessionRecord.session_id)
        return select(literal_column("1")).select_from(ChatSessionRecord).where(OWNED, of_another)

    def get_message(self) -> Any:
        """Return one message of the owner's session."""
        is_its = is_of(SESSION_ID, postgres=self._postgres)
        return select(*self.columns).where(ChatMessageRecord.message_id == MESSAGE_ID, is_its, self._owned())

    def count_messages(self) -> Any:
        """Return how many messages the owner's session has."""
        ids = select(ChatMessageRecord.message_id).where(
            ChatMessageRecord.session_id == SESSION_ID, self._owned()
        )
        return select(func.count()).select_from(self._ranges.ordered(ids, *MESSAGE_ORDER).subquery())

    def export_messages(self, after: bool) -> Any:
        """Return messages with their ``write_order`` as the last column, oldest first, after a place."""
        statement = self._of_owner(*self.columns, ChatMessageRecord.write_order)
        if after:
            after_id = bind("after_id", type_=ChatMessageRecord.message_id.type)
            place = row_of(time("timestamp"), bind("write_order", type_=BigInteger()), after_id)
            statement = statement.where(row_of(*MESSAGE_ORDER) > place)
        return self._ranges.ordered(statement, *MESSAGE_ORDER, limit=LIMIT)
