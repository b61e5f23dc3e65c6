"""The statements of statistics, built for each call from its period, in PostgreSQL and SQLite."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Numeric,
    Text,
    case,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB

from sessions.models.records import ChatMessageRecord, ChatSessionRecord, UtcDateTime
from sessions.queries.columns import MESSAGE_ORDER

__all__ = ["StatisticsStatements"]

MILLISECONDS = 1000


class StatisticsStatements:
    """The statements for one period.

    Args:
        postgres: Whether they are for PostgreSQL.
        since: Its beginning, in UTC; None for none.
        until: Its end, not included; None for none.
        bucket: The length of a part of time.
        time_zone: Name of its time zone.
    """

    def __init__(
        self, *, postgres: bool, since: datetime | None, until: datetime | None, bucket: str, time_zone: str
    ) -> None:
        self._postgres = postgres
        self._since, self._until = since, until
        self._bucket, self._time_zone = bucket, time_zone
        session, message = ChatSessionRecord, ChatMessageRecord
        of_sessions, of_messages = self._within(session.created_at), self._within(message.timestamp)
        self.sessions = select(
            func.count(), func.min(session.created_at), func.max(session.updated_at)
        ).where(*of_sessions)
        active = (
            select(session.user_id)
            .join_from(message, session, message.session_id == session.session_id)
            .where(*of_messages)
        )
        self.users = select(func.count()).select_from(
            select(session.user_id).where(*of_sessions).union(active).subquery("users")
        )
        self.roles = select(message.role, func.count()).where(*of_messages).group_by(message.role)
        created = self._part(session.created_at)
        self.created = select(created, func.count()).where(*of_sessions).group_by(literal_column("1"))
        # In SQLite a part of time is shorter: the time zones are applied to it afterwards, with its users.
        part = self._part(message.timestamp)
        joined = select(
            part,
            func.count(),
            func.count(session.user_id.distinct()) if postgres else session.user_id,
        ).join_from(message, session, message.session_id == session.session_id)
        self.activity = joined.where(*of_messages).group_by(
            literal_column("1"), *(() if postgres else (session.user_id,))
        )
        asked = func.sum(case((message.role == "user", 1), else_=0)).label("turns")
        turns = select(asked).where(*of_messages).group_by(message.session_id).subquery("turns")
        self.turns = select(turns.c.turns, func.count()).group_by(turns.c.turns)
        self.answers = self._answers(of_messages)
        self.models = self._models(of_messages)

    def top_users(self, limit: int) -> Any:
        """Return the users with the most messages."""
        session, message = ChatSessionRecord, ChatMessageRecord
        # The order of users with as many messages must not depend on the collation of the database.
        name = session.user_id.collate("C") if self._postgres else session.user_id
        return (
            select(session.user_id, func.count(message.session_id.distinct()), func.count().label("messages"))
            .join_from(message, session, message.session_id == session.session_id)
            .where(*self._within(message.timestamp))
            .group_by(session.user_id)
            .order_by(literal_column("3").desc(), name)
            .limit(limit)
        )

    def _within(self, column: Any) -> list[Any]:
        found = []
        if self._since is not None:
            found.append(column >= literal(self._since, UtcDateTime()))
        if self._until is not None:
            found.append(column < literal(self._until, UtcDateTime()))
        return found

    def _part(self, column: Any) -> Any:
        if self._postgres:
            return func.date_trunc(self._bucket, column, self._time_zone, type_=UtcDateTime())
        # "2026-01-31 12:30": no time zone changes within a minute.
        return func.substr(column, 1, 10 if self._is_day_of_utc else 16, type_=Text())

    @property
    def _is_day_of_utc(self) -> bool:
        return self._bucket != "hour" and self._time_zone == "UTC"

    def _milliseconds(self, column: Any) -> Any:
        """Return a time in whole milliseconds since 1970, rounded down."""
        if self._postgres:
            return cast(func.floor(func.extract("epoch", column) * MILLISECONDS), BigInteger)
        seconds = cast(func.strftime("%s", column), BigInteger)
        return seconds * MILLISECONDS + cast(func.substr(column, 21, 3), BigInteger)

    def _answers(self, of_messages: list[Any]) -> Any:
        """Return how often an answer took so many milliseconds."""
        message = ChatMessageRecord
        window: dict[str, Any] = {"partition_by": message.session_id, "order_by": MESSAGE_ORDER}
        time = self._milliseconds(message.timestamp)
        rows = select(
            message.role,
            time.label("time"),
            func.lag(message.role).over(**window).label("before"),
            func.lag(time).over(**window).label("asked"),
        )
        found = rows.where(*of_messages).subquery("rows")
        took = (found.c.time - found.c.asked).label("took")
        return (
            select(took, func.count())
            .where(found.c.role == "assistant", found.c.before == "user")
            .group_by(literal_column("1"))
        )

    def _models(self, of_messages: list[Any]) -> Any:
        """Return the messages and tokens of each model; the first column is NULL for none."""
        message = ChatMessageRecord
        return (
            select(
                self._text("model"),
                func.count(),
                func.sum(self._tokens("usage.input_tokens")),
                func.sum(self._tokens("usage.output_tokens")),
            )
            .where(*of_messages, cast(message.message_metadata, Text) != literal_column("'{}'"))
            .group_by(literal_column("1"))
        )

    def _text(self, key: str) -> Any:
        column: Any = ChatMessageRecord.message_metadata
        if self._postgres:
            column = type_coerce(column, JSONB())
            is_text = func.jsonb_typeof(column[key]) == "string"
            return case((is_text, column[key].astext), else_=None)
        path: Any = literal_column(f"'$.\"{key}\"'")
        is_text = func.json_type(column, path, type_=Text()) == "text"
        return case((is_text, func.json_extract(column, path, type_=Text())), else_=None)

    def _tokens(self, key: str) -> Any:
        """Return a number of tokens: a whole one that is not negative, or else 0."""
        column: Any = ChatMessageRecord.message_metadata
        if self._postgres:
            value = type_coerce(column, JSONB())[key]
            is_number = func.jsonb_typeof(value) == "number"
            return case((is_number, func.trunc(cast(value.astext, Numeric))), else_=0)
        path: Any = literal_column(f"'$.\"{key}\"'")
        kind = func.json_type(column, path, type_=Text())
        is_number = or_(kind == "integer", kind == "real")
        return case((is_number, cast(func.json_extract(column, path), BigInteger)), else_=0)
