"""The statements that look across users, built once for each dialect."""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import (
    BigInteger,
    Text,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.columns import LIMIT, MESSAGE_COLUMNS, MESSAGE_ORDER, SESSION_COLUMNS, bind
from sessions.queries.ranges import Ranges

__all__ = ["AdministrationStatements", "administration_for"]

ONE: Any = literal_column("1")
ID: Any = ChatMessageRecord.message_id.type


@functools.cache
def administration_for(dialect: str) -> AdministrationStatements:
    """Return the statements for ``"postgresql"`` or ``"sqlite"``."""
    return AdministrationStatements(dialect)


class AdministrationStatements:
    """The statements of one dialect. Parameters are named like the arguments they carry."""

    def __init__(self, dialect: str) -> None:
        self._postgres = dialect == "postgresql"
        self._ranges = Ranges(postgres=self._postgres)
        # Keyed by whether they continue after a user, or a session.
        self.list_users = {after: self._list_users(after) for after in (False, True)}
        self.list_all = {after: self._list_all(after) for after in (False, True)}
        self.export_many = self._export_many()
        self.sizes = self._sizes()

    def _list_users(self, after: bool) -> Any:
        """Return users, each with its place in the order of the index: one look-up in it for each."""
        user_id = ChatSessionRecord.user_id
        first = select(user_id).order_by(user_id).limit(ONE)
        if after:
            first = first.where(user_id > bind("after", user_id.type))
        found = select(first.scalar_subquery().label("user_id"), cast(ONE, BigInteger).label("place")).cte(
            "found", recursive=True
        )
        following = select(user_id).where(user_id > found.c.user_id).order_by(user_id).limit(ONE)
        found = found.union_all(
            select(following.correlate(found).scalar_subquery(), found.c.place + ONE).where(
                found.c.user_id.is_not(None), found.c.place < LIMIT
            )
        )
        return select(found.c.place, found.c.user_id).where(found.c.user_id.is_not(None))

    def _list_all(self, after: bool) -> Any:
        """Return sessions in the order of the primary key."""
        session_id = ChatSessionRecord.session_id
        statement = select(*SESSION_COLUMNS)
        if after:
            statement = statement.where(session_id > bind("after", session_id.type))
        return self._ranges.ordered(statement, session_id, limit=LIMIT)

    def _export_many(self) -> Any:
        """Return messages of sessions, with the owner and the session before `MESSAGE_COLUMNS`."""
        message, session = ChatMessageRecord, ChatSessionRecord
        if self._postgres:
            chosen = message.session_id == func.any(cast(bind("session_ids", ARRAY(Text())), ARRAY(ID)))
        else:
            keys: Any = func.json_each(bind("session_ids", Text())).table_valued("value")
            chosen = message.session_id.in_(select(keys.c.value))
        return (
            select(session.user_id, message.session_id, *MESSAGE_COLUMNS)
            .join_from(message, session, message.session_id == session.session_id)
            .where(chosen)
            .order_by(message.session_id, *MESSAGE_ORDER)
            .limit(LIMIT)
        )

    def _sizes(self) -> Any:
        """Return one row: on PostgreSQL the bytes of each table, and of their indexes; else those of all."""
        if not self._postgres:
            pages: Any = func.pragma_page_count().table_valued("page_count")
            page: Any = func.pragma_page_size().table_valued("page_size")
            count, size = select(pages.c.page_count), select(page.c.page_size)
            return select((count.scalar_subquery() * size.scalar_subquery()).label("database"))
        # No name of a table, to which SQLAlchemy would add the schema of the settings, but the text of one.
        sessions, messages = (func.to_regclass(bind(name, Text())) for name in ("sessions", "messages"))
        return select(
            func.pg_table_size(sessions).label("chat_sessions"),
            func.pg_table_size(messages).label("chat_messages"),
            (func.pg_indexes_size(sessions) + func.pg_indexes_size(messages)).label("indexes"),
        )
