"""The statements that look across users, built once for each dialect."""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import (
    BigInteger,
    Insert,
    Text,
    case,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime
from sessions.queries.columns import LIMIT, SESSION_COLUMNS, SESSION_ID, USER_ID, bind, listed_ids, time
from sessions.queries.ranges import Ranges

__all__ = ["AdministrationStatements", "administration_for"]

ONE: Any = literal_column("1")
ID: Any = ChatMessageRecord.message_id.type
MESSAGE_ARRAYS = (
    "message_ids",
    "roles",
    "contents",
    "timestamps",
    "metadata_texts",
    "payloads",
    "write_orders",
)
STORED_FIELDS = (
    ChatMessageRecord.message_id,
    ChatMessageRecord.session_id,
    ChatMessageRecord.role,
    ChatMessageRecord.content,
    ChatMessageRecord.timestamp,
    ChatMessageRecord.message_metadata,
    ChatMessageRecord.payload,
    ChatMessageRecord.write_order,
)
RESTORED_SESSION_FIELDS = (
    ChatSessionRecord.session_id,
    ChatSessionRecord.title,
    ChatSessionRecord.user_id,
    ChatSessionRecord.created_at,
    ChatSessionRecord.updated_at,
    ChatSessionRecord.session_metadata,
    ChatSessionRecord.version,
)


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
        self.statistics = self._statistics()
        if self._postgres:
            self.restore = self._restore()
        else:
            self.restore_session = self._restore_session()
            self.restore_message = self._restore_message()
            self.find_messages = select(ChatMessageRecord.session_id).where(
                ChatMessageRecord.message_id.in_(listed_ids("message_ids")),
                ChatMessageRecord.session_id != SESSION_ID,
            )

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

    def _statistics(self) -> Any:
        users = select(ChatSessionRecord.user_id).distinct().subquery("users")
        counted_users = select(func.count()).select_from(users).scalar_subquery()
        messages = select(func.count()).select_from(ChatMessageRecord).scalar_subquery()
        return select(
            counted_users.label("users"),
            func.count().label("sessions"),
            messages.label("messages"),
            func.min(ChatSessionRecord.created_at).label("oldest"),
            func.max(ChatSessionRecord.updated_at).label("newest"),
        ).select_from(ChatSessionRecord)

    def _restored_session(self) -> tuple[Any, ...]:
        metadata = bind("metadata", Text())
        return (
            SESSION_ID,
            bind("title", ChatSessionRecord.title.type),
            USER_ID,
            time("created_at"),
            time("updated_at"),
            cast(metadata, JSONB) if self._postgres else metadata,
            bind("version", BigInteger()),
        )

    @staticmethod
    def _replacing(statement: Any) -> Any:
        """Let an insert replace the session of the same user; it writes no row for another user's."""
        replaced = ("title", "created_at", "updated_at", "metadata", "version")
        return statement.on_conflict_do_update(
            index_elements=[ChatSessionRecord.session_id],
            set_={name: statement.excluded[name] for name in replaced},
            where=ChatSessionRecord.user_id == statement.excluded.user_id,
        )

    def _restore(self) -> Any:
        """PostgreSQL: store a session and the messages of arrays of one length.

        Returns whether the session was stored, and whether another session has one of the messages; then
        nothing is stored. A message that another transaction stores meanwhile is a duplicate key.
        """
        arrays: Any = func.unnest(*(bind(name, ARRAY(Text())) for name in MESSAGE_ARRAYS))
        batch = arrays.table_valued(*MESSAGE_ARRAYS, name="batch").render_derived()
        given = select(
            cast(batch.c.message_ids, ID).label("message_id"),
            batch.c.roles.label("role"),
            batch.c.contents.label("content"),
            cast(batch.c.timestamps, UtcDateTime()).label("timestamp"),
            cast(batch.c.metadata_texts, JSONB).label("metadata"),
            batch.c.payloads.label("payload"),
            cast(batch.c.write_orders, BigInteger).label("write_order"),
        ).cte("given")
        ids = cast(bind("message_ids", ARRAY(Text())), ARRAY(ID))
        found = (
            select(ChatMessageRecord.message_id, ChatMessageRecord.session_id)
            .where(ChatMessageRecord.message_id == func.any(ids))
            .cte("found")
        )
        taken = exists(select(ONE).select_from(found).where(found.c.session_id != SESSION_ID))
        insert = postgresql.insert(ChatSessionRecord).from_select(
            RESTORED_SESSION_FIELDS, select(*self._restored_session()).where(~taken), include_defaults=False
        )
        owner = self._replacing(insert).returning(ChatSessionRecord.session_id).cte("owner")
        old = ChatMessageRecord
        pairs = (
            (old.role, given.c.role),
            (old.content, given.c.content),
            (old.timestamp, given.c.timestamp),
            (old.payload, given.c.payload),
            # As text: for JSONB, 1 and 1.0 are equal.
            (cast(old.message_metadata, Text), cast(given.c.metadata, Text)),
        )
        changed = (
            update(ChatMessageRecord)
            .where(
                old.message_id == given.c.message_id,
                old.session_id == owner.c.session_id,
                or_(*(column.is_distinct_from(value) for column, value in pairs)),
            )
            .values(
                {
                    old.role: given.c.role,
                    old.content: given.c.content,
                    old.timestamp: given.c.timestamp,
                    old.message_metadata: given.c.metadata,
                    old.payload: given.c.payload,
                    old.write_order: _write_order(given.c.timestamp, given.c.write_order),
                }
            )
            .returning(old.message_id)
            .cte("changed")
        )
        is_new = ~exists(select(ONE).select_from(found).where(found.c.message_id == given.c.message_id))
        stored = (
            postgresql.insert(ChatMessageRecord)
            .from_select(
                STORED_FIELDS,
                select(
                    given.c.message_id,
                    owner.c.session_id,
                    given.c.role,
                    given.c.content,
                    given.c.timestamp,
                    given.c.metadata,
                    given.c.payload,
                    given.c.write_order,
                )
                .select_from(given.join(owner, literal_column("true")))
                .where(is_new),
                include_defaults=False,
            )
            .cte("stored")
        )
        is_stored = exists(select(ONE).select_from(owner))
        return select(is_stored.label("is_stored"), taken.label("is_taken")).add_cte(changed, stored)

    def _restore_session(self) -> Insert:
        """SQLite: store a session, or replace that of the same user."""
        values = dict(zip(RESTORED_SESSION_FIELDS, self._restored_session(), strict=True))
        statement: Insert = self._replacing(sqlite.insert(ChatSessionRecord).values(values))
        return statement

    def _restore_message(self) -> Insert:
        """SQLite: store a message, or replace that of the same session."""
        values = {
            ChatMessageRecord.message_id: bind("message_id"),
            ChatMessageRecord.session_id: SESSION_ID,
            ChatMessageRecord.role: bind("role"),
            ChatMessageRecord.content: bind("content"),
            ChatMessageRecord.timestamp: time("timestamp"),
            ChatMessageRecord.message_metadata: bind("metadata", Text()),
            ChatMessageRecord.payload: bind("payload"),
            ChatMessageRecord.write_order: bind("write_order"),
        }
        insert = sqlite.insert(ChatMessageRecord).values(values)
        new = insert.excluded
        replaced = {name: new[name] for name in ("role", "content", "timestamp", "metadata", "payload")}
        return insert.on_conflict_do_update(
            index_elements=[ChatMessageRecord.message_id],
            set_=replaced | {"write_order": _write_order(new.timestamp, new.write_order)},
            where=ChatMessageRecord.session_id == new.session_id,
        )


def _write_order(timestamp: Any, write_order: Any) -> Any:
    """Return the write order of a message that is replaced: the old one, if its timestamp stays."""
    stays = ChatMessageRecord.timestamp == timestamp
    return case((stays, ChatMessageRecord.write_order), else_=write_order)
