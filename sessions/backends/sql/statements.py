"""The SQL statements, built once for each dialect. Repositories only execute them and map the rows.

Every read and write names the owner in the same statement. Times are ordered by the database: a message
takes the new ``updated_at`` of its session, which is later than any before, so that the messages of a
session stand in the order of their commits whatever the clocks of the writing hosts say.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Executable,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.dml import Insert, Update

from sessions.backends.sql.ranges import Ranges
from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime

__all__ = ["Statements", "parameters", "statements_for"]

SESSIONS: Table = ChatSessionRecord.__table__  # type: ignore[assignment]
MESSAGES: Table = ChatMessageRecord.__table__  # type: ignore[assignment]

# The JSON travels as text: what the driver makes of a number must not depend on a service's engine.
SESSION_COLUMNS: tuple[ColumnElement[Any], ...] = (
    SESSIONS.c.session_id,
    SESSIONS.c.title,
    SESSIONS.c.user_id,
    SESSIONS.c.created_at,
    SESSIONS.c.updated_at,
    cast(SESSIONS.c.metadata, Text).label("metadata"),
)
# Without the session's id, which the caller has.
MESSAGE_COLUMNS: tuple[ColumnElement[Any], ...] = (
    MESSAGES.c.message_id,
    MESSAGES.c.role,
    MESSAGES.c.content,
    MESSAGES.c.timestamp,
)


def parameters(**values: Any) -> dict[str, Any]:
    """Return values under the names that the statements' parameters have.

    They carry a prefix because SQLAlchemy reserves the columns' own names in INSERT and UPDATE.
    """
    return {f"p_{name}": value for name, value in values.items()}


def _bind(name: str, type_: Any = None) -> Any:
    return bindparam(f"p_{name}", type_=type_)


_session_id = _bind("session_id", type_=SESSIONS.c.session_id.type)
_user_id = _bind("user_id", type_=SESSIONS.c.user_id.type)
_of_user = SESSIONS.c.user_id == _user_id
# For sessions that are named by their ids. An expression is in no index: PostgreSQL takes a user it has no
# statistics of for a small one, and would look for the session among all of theirs.
_is_users = SESSIONS.c.user_id.concat(literal_column("''")) == _user_id
_owned = and_(SESSIONS.c.session_id == _session_id, _is_users)
_before_id = _bind("before", type_=MESSAGES.c.message_id.type)
_limit: Any = _bind("limit")
_newest_first = (SESSIONS.c.updated_at.desc(), SESSIONS.c.session_id)
_oldest_first = (SESSIONS.c.updated_at, SESSIONS.c.session_id.desc())


def _time(name: str) -> Any:
    return _bind(name, type_=UtcDateTime())


@functools.cache
def statements_for(dialect: str) -> Statements:
    """Return the statements for ``"postgresql"`` or ``"sqlite"``."""
    return Statements(dialect)


class Statements:
    """All statements of one dialect. Parameters are named like the arguments they carry."""

    def __init__(self, dialect: str) -> None:
        self._postgres = dialect == "postgresql"
        self._ranges = ranges = Ranges(postgres=self._postgres)
        self.create_session = self._insert_session()
        self.get_session = select(*SESSION_COLUMNS).where(_owned)
        self.update_session = self._update_session()
        self.delete_session = delete(SESSIONS).where(_owned)
        of_user = select(*SESSION_COLUMNS).where(_of_user)
        tied = of_user.where(SESSIONS.c.updated_at == _time("updated_at"))
        after_id = _bind("after_id", type_=SESSIONS.c.session_id.type)
        self.list_page = ranges.ordered(of_user, *_newest_first, limit=_limit, offset=_bind("offset"))
        self.list_first = ranges.ordered(of_user, *_newest_first, limit=_limit)
        self.list_after = ranges.both(
            tied.where(SESSIONS.c.session_id > after_id),
            of_user.where(SESSIONS.c.updated_at < _time("updated_at")),
            *_newest_first,
            limit=_limit,
        )
        all_of_user = ranges.ordered(select(SESSIONS.c.session_id).where(_of_user), *_newest_first)
        self.count_sessions = select(func.count()).select_from(all_of_user.subquery())
        self.ensure_session = self._ensure_session()
        self.find_owner = select(SESSIONS.c.user_id, SESSIONS.c.created_at).where(
            SESSIONS.c.session_id == _session_id
        )
        # Keyed by whether the owner is given.
        self.touch_session = {owned: self._touch_session(owned) for owned in (False, True)}
        if self._postgres:
            self.add_message = {owned: self._add_message(owned) for owned in (False, True)}
            self.add_messages = {owned: self._add_messages(owned) for owned in (False, True)}
        else:
            self.insert_message = self._insert_message()
        self.find_messages = self._find_messages()
        # Keyed by whether there is a limit and whether there is a message to stop before.
        self.history = {key: self._history(*key) for key in itertools.product((False, True), repeat=2)}
        self.keep_latest = self._delete_beyond()
        self.delete_user = self._delete_batch(of_user=True)
        old = SESSIONS.c.updated_at < _time("cutoff")
        # Keyed by whether the owner is given.
        self.delete_older = {owned: self._delete_batch(old, of_user=owned) for owned in (True, False)}
        self.lacks_message = self._lacks_message()
        # Keyed by whether they go on after one that was read before. In the order of change: a session
        # that changes meanwhile comes later, not never.
        self.export_sessions = {
            False: ranges.ordered(of_user, *_oldest_first, limit=_limit),
            True: ranges.both(
                tied.where(SESSIONS.c.session_id < after_id),
                of_user.where(SESSIONS.c.updated_at > _time("updated_at")),
                *_oldest_first,
                limit=_limit,
            ),
        }
        self.export_messages = {after: self._export_messages(after) for after in (False, True)}

    def _delete_batch(self, *where: ColumnElement[bool], of_user: bool) -> Delete:
        # The conditions twice: PostgreSQL looks again at a row that was written to since it was chosen,
        # and a session that got a message since is no longer old, but it is still its user's.
        chosen = select(SESSIONS.c.session_id).where(*where)
        if not of_user:
            return delete(SESSIONS).where(
                self._ranges.among(SESSIONS.c.session_id, chosen.limit(_limit)), *where
            )
        chosen = self._ranges.ordered(chosen.where(_of_user), *_oldest_first, limit=_limit)
        return delete(SESSIONS).where(self._ranges.among(SESSIONS.c.session_id, chosen), _is_users, *where)

    def _delete_beyond(self) -> Delete:
        def beyond(column: ColumnElement[Any], limit: Any) -> Any:
            chosen = select(column).where(_of_user)
            return self._ranges.ordered(chosen, *_newest_first, limit=limit, offset=_bind("keep_last_n"))

        chosen = beyond(SESSIONS.c.session_id, _limit)
        newest = beyond(SESSIONS.c.updated_at, literal_column("1")).scalar_subquery()
        # A session that gets a message between being chosen and being deleted is newer, and stays.
        return delete(SESSIONS).where(
            self._ranges.among(SESSIONS.c.session_id, chosen), SESSIONS.c.updated_at <= newest
        )

    def _export_messages(self, after: bool) -> Any:
        order = (MESSAGES.c.timestamp, MESSAGES.c.message_id)
        statement = self._messages_of_owner()
        if after:
            after_id = _bind("after_id", type_=MESSAGES.c.message_id.type)
            statement = statement.where(tuple_(*order) > tuple_(_time("timestamp"), after_id))
        return self._ranges.ordered(statement, *order, limit=_limit)

    def _messages_of_owner(self) -> Select[Any]:
        message_id, *others = MESSAGE_COLUMNS
        # PostgreSQL makes text of an id faster than Python does.
        shown = cast(message_id, Text).label("message_id") if self._postgres else message_id
        return select(shown, *others).where(
            MESSAGES.c.session_id == _session_id,
            exists(select(literal_column("1")).where(_owned).select_from(SESSIONS)),
        )

    def _json(self) -> ColumnElement[Any]:
        text = _bind("metadata", type_=Text())
        return cast(text, JSONB) if self._postgres else text

    def _insert(self, table: Table) -> Any:
        return postgresql.insert(table) if self._postgres else sqlite.insert(table)

    def _insert_session(self) -> Insert:
        # Nothing on conflict: the repository looks whether what is there is an earlier attempt's own row.
        statement: Insert = (
            self._insert(SESSIONS)
            .values(
                session_id=_session_id,
                title=_bind("title"),
                user_id=_user_id,
                created_at=_time("now"),
                updated_at=_time("now"),
                metadata=self._json(),
            )
            .on_conflict_do_nothing(index_elements=[SESSIONS.c.session_id])
        )
        return statement

    def _ensure_session(self) -> Executable:
        """Return the owner and creation time of the row that is there after the statement.

        No row comes back when another caller's insert won but is not yet visible here: ask again.
        """
        if not self._postgres:
            # SQLite has one writer at a time; the repository asks for the owner in the same transaction.
            return self._insert_session()
        found = (
            select(SESSIONS.c.user_id, SESSIONS.c.created_at)
            .where(SESSIONS.c.session_id == _session_id)
            .cte("found")
        )
        values = select(
            _session_id,
            _bind("title", type_=SESSIONS.c.title.type),
            _user_id,
            _time("now"),
            _time("now"),
            self._json(),
        ).where(~exists(select(literal_column("1")).select_from(found)))
        created = (
            postgresql.insert(SESSIONS)
            .from_select([column.name for column in SESSIONS.columns], values, include_defaults=False)
            .on_conflict_do_nothing(index_elements=[SESSIONS.c.session_id])
            .returning(SESSIONS.c.user_id, SESSIONS.c.created_at)
            .cte("created")
        )
        return union_all(
            select(found.c.user_id, found.c.created_at, literal_column("false").label("is_new")),
            select(created.c.user_id, created.c.created_at, literal_column("true")),
        )

    def _later(self) -> ColumnElement[Any]:
        """Return the new ``updated_at``: now, and in PostgreSQL always later than the old one."""
        if self._postgres:
            next_instant = SESSIONS.c.updated_at + literal_column("interval '1 microsecond'")
            return func.greatest(next_instant, _time("now"), type_=UtcDateTime())
        return func.max(SESSIONS.c.updated_at, _time("now"), type_=UtcDateTime())

    def _update_session(self) -> Update:
        text = _bind("metadata", type_=Text())
        metadata: ColumnElement[Any] = (
            func.coalesce(cast(text, JSONB), SESSIONS.c.metadata)
            if self._postgres
            else func.coalesce(text, literal_column("chat_sessions.metadata"))
        )
        return (
            update(SESSIONS)
            .where(_owned)
            .values(
                title=func.coalesce(_bind("title", type_=SESSIONS.c.title.type), SESSIONS.c.title),
                metadata=metadata,
                updated_at=self._later(),
            )
        )

    def _touch_session(self, with_owner: bool) -> Update:
        """Bump a session and return its id and its new ``updated_at``; no row if it is not there."""
        where = _owned if with_owner else SESSIONS.c.session_id == _session_id
        return (
            update(SESSIONS)
            .where(where)
            .values(updated_at=self._later())
            .returning(SESSIONS.c.session_id, SESSIONS.c.updated_at)
        )

    def _add_message(self, with_owner: bool) -> Select[Any]:
        """PostgreSQL: bump the session and append to it at once; no row if it is not there."""
        owner = self._touch_session(with_owner).cte("owner")
        stored = (
            postgresql.insert(MESSAGES)
            .from_select(
                [column.name for column in MESSAGES.columns],
                select(
                    _bind("message_id", type_=MESSAGES.c.message_id.type),
                    owner.c.session_id,
                    _bind("role", type_=MESSAGES.c.role.type),
                    _bind("content", type_=MESSAGES.c.content.type),
                    owner.c.updated_at,
                ),
                include_defaults=False,
            )
            .cte("stored")
        )
        return select(owner.c.session_id).add_cte(stored)

    def _add_messages(self, with_owner: bool) -> Select[Any]:
        """PostgreSQL: as `add_message`, for arrays of ids, roles and contents of one length."""
        owner = self._touch_session(with_owner).cte("owner")
        # All of them text: asyncpg asks the server what any other array is, once for each connection.
        arrays: Any = func.unnest(
            *(_bind(name, type_=ARRAY(Text())) for name in ("message_ids", "roles", "contents"))
        )
        batch = arrays.table_valued("message_id", "role", "content", name="batch").render_derived()
        stored = postgresql.insert(MESSAGES).from_select(
            [column.name for column in MESSAGES.columns],
            select(
                cast(batch.c.message_id, MESSAGES.c.message_id.type),
                owner.c.session_id,
                batch.c.role,
                batch.c.content,
                owner.c.updated_at,
            ).select_from(owner.join(batch, literal_column("true"))),
            include_defaults=False,
        )
        return select(owner.c.session_id).add_cte(stored.cte("stored"))

    def _insert_message(self) -> Insert:
        """SQLite: append to a session that the same transaction bumped."""
        statement: Insert = sqlite.insert(MESSAGES).values(
            message_id=_bind("message_id"),
            session_id=_session_id,
            role=_bind("role"),
            content=_bind("content"),
            timestamp=_time("timestamp"),
        )
        return statement

    def _find_messages(self) -> Select[Any]:
        """Return what is stored under some message ids, whoever's it is."""
        ids: Any
        if self._postgres:
            texts: Any = func.unnest(_bind("message_ids", type_=ARRAY(Text())))
            [text_id] = texts.table_valued("id", name="batch").render_derived().c
            ids = select(cast(text_id, MESSAGES.c.message_id.type))
        else:
            ids = bindparam("p_message_ids", expanding=True, type_=MESSAGES.c.message_id.type)
        columns = (MESSAGES.c.message_id, MESSAGES.c.session_id, MESSAGES.c.role, MESSAGES.c.content)
        return select(*columns).where(MESSAGES.c.message_id.in_(ids))

    def _lacks_message(self) -> Select[Any]:
        """Return a row if the owner has the session, and it has no message with the id ``before``."""
        # Without the session as a condition, for the reason that `_is_users` has.
        its_session = select(MESSAGES.c.session_id).where(MESSAGES.c.message_id == _before_id)
        of_another = its_session.scalar_subquery().is_distinct_from(SESSIONS.c.session_id)
        return select(literal_column("1")).select_from(SESSIONS).where(_owned, of_another)

    def _history(self, limited: bool, before: bool) -> Any:
        """Return a session's messages: all of them oldest first, or the newest first up to a limit."""
        statement = self._messages_of_owner()
        order = (MESSAGES.c.timestamp, MESSAGES.c.message_id)
        if before:
            anchor = MESSAGES.alias("anchor")
            # A scalar for each column: PostgreSQL searches the index only for a row of plain values. The
            # session is no condition, for the reason that `_is_users` has: nothing is before a NULL.
            in_session = case((anchor.c.session_id == _session_id, anchor.c.timestamp))
            at = select(in_session).where(anchor.c.message_id == _before_id).scalar_subquery()
            statement = statement.where(tuple_(*order) < tuple_(at, _before_id))
        if limited:
            return self._ranges.ordered(statement, *(column.desc() for column in order), limit=_limit)
        return self._ranges.ordered(statement, *order)
