"""The statements that change messages that are stored, built once for each dialect."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Delete,
    Text,
    delete,
    func,
    literal_column,
    select,
    type_coerce,
    update,
)
from sqlalchemy import tuple_ as row_of
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.dml import Update

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.columns import (
    MESSAGE_ID,
    MESSAGE_ORDER,
    OWNED,
    SESSION_ID,
    USER_ID,
    bind,
    listed_ids,
    time,
)
from sessions.queries.editing import Editing
from sessions.queries.forking import copy_messages, fork_session
from sessions.queries.replacing import replace_messages

__all__ = ["PostgresEdits", "SqliteEdits"]

OF_SESSION = ChatMessageRecord.session_id == SESSION_ID


class PostgresEdits:
    """PostgreSQL: one statement for each operation."""

    def __init__(self) -> None:
        editing = Editing()
        self.lock_session = editing.lock_session()
        self.update_message = editing.update_message()
        self.pop_message = editing.pop_message()
        self.delete_messages = editing.delete_messages()
        # Keyed by whether the message itself is deleted, too.
        self.delete_messages_from = {keyed: editing.delete_messages_from(keyed) for keyed in (False, True)}
        self.clear_messages = editing.clear_messages()
        self.replace_messages = replace_messages()
        # Keyed by whether the copy ends with a given message.
        self.fork_session = {through: fork_session(through) for through in (False, True)}


class SqliteEdits:
    """SQLite: statements for one transaction that begins with `read_session`."""

    def __init__(self) -> None:
        self.read_session = select(ChatSessionRecord.version, ChatSessionRecord.updated_at).where(OWNED)
        self.write_session = self._write_session()
        self.update_message = self._update_message()
        # No index contains the expression: SQLite would read all messages of the session for those ids.
        its_id = type_coerce(ChatMessageRecord.session_id, Text()).concat(literal_column("''"))
        self.delete_messages = delete(ChatMessageRecord).where(
            ChatMessageRecord.message_id.in_(listed_ids("message_ids")), its_id == SESSION_ID
        )
        self.find_place = select(ChatMessageRecord.timestamp, ChatMessageRecord.write_order).where(
            ChatMessageRecord.message_id == MESSAGE_ID, OF_SESSION
        )
        place = row_of(time("timestamp"), bind("write_order", type_=BigInteger()), MESSAGE_ID)
        # Keyed by whether the message itself is deleted, too.
        self.delete_messages_from = {
            True: self._delete(row_of(*MESSAGE_ORDER) >= place),
            False: self._delete(row_of(*MESSAGE_ORDER) > place),
        }
        self.clear_messages = self._delete()
        self.insert_copy = self._insert_copy()
        # Keyed by whether the copy ends with a given message.
        self.copy_messages = {through: copy_messages(through) for through in (False, True)}

    def _write_session(self) -> Update:
        values = {
            ChatSessionRecord.version: ChatSessionRecord.version + literal_column("1"),
            ChatSessionRecord.updated_at: time("updated_at"),
        }
        return update(ChatSessionRecord).where(OWNED).values(values)

    def _update_message(self) -> Update:
        values = {
            ChatMessageRecord.content: bind("content", type_=Text()),
            ChatMessageRecord.message_metadata: bind("metadata", type_=Text()),
            ChatMessageRecord.payload: bind("payload", type_=Text()),
        }
        return update(ChatMessageRecord).where(ChatMessageRecord.message_id == MESSAGE_ID).values(values)

    def _delete(self, *conditions: Any) -> Delete:
        return delete(ChatMessageRecord).where(OF_SESSION, *conditions)

    def _insert_copy(self) -> Any:
        values = {
            ChatSessionRecord.session_id: bind("new_id", type_=ChatSessionRecord.session_id.type),
            ChatSessionRecord.title: bind("title", type_=Text()),
            ChatSessionRecord.user_id: USER_ID,
            ChatSessionRecord.created_at: time("now"),
            # Not before the newest message, whose timestamp may be ahead of this host's clock.
            ChatSessionRecord.updated_at: func.max(time("now"), time("updated_at")),
            ChatSessionRecord.session_metadata: bind("metadata", type_=Text()),
        }
        statement = sqlite.insert(ChatSessionRecord).values(values)
        return statement.on_conflict_do_nothing(index_elements=[ChatSessionRecord.session_id])
