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
    cast,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.appends import Appends
from sessions.queries.columns import (
    OWNED,
    SESSION_COLUMNS,
    SESSION_ID,
    bind,
    listed_ids,
)
from sessions.queries.edits import PostgresEdits, SqliteEdits
from sessions.queries.grouped import append_to_many
from sessions.queries.lists import Lists
from sessions.queries.ranges import Ranges
from sessions.queries.reading import MessageReads
from sessions.queries.searching import Searches
from sessions.queries.sqlite_appends import insert_message, touch_sessions
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
        self._ranges = Ranges(postgres=self._postgres)
        writes, appends = Writes(postgres=self._postgres), Appends(postgres=self._postgres)
        reads = MessageReads(postgres=self._postgres)
        lists, searches = Lists(postgres=self._postgres), Searches(postgres=self._postgres)
        # Called with whether the page continues after a session, and the number of metadata keys with a
        # condition; see `has_values`.
        self.list_where = functools.cache(lists.page)
        self.list_previews = functools.cache(lists.previews)
        # Called with the number of keys; `delete_older_where` before that with whether the owner is given.
        self.count_where = functools.cache(lists.count)
        self.delete_older_where = functools.cache(lists.delete_older)
        self.create_session = writes.insert_session()
        self.get_session = select(*SESSION_COLUMNS).where(OWNED)
        self.update_session, self.update_any_session = (
            writes.update_session(owned) for owned in (True, False)
        )
        self.delete_session = writes.delete_session()
        self.list_page = lists.offset_page()
        self.list_first, self.list_after = lists.page(after=False), lists.page(after=True)
        self.count_sessions = lists.count()
        self.ensure_session = writes.ensure_session()
        self.find_owner = select(ChatSessionRecord.user_id, ChatSessionRecord.created_at).where(
            ChatSessionRecord.session_id == SESSION_ID
        )
        # Keyed by whether the owner is given.
        self.session_state = {owned: self._session_state(owned) for owned in (False, True)}
        self.find_stored = {owned: appends.find_stored(owned) for owned in (False, True)}
        if self._postgres:
            self.create_session_with_messages = writes.insert_session_with_messages()
            self.add_message = {owned: appends.add_message(owned) for owned in (False, True)}
            self.add_messages = {
                owned: appends.add_messages(owned, complete=False) for owned in (False, True)
            }
            self.add_complete_messages = {
                owned: appends.add_messages(owned, complete=True) for owned in (False, True)
            }
            # Keyed by whether messages may have a timestamp, metadata and a payload.
            self.append_to_many = {complete: append_to_many(complete=complete) for complete in (False, True)}
            self.postgres_edits = PostgresEdits()
        else:
            # Keyed by whether the owner is given, and by whether more than the time may change.
            self.touch_session = {
                (owned, complete): appends.touch_session(owned, complete=complete)
                for owned, complete in itertools.product((False, True), repeat=2)
            }
            # Keyed by whether each of them gets as much.
            self.touch_sessions = {equally: touch_sessions(equally=equally) for equally in (False, True)}
            self.insert_message = insert_message()
            self.sqlite_edits = SqliteEdits()
        self.find_messages = self._find_messages()
        # Keyed by whether there is a limit and whether there is a message to stop before.
        self.history = {key: reads.history(*key) for key in itertools.product((False, True), repeat=2)}
        # Keyed by whether there is a limit.
        self.payloads = {limited: reads.payloads(limited) for limited in (False, True)}
        self.history_after = {limited: reads.history_after(limited) for limited in (False, True)}
        self.history_since = {limited: reads.history_since(limited) for limited in (False, True)}
        self.lacks_message = reads.lacks_message()
        self.get_message = reads.get_message()
        self.count_messages = reads.count_messages()
        # Keyed by whether in one session and whether after a hit.
        self.search = {key: searches.search(*key) for key in itertools.product((False, True), repeat=2)}
        self.keep_latest = writes.delete_beyond()
        self.delete_user = writes.delete_batch(of_user=True)
        # Keyed by whether the owner is given.
        self.delete_older = {owned: lists.delete_older(owned) for owned in (True, False)}
        # Keyed by whether they continue after one that was read before.
        self.export_sessions = {after: lists.export(after) for after in (False, True)}
        self.export_messages = {after: reads.export_messages(after) for after in (False, True)}

    def _session_state(self, owned: bool) -> Any:
        """Return a session's title, metadata and version."""
        where = OWNED if owned else ChatSessionRecord.session_id == SESSION_ID
        metadata = cast(ChatSessionRecord.session_metadata, Text).label("metadata")
        return select(ChatSessionRecord.title, metadata, ChatSessionRecord.version).where(where)

    def _find_messages(self) -> Any:
        """Return the messages stored under some ids, of any user."""
        ids: Any
        if self._postgres:
            texts: Any = func.unnest(bind("message_ids", type_=ARRAY(Text())))
            [text_id] = texts.table_valued("id", name="batch").render_derived().c
            ids = select(cast(text_id, ChatMessageRecord.message_id.type))
        else:
            ids = listed_ids("message_ids")
        columns = (
            ChatMessageRecord.message_id,
            ChatMessageRecord.session_id,
            ChatMessageRecord.role,
            ChatMessageRecord.content,
        )
        return select(*columns).where(ChatMessageRecord.message_id.in_(ids))
