"""The statement that searches a user's messages, for each dialect.

It reads the messages of the user's sessions, for each session one range of ``idx_messages_session_id``, and
no others. The contents are in no index, which each append would have to write.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Subquery,
    Text,
    all_,
    case,
    cast,
    collate,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY

from sessions.models.records import ChatMessageRecord, ChatSessionRecord
from sessions.queries.columns import LIMIT, MESSAGE_ORDER, NEWEST_FIRST, OF_USER, OWNED, bind, time
from sessions.queries.ranges import Ranges
from sessions.queries.times import ONE

__all__ = ["Searches"]

JSON_COLUMNS = ("session_metadata", "message_metadata")
CHAT_SESSION = (
    ChatSessionRecord.session_id,
    ChatSessionRecord.title,
    ChatSessionRecord.user_id,
    ChatSessionRecord.created_at,
    ChatSessionRecord.updated_at,
    ChatSessionRecord.session_metadata.label("session_metadata"),
    ChatSessionRecord.version,
)
MESSAGE = (
    ChatMessageRecord.message_id,
    ChatMessageRecord.role,
    ChatMessageRecord.content,
    ChatMessageRecord.timestamp,
    ChatMessageRecord.message_metadata.label("message_metadata"),
    ChatMessageRecord.payload,
    ChatMessageRecord.write_order,
)

# What is looked at first: sessions, and messages of each.
SOME_SESSIONS = 25
SOME_MESSAGES = 20
_OLDEST = "oldest"


class Searches:
    """Builds the statements that search.

    Args:
        postgres: Whether the dialect is PostgreSQL's.
    """

    def __init__(self, *, postgres: bool) -> None:
        self._postgres = postgres
        self._ranges = Ranges(postgres=postgres)

    def search(self, in_session: bool, after: bool) -> Any:
        """Return hits, newest first, with the columns of `CHAT_SESSION`, then those of `MESSAGE`.

        Args:
            in_session: Whether in one session, in place of all of the user's.
            after: Whether there is a hit to continue after.
        """
        sessions = select(*CHAT_SESSION).where(OWNED if in_session else OF_USER)
        if not in_session:
            # Not for the order: a LIMIT keeps the planner to the user's range of the index.
            sessions = self._ranges.ordered(sessions, *NEWEST_FIRST)
        part: list[ColumnElement[bool]] = []
        if after:
            after_id = bind("after_id", type_=ChatMessageRecord.message_id.type)
            place = tuple_(time("timestamp"), bind("write_order", type_=BigInteger()), after_id)
            part.append(tuple_(*MESSAGE_ORDER) < place)
        of_owner = sessions.subquery("of_owner")
        if self._postgres and not in_session:
            # With a LIMIT of its own: in the condition itself, the planner would count its cost once for each
            # session, and the server would compile such an expensive statement to machine code (JIT).
            bounded = select(*of_owner.c, self._oldest(part).label(_OLDEST))
            of_owner = self._ranges.ordered(bounded).subquery("bounded")
            part.append(ChatMessageRecord.timestamp >= of_owner.c[_OLDEST])
        found = [ChatMessageRecord.session_id == of_owner.c.session_id, *part, self._matches()]
        hits = self._newest(of_owner, found).subquery("hits")
        # JSON becomes text only here, in as many hits as are returned.
        columns = (cast(one, Text).label(one.key) if one.key in JSON_COLUMNS else one for one in hits.c)
        return select(*columns).order_by(*_newest_first(hits.c))

    def _newest(self, of_owner: Subquery, found: list[ColumnElement[bool]]) -> Any:
        """Return the newest of the messages found in some sessions, up to the limit."""
        order = [part.desc() for part in MESSAGE_ORDER]
        if not self._postgres:
            return self._ranges.ordered(select(*of_owner.c, *MESSAGE).where(*found), *order, limit=LIMIT)
        # Of each session as many as are returned, so a common word is not looked for in all of a long one.
        # A LIMIT there also rules out a join by hash, over the whole table.
        messages = select(*MESSAGE).where(*found).correlate(of_owner)
        newest = self._ranges.ordered(messages, *order, limit=LIMIT).lateral("newest")
        of_session = (column for column in of_owner.c if column.key != _OLDEST)
        joined = select(*of_session, *newest.c).select_from(of_owner.join(newest, true()))
        return self._ranges.ordered(joined, *_newest_first(newest.c), limit=LIMIT)

    def _oldest(self, part: list[ColumnElement[bool]]) -> ColumnElement[Any]:
        """PostgreSQL: return a time such that nothing before it is on the page.

        A page of the newest messages of the sessions that changed last, if it is full, ends where the page
        of all messages ends, or before. So a common word is not looked for in all messages.

        Args:
            part: The conditions of the messages to search, in their order.
        """
        ids = select(ChatSessionRecord.session_id).where(OF_USER)
        some = self._ranges.ordered(ids, *NEWEST_FIRST, limit=literal_column(str(SOME_SESSIONS)))
        some = some.subquery("some_sessions")
        columns = ChatMessageRecord.timestamp, ChatMessageRecord.content
        newest = select(*columns).where(ChatMessageRecord.session_id == some.c.session_id, *part)
        newest = self._ranges.ordered(
            newest.correlate(some),
            *(column.desc() for column in MESSAGE_ORDER),
            limit=literal_column(str(SOME_MESSAGES)),
        ).lateral("some_messages")
        hits = select(newest.c.timestamp).select_from(some.join(newest, true()))
        last = self._ranges.ordered(
            hits.where(self._matches(newest.c.content)),
            newest.c.timestamp.desc(),
            limit=ONE,
            offset=cast(LIMIT, BigInteger) - ONE,
        )
        return func.coalesce(last.scalar_subquery(), literal_column("timestamptz '-infinity'"))

    def _matches(self, column: Any = ChatMessageRecord.content) -> ColumnElement[bool]:
        if not self._postgres:
            patterns = func.json_each(bind("patterns", type_=Text())).table_valued("value", name="pattern")
            # Read once, in place of once for each message.
            pattern = select(patterns.c.value).cte("patterns").prefix_with("MATERIALIZED")
            fits = ChatMessageRecord.content.op("GLOB", is_comparison=True)(pattern.c.value)
            return ~exists(select(literal_column("1")).select_from(pattern).where(~fits))
        # In subselects the planner does not see them. With their values it leaves out what is empty, and
        # estimates the rest: then it reads a session in no order, and sorts.
        likes, expressions = map(_opaque_texts, ("likes", "expressions"))
        # "C" compares code points, whatever the locale of the database is; its `lower` changes ASCII alone.
        content = collate(column, "C")
        alike = func.lower(content).op("LIKE", is_comparison=True)(all_(likes))
        fits = content.op("~", is_comparison=True)(all_(expressions))
        # CASE keeps the order, cheapest first. The planner takes it for half of the rows, whatever the words
        # are: as in `Ranges`, the plan does not depend on them.
        return case((or_(func.cardinality(likes) == literal_column("0"), alike), fits), else_=false())


def _opaque_texts(name: str) -> ColumnElement[Any]:
    texts = select(bind(name, type_=ARRAY(Text()))).scalar_subquery()
    # The cast keeps ALL from comparing with the rows of a subquery.
    return cast(texts, ARRAY(Text()))


def _newest_first(columns: Any) -> list[Any]:
    return [columns[part.key].desc() for part in MESSAGE_ORDER]
