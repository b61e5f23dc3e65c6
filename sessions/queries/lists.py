"""The statements that list, count and choose a user's sessions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Delete, Text, cast, delete, func, literal_column, select, union_all
from sqlalchemy.orm import aliased

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.columns import (
    IS_USERS,
    LIMIT,
    MESSAGE_COLUMNS,
    MESSAGE_ORDER,
    OF_USER,
    SESSION_COLUMNS,
    bind,
    newest_first,
    oldest_first,
    session_columns,
    time,
)
from sessions.queries.metadata import has_values
from sessions.queries.ranges import Ranges
from sessions.queries.times import ONE

__all__ = ["Lists"]

AFTER_ID: Any = bind("after_id", type_=ChatSessionRecord.session_id.type)


def only_id(record: Any) -> tuple[Any, ...]:
    return (record.session_id,)


class Lists:
    """Builds the statements that list sessions.

    ``keys`` is the number of metadata keys with a condition; see `sessions.queries.metadata`.

    Args:
        postgres: Whether the dialect is PostgreSQL's.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres
        self._ranges = Ranges(postgres=postgres)

    def _of_user(
        self, *where: Any, order: Any, limit: Any, keys: int = 0, columns: Any = session_columns
    ) -> Any:
        """Return a range of a user's sessions, in order.

        Args:
            *where: Conditions of the range.
            order: Returns the order, for a record.
            limit: Parameter; None for all.
            keys: Number of metadata keys with a condition.
            columns: Returns the columns, for a record.
        """
        record: Any = ChatSessionRecord
        statement = select(*columns(record)).where(OF_USER, *where)
        if keys and self._postgres:
            # The planner assumes that hardly any row has the values, and would read and sort all rows of the
            # user, also for the first ten. So it gets the range first, and the rest as a filter.
            rows = select(*ChatSessionRecord.__table__.columns).where(OF_USER, *where)
            record = aliased(ChatSessionRecord, self._ranges.ordered(rows, *order(record)).subquery("rows"))
            statement = select(*columns(record))
        conditions = has_values(keys, record.session_metadata, postgres=self._postgres)
        return self._ranges.ordered(statement.where(*conditions), *order(record), limit=limit)

    def _both(self, tied: Any, beyond: Any, *, order: Any, keys: int = 0) -> Any:
        """Return a statement for the rows after a given row, in an order that mixes ASC and DESC.

        A row comparison cannot express that, and an OR would read all rows with the same time. So these are
        two ranges, each in order and up to the limit; PostgreSQL guarantees no order of their union.

        Args:
            tied: The conditions of the rows with the same time as the given row.
            beyond: The condition of the rows with a later time, in this order.
            order: As in `_of_user`.
            keys: As in `_of_user`.
        """
        if self._postgres:
            # Of the same time, only the ids have an order.
            return union_all(
                self._of_user(*tied, order=lambda record: order(record)[1:], limit=LIMIT, keys=keys),
                self._of_user(*beyond, order=order, limit=LIMIT, keys=keys),
            )
        # SQLite has an order for a union only, and reads each part in it.
        conditions = has_values(keys, postgres=False)
        of_user = select(*SESSION_COLUMNS).where(OF_USER, *conditions)
        both = union_all(of_user.where(*tied), of_user.where(*beyond))
        return self._ranges.ordered(both, *order(ChatSessionRecord), limit=LIMIT)

    def offset_page(self) -> Any:
        """Return sessions, newest first, after an offset."""
        of_user = select(*SESSION_COLUMNS).where(OF_USER)
        return self._ranges.ordered(
            of_user, *newest_first(ChatSessionRecord), limit=LIMIT, offset=bind("offset")
        )

    def page(self, after: bool, keys: int = 0) -> Any:
        """Return sessions, newest first; ``after`` is whether they continue after a given one.

        In PostgreSQL, those with the time of the given one come in any order with the others.
        """
        if not after:
            return self._of_user(order=newest_first, limit=LIMIT, keys=keys)
        updated_at, session_id = ChatSessionRecord.updated_at, ChatSessionRecord.session_id
        return self._both(
            (updated_at == time("updated_at"), session_id > AFTER_ID),
            (updated_at < time("updated_at"),),
            order=newest_first,
            keys=keys,
        )

    def previews(self, after: bool, keys: int = 0) -> Any:
        """Return the sessions of `page`, each with the columns of its newest message, or NULLs."""
        page = self.page(after, keys).subquery("page")
        of_message: Any = MESSAGE_COLUMNS
        message_id, *others = of_message
        shown = cast(message_id, Text) if self._postgres else message_id
        columns = [
            shown.label("message_id"),
            *(column.label(f"message_{column.key}") for column in others),
        ]
        downwards = [column.desc() for column in MESSAGE_ORDER]
        is_its = ChatMessageRecord.session_id == page.c.session_id
        if self._postgres:
            newest = self._ranges.ordered(select(*columns).where(is_its), *downwards, limit=ONE)
            newest = newest.lateral("newest")
            return select(page, newest).select_from(page.outerjoin(newest, literal_column("true")))
        # SQLite has no LATERAL.
        newest = self._ranges.ordered(select(message_id).where(is_its), *downwards, limit=ONE)
        newest_id = newest.correlate(page).scalar_subquery()
        return select(page, *columns).select_from(
            page.outerjoin(ChatMessageRecord, ChatMessageRecord.message_id == newest_id)
        )

    def count(self, keys: int = 0) -> Any:
        """Return how many sessions a user has."""
        all_of_user = self._of_user(order=newest_first, limit=None, keys=keys, columns=only_id)
        return select(func.count()).select_from(all_of_user.subquery())

    def export(self, after: bool) -> Any:
        """Return sessions in the order of their last change; ``after`` as in `page`."""
        # In the order of change: a session that changes during the export comes later, instead of never.
        if not after:
            return self._of_user(order=oldest_first, limit=LIMIT)
        updated_at, session_id = ChatSessionRecord.updated_at, ChatSessionRecord.session_id
        return self._both(
            (updated_at == time("updated_at"), session_id < AFTER_ID),
            (updated_at > time("updated_at"),),
            order=oldest_first,
        )

    def delete_older(self, owned: bool, keys: int = 0) -> Delete:
        """Delete up to a limit of the sessions last changed before ``cutoff``, of a user or of all."""
        old = ChatSessionRecord.updated_at < time("cutoff")
        conditions = has_values(keys, postgres=self._postgres)
        if owned:
            chosen = self._of_user(old, order=oldest_first, limit=LIMIT, keys=keys, columns=only_id)
            conditions.append(IS_USERS)
        else:
            chosen = select(ChatSessionRecord.session_id).where(old, *conditions).limit(LIMIT)
        # The conditions twice; see `Writes.delete_batch`.
        return delete(ChatSessionRecord).where(
            self._ranges.among(ChatSessionRecord.session_id, chosen), old, *conditions
        )
