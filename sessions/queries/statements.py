"""All statements, built once for each dialect. Repositories only execute them and map the rows.

Every read and write names the owner in the same statement. Times are ordered by the database: a message
takes the new ``updated_at`` of its session, which is later than any before, so that the messages of a
session stand in the order of their commits whatever the clocks of the writing hosts say.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

from sqlalchemy import (
    Text,
    bindparam,
    cast,
    delete,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.columns import (
    LIMIT,
    NEWEST_FIRST,
    OF_USER,
    OLDEST_FIRST,
    OWNED,
    SESSION_COLUMNS,
    SESSION_ID,
    bind,
    time,
)
from sessions.queries.edits import PostgresEdits, SqliteEdits
from sessions.queries.ranges import Ranges
from sessions.queries.reading import MessageReads
from sessions.queries.searching import Searches
from sessions.queries.writes import Writes

__all__ = ["Statements", "statements_for"]


@functools.cache
def statements_for(dialect: str) -> Statements:
    """Return the statements for ``"postgresql"`` or ``"sqlite"``."""
    return Statements(dialect)


class Statements:
    """All statements of one dialect. Parameters are named like the arguments they carry."""

    def __init__(self, dialect: str) -> None:
        self._postgres = dialect == "postgresql"
        self._ranges = ranges = Ranges(postgres=self._postgres)
        writes = Writes(postgres=self._postgres)
        reads = MessageReads(postgres=self._postgres)
        searches = Searches(postgres=self._postgres)
        self.create_session = writes.insert_session()
        self.get_session = select(*SESSION_COLUMNS).where(OWNED)
        self.update_session = writes.update_session()
        self.delete_session = delete(ChatSessionRecord).where(OWNED)
        of_user = select(*SESSION_COLUMNS).where(OF_USER)
        tied = of_user.where(ChatSessionRecord.updated_at == time("updated_at"))
        after_id = bind("after_id", type_=ChatSessionRecord.session_id.type)
        self.list_page = ranges.ordered(of_user, *NEWEST_FIRST, limit=LIMIT, offset=bind("offset"))
        self.list_first = ranges.ordered(of_user, *NEWEST_FIRST, limit=LIMIT)
        self.list_after = ranges.both(
            tied.where(ChatSessionRecord.session_id > after_id),
            of_user.where(ChatSessionRecord.updated_at < time("updated_at")),
            *NEWEST_FIRST,
            limit=LIMIT,
        )
        all_of_user = ranges.ordered(select(ChatSessionRecord.session_id).where(OF_USER), *NEWEST_FIRST)
        self.count_sessions = select(func.count()).select_from(all_of_user.subquery())
        self.ensure_session = writes.ensure_session()
        self.find_owner = select(ChatSessionRecord.user_id, ChatSessionRecord.created_at).where(
            ChatSessionRecord.session_id == SESSION_ID
        )
        # Keyed by whether the owner is given.
        self.touch_session = {owned: writes.touch_session(owned) for owned in (False, True)}
        if self._postgres:
            self.add_message = {owned: writes.add_message(owned) for owned in (False, True)}
            self.add_messages = {owned: writes.add_messages(owned) for owned in (False, True)}
            self.postgres_edits = PostgresEdits()
        else:
            self.insert_message = writes.insert_message()
            self.sqlite_edits = SqliteEdits()
        self.find_messages = self._find_messages()
        # Keyed by whether there is a limit and whether there is a message to stop before.
        self.history = {key: reads.history(*key) for key in itertools.product((False, True), repeat=2)}
        # Keyed by whether there is a limit.
        self.history_after = {limited: reads.history_after(limited) for limited in (False, True)}
        self.history_since = {limited: reads.history_since(limited) for limited in (False, True)}
        self.lacks_message = reads.lacks_message()
        self.get_message = reads.get_message()
        self.count_messages = reads.count_messages()
        # Keyed by whether in one session and whether after a hit.
        self.search = {key: searches.search(*key) for key in itertools.product((False, True), repeat=2)}
        self.keep_latest = writes.delete_beyond()
        self.delete_user = writes.delete_batch(of_user=True)
        old = ChatSessionRecord.updated_at < time("cutoff")
        # Keyed by whether the owner is given.
        self.delete_older = {owned: writes.delete_batch(old, of_user=owned) for owned in (True, False)}
        # Keyed by whether they continue after one that was read before. In the order of change: a session
        # that changes during the export comes later, instead of never.
        self.export_sessions = {
            False: ranges.ordered(of_user, *OLDEST_FIRST, limit=LIMIT),
            True: ranges.both(
                tied.where(ChatSessionRecord.session_id < after_id),
                of_user.where(ChatSessionRecord.updated_at > time("updated_at")),
                *OLDEST_FIRST,
                limit=LIMIT,
            ),
        }
        self.export_messages = {after: reads.export_messages(after) for after in (False, True)}

    def _find_messages(self) -> Any:
        """Return the messages stored under some ids, of any user."""
        ids: Any
        if self._postgres:
            texts: Any = func.unnest(bind("message_ids", type_=ARRAY(Text())))
            [text_id] = texts.table_valued("id", name="batch").render_derived().c
            ids = select(cast(text_id, ChatMessageRecord.message_id.type))
        else:
            ids = bindparam("p_message_ids", expanding=True, type_=ChatMessageRecord.message_id.type)
        columns = (
            ChatMessageRecord.message_id,
            ChatMessageRecord.session_id,
            ChatMessageRecord.role,
            ChatMessageRecord.content,
        )
        return select(*columns).where(ChatMessageRecord.message_id.in_(ids))
