"""The statements that write, each for one dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Executable,
    Select,
    SQLColumnExpression,
    Text,
    cast,
    delete,
    exists,
    func,
    literal_column,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.dml import Insert, Update

from sessions.models.records import Base, ChatMessageRecord, ChatSessionRecord, UtcDateTime
from sessions.queries.columns import (
    IS_USERS,
    LIMIT,
    MESSAGE_FIELDS,
    NEWEST_FIRST,
    OF_USER,
    OLDEST_FIRST,
    OWNED,
    SESSION_FIELDS,
    SESSION_ID,
    USER_ID,
    bind,
    time,
)
from sessions.queries.ranges import Ranges

__all__ = ["Writes"]


class Writes:
    """Builds the statements that write.

    Args:
        postgres: Whether the dialect is PostgreSQL's.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres
        self._ranges = Ranges(postgres=postgres)

    def _json(self) -> ColumnElement[Any]:
        text = bind("metadata", type_=Text())
        return cast(text, JSONB) if self._postgres else text

    def _insert(self, record: type[Base]) -> Any:
        return postgresql.insert(record) if self._postgres else sqlite.insert(record)

    def insert_session(self) -> Insert:
        """Store a session unless its id is taken."""
        # DO NOTHING on conflict: the repository checks whether the row is from an earlier attempt.
        statement: Insert = (
            self._insert(ChatSessionRecord)
            .values(
                {
                    ChatSessionRecord.session_id: SESSION_ID,
                    ChatSessionRecord.title: bind("title"),
                    ChatSessionRecord.user_id: USER_ID,
                    ChatSessionRecord.created_at: time("now"),
                    ChatSessionRecord.updated_at: time("now"),
                    ChatSessionRecord.session_metadata: self._json(),
                }
            )
            .on_conflict_do_nothing(index_elements=[ChatSessionRecord.session_id])
        )
        return statement

    def ensure_session(self) -> Executable:
        """Return the owner and creation time of the row that exists after the statement.

        No row comes back when another caller's insert won but is not yet visible here: ask again.
        """
        if not self._postgres:
            # SQLite has one writer at a time; the repository asks for the owner in the same transaction.
            return self.insert_session()
        found = (
            select(ChatSessionRecord.user_id, ChatSessionRecord.created_at)
            .where(ChatSessionRecord.session_id == SESSION_ID)
            .cte("found")
        )
        values = select(
            SESSION_ID,
            bind("title", type_=ChatSessionRecord.title.type),
            USER_ID,
            time("now"),
            time("now"),
            self._json(),
        ).where(~exists(select(literal_column("1")).select_from(found)))
        created = (
            postgresql.insert(ChatSessionRecord)
            .from_select(SESSION_FIELDS, values, include_defaults=False)
            .on_conflict_do_nothing(index_elements=[ChatSessionRecord.session_id])
            .returning(ChatSessionRecord.user_id, ChatSessionRecord.created_at)
            .cte("created")
        )
        return union_all(
            select(found.c.user_id, found.c.created_at, literal_column("false").label("is_new")),
            select(created.c.user_id, created.c.created_at, literal_column("true")),
        )

    def _later(self) -> ColumnElement[Any]:
        """Return the new ``updated_at``: now, and in PostgreSQL always later than the old one."""
        if self._postgres:
            next_instant = ChatSessionRecord.updated_at + literal_column("interval '1 microsecond'")
            return func.greatest(next_instant, time("now"), type_=UtcDateTime())
        return func.max(ChatSessionRecord.updated_at, time("now"), type_=UtcDateTime())

    def update_session(self) -> Update:
        """Change a session's title or metadata; a parameter that is NULL keeps the old value."""
        text = bind("metadata", type_=Text())
        metadata: ColumnElement[Any] = (
            func.coalesce(cast(text, JSONB), ChatSessionRecord.session_metadata)
            if self._postgres
            else func.coalesce(text, literal_column("chat_sessions.metadata"))
        )
        return (
            update(ChatSessionRecord)
            .where(OWNED)
            .values(
                {
                    ChatSessionRecord.title: func.coalesce(
                        bind("title", type_=ChatSessionRecord.title.type), ChatSessionRecord.title
                    ),
                    ChatSessionRecord.session_metadata: metadata,
                    ChatSessionRecord.updated_at: self._later(),
                }
            )
        )

    def touch_session(self, with_owner: bool) -> Update:
        """Bump a session and return its id and its new ``updated_at``; no row if it does not exist."""
        where = OWNED if with_owner else ChatSessionRecord.session_id == SESSION_ID
        return (
            update(ChatSessionRecord)
            .where(where)
            .values({ChatSessionRecord.updated_at: self._later()})
            .returning(ChatSessionRecord.session_id, ChatSessionRecord.updated_at)
        )

    def add_message(self, with_owner: bool) -> Select[Any]:
        """PostgreSQL: bump the session and append to it in one statement; no row if it does not exist."""
        owner = self.touch_session(with_owner).cte("owner")
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

    def add_messages(self, with_owner: bool) -> Select[Any]:
        """PostgreSQL: as `add_message`, for arrays of ids, roles and contents of one length."""
        owner = self.touch_session(with_owner).cte("owner")
        # All of them text: asyncpg asks the server what any other array is, once for each connection.
        arrays: Any = func.unnest(
            *(bind(name, type_=ARRAY(Text())) for name in ("message_ids", "roles", "contents"))
        )
        batch = arrays.table_valued("message_id", "role", "content", name="batch").render_derived()
        stored = postgresql.insert(ChatMessageRecord).from_select(
            MESSAGE_FIELDS,
            select(
                cast(batch.c.message_id, ChatMessageRecord.message_id.type),
                owner.c.session_id,
                batch.c.role,
                batch.c.content,
                owner.c.updated_at,
            ).select_from(owner.join(batch, literal_column("true"))),
            include_defaults=False,
        )
        return select(owner.c.session_id).add_cte(stored.cte("stored"))

    def insert_message(self) -> Insert:
        """SQLite: append to a session that the same transaction bumped."""
        statement: Insert = sqlite.insert(ChatMessageRecord).values(
            {
                ChatMessageRecord.message_id: bind("message_id"),
                ChatMessageRecord.session_id: SESSION_ID,
                ChatMessageRecord.role: bind("role"),
                ChatMessageRecord.content: bind("content"),
                ChatMessageRecord.timestamp: time("timestamp"),
            }
        )
        return statement

    def delete_batch(self, *where: ColumnElement[bool], of_user: bool) -> Delete:
        """Delete up to a limit of the sessions that meet the conditions, with their messages."""
        # The conditions twice: PostgreSQL looks again at a row that was written to since it was chosen,
        # and a session that got a message since is no longer old, but it is still its user's.
        chosen = select(ChatSessionRecord.session_id).where(*where)
        if not of_user:
            return delete(ChatSessionRecord).where(
                self._ranges.among(ChatSessionRecord.session_id, chosen.limit(LIMIT)), *where
            )
        chosen = self._ranges.ordered(chosen.where(OF_USER), *OLDEST_FIRST, limit=LIMIT)
        return delete(ChatSessionRecord).where(
            self._ranges.among(ChatSessionRecord.session_id, chosen), IS_USERS, *where
        )

    def delete_beyond(self) -> Delete:
        """Delete up to a limit of a user's sessions that are not among the newest."""

        def beyond(column: SQLColumnExpression[Any], limit: Any) -> Any:
            chosen = select(column).where(OF_USER)
            return self._ranges.ordered(chosen, *NEWEST_FIRST, limit=limit, offset=bind("keep_last_n"))

        chosen = beyond(ChatSessionRecord.session_id, LIMIT)
        newest = beyond(ChatSessionRecord.updated_at, literal_column("1")).scalar_subquery()
        # A session that gets a message between being chosen and being deleted is newer, and stays.
        return delete(ChatSessionRecord).where(
            self._ranges.among(ChatSessionRecord.session_id, chosen), ChatSessionRecord.updated_at <= newest
        )
