"""The statements that write, each for one dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Delete,
    Executable,
    Select,
    SQLColumnExpression,
    Text,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert, Update

from sessions.models.records import ChatSessionRecord
from sessions.queries.appends import insert_batch
from sessions.queries.columns import (
    IS_USERS,
    LIMIT,
    NEWEST_FIRST,
    OF_USER,
    OLDEST_FIRST,
    OWNED,
    SESSION_FIELDS,
    SESSION_ID,
    USER_ID,
    bind,
    optional,
    time,
)
from sessions.queries.metadata import changed_metadata, json_parameter
from sessions.queries.ranges import Ranges
from sessions.queries.times import ONE, later

__all__ = ["Writes"]


class Writes:
    """Builds the statements that write.

    Args:
        postgres: Whether the dialect is PostgreSQL's.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres
        self._ranges = Ranges(postgres=postgres)

    def insert_session(self) -> Insert:
        """Store a session unless its id is taken."""
        # DO NOTHING on conflict: the repository checks whether the row is from an earlier attempt.
        insert: Any = postgresql.insert if self._postgres else sqlite.insert
        statement: Insert = (
            insert(ChatSessionRecord)
            .values(
                {
                    ChatSessionRecord.session_id: SESSION_ID,
                    ChatSessionRecord.title: bind("title"),
                    ChatSessionRecord.user_id: USER_ID,
                    ChatSessionRecord.created_at: time("now"),
                    ChatSessionRecord.updated_at: time("updated_at"),
                    ChatSessionRecord.session_metadata: json_parameter("metadata", postgres=self._postgres),
                }
            )
            .on_conflict_do_nothing(index_elements=[ChatSessionRecord.session_id])
        )
        return statement

    def insert_session_with_messages(self) -> Select[Any]:
        """PostgreSQL: store a session with messages of arrays of one length; no row if its id is taken."""
        owner = self.insert_session().returning(ChatSessionRecord.session_id, ChatSessionRecord.updated_at)
        stored = owner.cte("owner")
        return select(stored.c.session_id).add_cte(insert_batch(stored, complete=True).cte("stored"))

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
            json_parameter("metadata", postgres=self._postgres),
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

    def update_session(self, owned: bool) -> Update:
        """Change a session's title or metadata, and its version if they differ from the old ones.

        Parameters that are NULL change nothing, and expect nothing. ``touch`` is whether ``updated_at``
        changes with the version.
        """
        session = OWNED if owned else ChatSessionRecord.session_id == SESSION_ID
        title_type, old_metadata = ChatSessionRecord.title.type, ChatSessionRecord.session_metadata
        title = func.coalesce(bind("title", type_=title_type), ChatSessionRecord.title)
        metadata = changed_metadata(postgres=self._postgres)
        if_title = optional("if_title", title_type)
        expected = optional("expected_version", BigInteger())
        # As text: for JSONB, 1 and 1.0 are equal.
        new_text = cast(metadata, Text) if self._postgres else metadata
        differs = or_(title != ChatSessionRecord.title, new_text.is_distinct_from(cast(old_metadata, Text)))
        return (
            update(ChatSessionRecord)
            .where(
                session,
                ChatSessionRecord.title == func.coalesce(if_title, ChatSessionRecord.title),
                ChatSessionRecord.version == func.coalesce(expected, ChatSessionRecord.version),
            )
            .values(
                {
                    ChatSessionRecord.title: title,
                    old_metadata: metadata,
                    ChatSessionRecord.version: ChatSessionRecord.version
                    + case((differs, ONE), else_=literal_column("0")),
                    ChatSessionRecord.updated_at: case(
                        (and_(differs, optional("touch", Boolean(), True)), later(postgres=self._postgres)),
                        else_=ChatSessionRecord.updated_at,
                    ),
                }
            )
        )

    def delete_session(self) -> Delete:
        """Delete a session with its messages; ``expected_version`` that is NULL expects nothing."""
        expected = optional("expected_version", BigInteger())
        version = ChatSessionRecord.version
        return delete(ChatSessionRecord).where(OWNED, version == func.coalesce(expected, version))

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
