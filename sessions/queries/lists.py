"""The statements that list, count and choose a user's sessions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Delete, Text, cast, func, literal_column, select

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.columns import (
    LIMIT,
    MESSAGE_COLUMNS,
    MESSAGE_ORDER,
    NEWEST_FIRST,
    OF_USER,
    OLDEST_FIRST,
    SESSION_COLUMNS,
    bind,
    time,
)
from sessions.queries.metadata import has_values
from sessions.queries.ranges import Ranges
from sessions.queries.times import ONE
from sessions.queries.writes import Writes

__all__ = ["Lists"]

AFTER_ID: Any = bind("after_id", type_=ChatSessionRecord.session_id.type)


class Lists:
    """Builds the statements that list sessions.

    ``keys`` is the number of metadata keys with a condition; see `sessions.queries.metadata`.

    Args:
        postgres: Whether the dialect is PostgreSQL's.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres
        self._ranges = Ranges(postgres=postgres)

    def _of_user(self, keys: int, *columns: Any) -> Any:
        conditions = has_values(keys, postgres=self._postgres)
        return select(*(columns or SESSION_COLUMNS)).where(OF_USER, *conditions)

    def offset_page(self) -> Any:
        """Return sessions, newest first, after an offset."""
        return self._ranges.ordered(self._of_user(0), *NEWEST_FIRST, limit=LIMIT, offset=bind("offset"))

    def page(self, after: bool, keys: int = 0) -> Any:
        """Return sessions, newest first; ``after`` is whether they continue after a given one.

        In PostgreSQL, those with the time of the given one come in any order with the others.
        """
        of_user = self._of_user(keys)
        if not after:
            return self._ranges.ordered(of_user, *NEWEST_FIRST, limit=LIMIT)
        return self._ranges.both(
            of_user.where(
                ChatSessionRecord.updated_at == time("updated_at"), ChatSessionRecord.session_id > AFTER_ID
            ),
            of_user.where(ChatSessionRecord.updated_at < time("updated_at")),
            *NEWEST_FIRST,
            limit=LIMIT,
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
        newest_first = [column.desc() for column in MESSAGE_ORDER]
        is_its = ChatMessageRecord.session_id == page.c.session_id
        if self._postgres:
            newest = self._ranges.ordered(select(*columns).where(is_its), *newest_first, limit=ONE)
            newest = newest.lateral("newest")
            return select(page, newest).select_from(page.outerjoin(newest, literal_column("true")))
        # SQLite has no LATERAL.
        newest = self._ranges.ordered(select(message_id).where(is_its), *newest_first, limit=ONE)
        newest_id = newest.correlate(page).scalar_subquery()
        return select(page, *columns).select_from(
            page.outerjoin(ChatMessageRecord, ChatMessageRecord.message_id == newest_id)
        )

    def count(self, keys: int = 0) -> Any:
        """Return how many sessions a user has."""
        all_of_user = self._ranges.ordered(self._of_user(keys, ChatSessionRecord.session_id), *NEWEST_FIRST)
        return select(func.count()).select_from(all_of_user.subquery())

    def export(self, after: bool) -> Any:
        """Return sessions in the order of their last change; ``after`` as in `page`."""
        # In the order of change: a session that changes during the export comes later, instead of never.
        of_user = self._of_user(0)
        if not after:
            return self._ranges.ordered(of_user, *OLDEST_FIRST, limit=LIMIT)
        return self._ranges.both(
            of_user.where(
                ChatSessionRecord.updated_at == time("updated_at"), ChatSessionRecord.session_id < AFTER_ID
            ),
            of_user.where(ChatSessionRecord.updated_at > time("updated_at")),
            *OLDEST_FIRST,
            limit=LIMIT,
        )

    def delete_older(self, owned: bool, keys: int = 0) -> Delete:
        """Delete up to a limit of the sessions last changed before ``cutoff``, of a user or of all."""
        old = ChatSessionRecord.updated_at < time("cutoff")
        conditions = has_values(keys, postgres=self._postgres)
        return Writes(postgres=self._postgres).delete_batch(old, *conditions, of_user=owned)
