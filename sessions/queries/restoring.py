"""The statements that restore sessions with their messages, built once for each dialect."""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import (
    BigInteger,
    Insert,
    Text,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime
from sessions.queries.columns import bind

__all__ = ["RestoringStatements", "restoring_for"]

ONE: Any = literal_column("1")
ID: Any = ChatMessageRecord.message_id.type
SESSION_ARRAYS = (
    "session_ids",
    "titles",
    "user_ids",
    "created",
    "updated",
    "session_metadata",
    "versions",
)
MESSAGE_ARRAYS = (
    "owner_ids",
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
def restoring_for(dialect: str) -> RestoringStatements:
    """Return the statements for ``"postgresql"`` or ``"sqlite"``."""
    return RestoringStatements(dialect)


class RestoringStatements:
    """The statements of one dialect. Parameters are named like the arguments they carry."""

    def __init__(self, dialect: str) -> None:
        if dialect == "postgresql":
            # Keyed by whether they leave sessions that exist as they are.
            self.restore = {only_new: self._restore(only_new) for only_new in (False, True)}
        else:
            self.find_sessions = self._find(ChatSessionRecord.session_id, ChatSessionRecord.user_id)
            self.find_messages = self._find(ChatMessageRecord.message_id, ChatMessageRecord.session_id)
            keys: Any = func.json_each(bind("keys", Text())).table_valued("value")
            self.delete_leftovers = delete(ChatMessageRecord).where(
                ChatMessageRecord.session_id.in_(select(keys.c.value))
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

    def _restore(self, only_new: bool) -> Any:
        """PostgreSQL: store sessions and messages of arrays of one length each.

        Returns the ids of the stored sessions, each with its messages, and whether another session has one of
        the messages; then nothing is stored. A message that another transaction stores meanwhile is a
        duplicate key.
        """
        of_sessions = _unnested(SESSION_ARRAYS, "sessions")
        batch = _unnested(MESSAGE_ARRAYS, "batch")
        given = select(
            cast(batch.c.owner_ids, ID).label("session_id"),
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
        of_others = select(ONE).select_from(found.join(given, found.c.message_id == given.c.message_id))
        taken = exists(of_others.where(found.c.session_id != given.c.session_id))
        values = select(
            cast(of_sessions.c.session_ids, ID),
            of_sessions.c.titles,
            of_sessions.c.user_ids,
            cast(of_sessions.c.created, UtcDateTime()),
            cast(of_sessions.c.updated, UtcDateTime()),
            cast(of_sessions.c.session_metadata, JSONB),
            cast(of_sessions.c.versions, BigInteger),
        ).where(~taken)
        insert = postgresql.insert(ChatSessionRecord).from_select(
            RESTORED_SESSION_FIELDS, values, include_defaults=False
        )
        resolved = insert.on_conflict_do_nothing() if only_new else self._replacing(insert)
        owner = resolved.returning(ChatSessionRecord.session_id).cte("owner")
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
                old.session_id == given.c.session_id,
                given.c.session_id == owner.c.session_id,
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
                    given.c.session_id,
                    given.c.role,
                    given.c.content,
                    given.c.timestamp,
                    given.c.metadata,
                    given.c.payload,
                    given.c.write_order,
                )
                .select_from(given.join(owner, given.c.session_id == owner.c.session_id))
                .where(is_new),
                include_defaults=False,
            )
            .cte("stored")
        )
        texts = func.array(select(cast(owner.c.session_id, Text)).scalar_subquery(), type_=ARRAY(Text()))
        # Of a session that is new no message is stored.
        writes = (stored,) if only_new else (changed, stored)
        return select(texts.label("stored"), taken.label("is_taken")).add_cte(*writes)

    # -- SQLite --------------------------------------------------------------------------------------

    def _replacing_messages(self) -> Insert:
        """SQLite: store a message, or replace that of the same session."""
        insert = sqlite.insert(ChatMessageRecord).values(_parameters_of(STORED_FIELDS))
        new = insert.excluded
        replaced = {name: new[name] for name in ("role", "content", "timestamp", "metadata", "payload")}
        return insert.on_conflict_do_update(
            index_elements=[ChatMessageRecord.message_id],
            set_=replaced | {"write_order": _write_order(new.timestamp, new.write_order)},
            where=ChatMessageRecord.session_id == new.session_id,
        )

    @functools.lru_cache(maxsize=64)  # noqa: B019 - there is one object for each dialect.
    def restore_sessions(self, count: int) -> str:
        """SQLite: the SQL that stores so many sessions, or replaces those of the same users.

        Its parameters are the values of `RESTORED_SESSION_FIELDS`, row by row, as SQLite stores them.
        """
        insert = sqlite.insert(ChatSessionRecord).values(_parameters_of(RESTORED_SESSION_FIELDS))
        return _of_rows(self._replacing(insert), RESTORED_SESSION_FIELDS, count)

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def restore_messages(self, count: int) -> str:
        """SQLite: the SQL that stores so many messages, or replaces those of the same sessions.

        Its parameters are the values of `STORED_FIELDS`, row by row, as SQLite stores them.
        """
        return _of_rows(self._replacing_messages(), STORED_FIELDS, count)

    @staticmethod
    def _find(key: Any, owner: Any) -> Any:
        """SQLite: select the keys that are stored, of a JSON array of them, and their owners."""
        keys: Any = func.json_each(bind("keys", Text())).table_valued("value")
        stored = [type_coerce(column, Text()) for column in (key, owner)]
        return select(*stored).where(key.in_(select(keys.c.value)))


def _parameters_of(fields: tuple[Any, ...]) -> dict[Any, Any]:
    return {field: bind(field.key, Text()) for field in fields}


def _of_rows(statement: Insert, fields: tuple[Any, ...], count: int) -> str:
    """Return the SQL of an insert of one row, for so many rows.

    One statement is one call into SQLite: a statement for each row would acquire the interpreter lock for
    each, and wait for it while other threads run.
    """
    compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
    row = f"({', '.join('?' * len(fields))})"
    assert compiled.positiontup == [f"p_{field.key}" for field in fields]
    before, after = str(compiled).split(row)
    return before + ", ".join([row] * count) + after


def _unnested(names: tuple[str, ...], name: str) -> Any:
    arrays: Any = func.unnest(*(bind(array, ARRAY(Text())) for array in names))
    return arrays.table_valued(*names, name=name).render_derived()


def _write_order(timestamp: Any, write_order: Any) -> Any:
    """Return the write order of a message that is replaced: the old one, if its timestamp stays."""
    stays = ChatMessageRecord.timestamp == timestamp
    return case((stays, ChatMessageRecord.write_order), else_=write_order)
