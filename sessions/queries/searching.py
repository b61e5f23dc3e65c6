"""The statement that searches a user's messages, for each dialect.

It reads the messages of the user's sessions, for each session one range of ``idx_messages_session_id``, and
no others. The contents are in no index, which each append would have to write.

In PostgreSQL, a search in one session reads its messages in their order, until it has enough hits. A search
in all sessions reads the pages of the messages in physical order, by bitmap scans: PostgreSQL 18 reads
ahead for these, in other processes, and not for index scans.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Text,
    all_,
    and_,
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
from sessions.queries.columns import IS_USERS, LIMIT, MESSAGE_ORDER, NEWEST_FIRST, OF_USER, OWNED, bind, time
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

_NEWEST = tuple(column.desc() for column in MESSAGE_ORDER)

# What is looked at first, to bound the time of the hits: so many messages, of so many sessions.
SOME_MESSAGES = (500, 1500)
SOME_SESSIONS = 25
# Sessions of one bitmap. A bitmap that exceeds `work_mem` keeps only the pages of the messages, and then each
# row on a page is compared with all of these sessions.
SESSIONS_OF_BITMAP = 50


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
        part: list[ColumnElement[bool]] = []
        if after:
            after_id = bind("after_id", type_=ChatMessageRecord.message_id.type)
            place = tuple_(time("timestamp"), bind("write_order", type_=BigInteger()), after_id)
            part.append(tuple_(*MESSAGE_ORDER) < place)
        if self._postgres and not in_session:
            hits = self._in_physical_order(
                part, time("timestamp") if after else literal_column("timestamptz 'infinity'")
            )
        else:
            hits = self._in_order(in_session, part)
        hits = hits.subquery("hits")
        # JSON becomes text only here, in as many hits as are returned.
        columns = (cast(one, Text).label(one.key) if one.key in JSON_COLUMNS else one for one in hits.c)
        return select(*columns).order_by(*_newest_first(hits.c))

    def _in_order(self, in_session: bool, part: list[ColumnElement[bool]]) -> Any:
        """Return the newest hits, up to the limit: of a session, or in SQLite of all of a user's."""
        sessions = select(*CHAT_SESSION).where(OWNED if in_session else OF_USER)
        if not in_session:
            sessions = sessions.order_by(*NEWEST_FIRST)
        of_owner = sessions.subquery("of_owner")
        found = [ChatMessageRecord.session_id == of_owner.c.session_id, *part, self._matches()]
        if not self._postgres:
            return self._ranges.ordered(select(*of_owner.c, *MESSAGE).where(*found), *_NEWEST, limit=LIMIT)
        # A LIMIT there rules out a join by hash, over the whole table.
        of_session = select(*MESSAGE).where(*found).correlate(of_owner)
        newest = self._ranges.ordered(of_session, *_NEWEST, limit=LIMIT).lateral("newest")
        return self._ranges.ordered(
            select(*of_owner.c, *newest.c).join(newest, true()), *_newest_first(newest.c), limit=LIMIT
        )

    def _in_physical_order(self, part: list[ColumnElement[bool]], until: ColumnElement[Any]) -> Any:
        """PostgreSQL: return the newest hits in all sessions of a user, up to the limit.

        Args:
            part: The conditions of the messages to search, in their order.
            until: Time of the newest of them, or later.
        """
        # Not for the order: a LIMIT keeps the planner to the user's range of the index.
        ids = self._ranges.ordered(select(ChatSessionRecord.session_id).where(OF_USER), *NEWEST_FIRST)
        ids = ids.subquery("ids")
        number = func.row_number(type_=BigInteger()).over().label("number")
        numbered = select(ids.c.session_id, number).subquery("numbered")
        # The bound is selected here, so that the planner counts its cost once.
        bitmaps = select(
            func.array_agg(numbered.c.session_id).label("ids"), self._oldest(part).label("oldest")
        )
        bitmaps = bitmaps.group_by(numbered.c.number // literal_column(str(SESSIONS_OF_BITMAP), BigInteger()))
        bitmaps = self._ranges.ordered(bitmaps).subquery("bitmaps")
        messages = and_(
            ChatMessageRecord.session_id == func.any(bitmaps.c.ids),
            # With both ends the planner assumes few messages, and so no scan of the whole table.
            ChatMessageRecord.timestamp.between(bitmaps.c.oldest, until),
            *part,
        )
        # Only a bitmap scan serves an OR over two indexes.
        nothing = ChatMessageRecord.message_id == func.any(literal_column("CAST('{}' AS UUID[])"))
        found = select(ChatMessageRecord.session_id, *MESSAGE).where(or_(messages, nothing), self._matches())
        newest = self._ranges.ordered(found.correlate(bitmaps), *_NEWEST, limit=LIMIT).lateral("newest")
        joined = select(*newest.c).select_from(bitmaps.join(newest, true()))
        newest = self._ranges.ordered(joined, *_newest_first(newest.c), limit=LIMIT).subquery("newest_of_all")
        owner = select(*CHAT_SESSION).where(ChatSessionRecord.session_id == newest.c.session_id, IS_USERS)
        owner = self._ranges.ordered(owner.correlate(newest)).lateral("of_owner")
        of_message = (newest.c[column.key] for column in MESSAGE)
        return select(*owner.c, *of_message).select_from(newest.join(owner, true()))

    def _oldest(self, part: list[ColumnElement[bool]]) -> ColumnElement[Any]:
        """PostgreSQL: return a time such that nothing before it is on the page.

        A page of the newest messages of the sessions that changed last, if it is full, ends where the page
        of all messages ends, or before. So a word that is not rare is not looked for in all messages.

        Args:
            part: The conditions of the messages to search, in their order.
        """
        # Only if one of them is null, the server looks for the next.
        pages = (self._end_of_page(part, number) for number in SOME_MESSAGES)
        return func.coalesce(*pages, literal_column("timestamptz '-infinity'"))

    def _end_of_page(self, part: list[ColumnElement[bool]], number: int) -> Any:
        """Return the time of the last hit on the page among so many messages; null if it is not full."""
        counted = self._some_sessions().subquery("counted")
        of_each = select(literal_column(str(number), BigInteger()) // func.count()).select_from(counted)
        some = self._some_sessions(of_each.scalar_subquery().label("of_each")).subquery("some_sessions")
        columns = ChatMessageRecord.timestamp, ChatMessageRecord.content
        newest: Any = select(*columns).where(ChatMessageRecord.session_id == some.c.session_id, *part)
        newest = newest.correlate(some).order_by(*_NEWEST).limit(some.c.of_each).lateral("some_messages")
        hits = select(newest.c.timestamp).select_from(some.join(newest, true()))
        last = self._ranges.ordered(
            hits.where(self._matches(newest.c.content)),
            newest.c.timestamp.desc(),
            limit=ONE,
            offset=cast(LIMIT, BigInteger) - ONE,
        )
        return last.scalar_subquery()

    def _some_sessions(self, *more: ColumnElement[Any]) -> Any:
        ids = select(ChatSessionRecord.session_id, *more).where(OF_USER)
        return self._ranges.ordered(ids, *NEWEST_FIRST, limit=literal_column(str(SOME_SESSIONS)))

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
