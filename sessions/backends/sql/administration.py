"""What looks across users, in PostgreSQL and SQLite."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sessions.backends.sql.engine import SqlConnectionManager
from sessions.backends.sql.rows import to_messages, to_session
from sessions.core.counting import Counts, Period, start_of_bucket
from sessions.core.port import Backend
from sessions.errors import MessageConflictError, SessionConflictError
from sessions.models import ChatMessage, ChatSession
from sessions.queries import parameters
from sessions.queries.administration import AdministrationStatements, administration_for
from sessions.queries.restoring import RestoringStatements, restoring_for
from sessions.queries.statistics import StatisticsStatements

__all__ = ["SqlAdministration", "message_is_taken", "session_is_taken"]


# What one statement of an export returns at most.
MESSAGES_AT_ONCE = 5000


class SqlAdministration(Backend):
    """The operations that are the same statement in both dialects."""

    manager: SqlConnectionManager

    @property
    def _administration(self) -> AdministrationStatements:
        return administration_for(self.manager.dialect)

    @property
    def _restoring(self) -> RestoringStatements:
        return restoring_for(self.manager.dialect)

    async def list_users(self, after: str | None, limit: int) -> list[str]:
        part = parameters(after=after, limit=limit)
        statement = self._administration.list_users[after is not None]
        # No order is guaranteed of the rows of a recursion.
        found = sorted((place, user_id) for place, user_id in await self.manager.fetch(statement, part))
        return [user_id for _, user_id in found]

    async def list_all(self, after: str | None, limit: int) -> list[ChatSession]:
        part = parameters(after=after, limit=limit)
        statement = self._administration.list_all[after is not None]
        return [to_session(row) for row in await self.manager.fetch(statement, part)]

    async def export_many(self, sessions: list[ChatSession], limit: int) -> list[list[ChatMessage] | None]:
        ids = [chat_session.session_id for chat_session in sessions]
        is_postgres = self.manager.dialect == "postgresql"
        given = ids if is_postgres else json.dumps([session_id.replace("-", "") for session_id in ids])
        values = parameters(session_ids=given, limit=MESSAGES_AT_ONCE)
        rows = await self.manager.fetch(self._administration.export_many, values)
        found: dict[tuple[str, str], list[ChatMessage]] = {}
        last = None
        for (user_id, key), part in itertools.groupby(rows, lambda row: (row[0], row[1])):
            last = str(key)
            found[user_id, last] = to_messages(last, [row[2:] for row in part])
        cut = last if len(rows) == MESSAGES_AT_ONCE else None
        histories: list[list[ChatMessage] | None] = []
        for chat_session in sessions:
            messages = found.get((chat_session.user_id, chat_session.session_id), [])
            # The last session that was read may have more, and nothing was read of those after it.
            is_whole = (cut is None or chat_session.session_id < cut) and len(messages) < limit
            histories.append(messages if is_whole else None)
        return histories

    async def sizes(self) -> dict[str, int]:
        schemas = self.manager.statement_options.get("schema_translate_map") or {}
        prefix = f'"{schemas[None]}".' if None in schemas else ""
        names = parameters(sessions=f"{prefix}chat_sessions", messages=f"{prefix}chat_messages")
        given = names if self.manager.dialect == "postgresql" else {}
        statement = self._administration.sizes
        [row] = await self.manager.fetch(statement, given)
        columns = [column.name for column in statement.selected_columns]
        sizes = {name: int(size) for name, size in zip(columns, row, strict=True)}
        return sizes | {"total": sum(sizes.values())}

    async def count_all(self, period: Period) -> Counts:
        is_postgres = self.manager.dialect == "postgresql"
        statements = StatisticsStatements(
            postgres=is_postgres,
            since=period.since,
            until=period.until,
            bucket=period.bucket,
            time_zone=period.time_zone,
        )

        async def fetch(statement: Any) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await self.manager.fetch(statement, {})]

        [sessions] = await fetch(statements.sessions)
        [[users]] = await fetch(statements.users)
        created, activity = await fetch(statements.created), await fetch(statements.activity)
        if is_postgres:
            by_start = dict(created), {start: (messages, active) for start, messages, active in activity}
        else:
            by_start = _created(created, period), _activity(activity, period)
        models = await fetch(statements.models)
        return Counts(
            users,
            (sessions[0], sessions[1], sessions[2]),
            *by_start,
            dict(await fetch(statements.roles)),
            {int(turns): number for turns, number in await fetch(statements.turns)},
            {int(took): number for took, number in await fetch(statements.answers)},
            [(model, number, int(given), int(made)) for model, number, given, made in models],
            [
                (user, number, written)
                for user, number, written in await fetch(statements.top_users(period.top))
            ],
            (await self.sizes())["total"],
        )


def _start(text: str, period: Period) -> datetime:
    """Return the beginning of the bucket of a part of time as SQLite's statement names it."""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return start_of_bucket(moment, period.bucket, ZoneInfo(period.time_zone))


def _created(rows: list[tuple[Any, ...]], period: Period) -> dict[datetime, int]:
    found: dict[datetime, int] = {}
    for text, number in rows:
        start = _start(text, period)
        found[start] = found.get(start, 0) + number
    return found


def _activity(rows: list[tuple[Any, ...]], period: Period) -> dict[datetime, tuple[int, int]]:
    messages: dict[datetime, int] = {}
    users: dict[datetime, set[str]] = {}
    starts: dict[str, datetime] = {}
    for text, number, user_id in rows:
        start = starts.get(text) or starts.setdefault(text, _start(text, period))
        messages[start] = messages.get(start, 0) + number
        users.setdefault(start, set()).add(user_id)
    return {start: (number, len(users[start])) for start, number in messages.items()}


def session_is_taken() -> SessionConflictError:
    """Return the error for a session of another user."""
    return SessionConflictError("the session id is taken by another user's session")


def message_is_taken() -> MessageConflictError:
    """Return the error for a message of another session."""
    return MessageConflictError("a message id is taken by a message of another session")
