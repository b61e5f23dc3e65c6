"""Restores in SQLite, with one transaction."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

from sessions.backends.sql.administration import SqlAdministration, message_is_taken, session_is_taken
from sessions.backends.sql.executing import Executor
from sessions.backends.sql.rows import encode_json
from sessions.core.values import StoredMessage
from sessions.models import ChatSession
from sessions.queries import parameters

__all__ = ["SqliteAdministration"]

# Rows of one statement; SQLite's limit is 32,766 parameters.
ROWS_AT_ONCE = 250
# Places in a row.
OWNER_OF_SESSION, OWNER_OF_MESSAGE = 2, 1

Row = tuple[Any, ...]


class SqliteAdministration(SqlAdministration):
    """What looks across users, in SQLite."""

    async def restore(self, chat_session: ChatSession, messages: list[StoredMessage]) -> None:
        await self.restore_many([(chat_session, messages)], False)

    async def restore_many(
        self, conversations: list[tuple[ChatSession, list[StoredMessage]]], only_new: bool
    ) -> list[str]:
        statements = self._restoring
        given = {
            (row := _session_row(chat_session))[0]: (row, [_message_row(row[0], one) for one in messages])
            for chat_session, messages in conversations
        }

        def restore(transaction: Executor) -> dict[str, Any]:
            # Everything is checked before the first write, for a caller's transaction, which goes on.
            owners = {key: row[OWNER_OF_SESSION] for key, (row, _) in given.items()}
            stored = _owners(transaction, statements.find_sessions, owners)
            absent = json.dumps([key for key in given if key not in stored])
            new = given
            if only_new:
                new = {key: rows for key, rows in given.items() if key not in stored}
            elif any(owners[key] != owner for key, owner in stored.items()):
                raise session_is_taken()
            messages = [row for _, rows in new.values() for row in rows]
            owners = {row[0]: row[OWNER_OF_MESSAGE] for row in messages}
            stored = _owners(transaction, statements.find_messages, owners)
            if any(owners[key] != owner for key, owner in stored.items()):
                raise message_is_taken()
            # Of earlier sessions that a program without foreign keys deleted.
            transaction.write(statements.delete_leftovers, parameters(keys=absent))
            _store(transaction, statements.restore_sessions, [row for row, _ in new.values()])
            _store(transaction, statements.restore_messages, messages)
            return new

        restored = await cast(Any, self.manager).write(restore)
        ids = [chat_session.session_id for chat_session, _ in conversations]
        return [session_id for session_id in ids if _hex(session_id) in restored]


def _owners(transaction: Executor, find: Any, keys: Iterable[str]) -> dict[str, str]:
    """Return the owners of those keys that are stored."""
    return dict(transaction.rows(find, parameters(keys=json.dumps(list(keys)))))


def _store(transaction: Executor, sql: Callable[[int], str], rows: list[Row]) -> None:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        transaction.write_text(sql(len(part)), tuple(itertools.chain.from_iterable(part)))


def _session_row(chat_session: ChatSession) -> Row:
    """Return the values of a session as SQLite stores them."""
    return (
        _hex(chat_session.session_id),
        chat_session.title,
        chat_session.user_id,
        _time(chat_session.created_at),
        _time(chat_session.updated_at),
        encode_json(chat_session.metadata),
        chat_session.version,
    )


def _message_row(session_id: str, message: StoredMessage) -> Row:
    return (
        _hex(message.message_id),
        session_id,
        message.role,
        message.content,
        _time(message.timestamp),
        encode_json(message.metadata) if message.metadata else "{}",
        message.payload,
        message.write_order,
    )


def _hex(identifier: str) -> str:
    """Return a UUID as the type ``Uuid`` stores it in SQLite."""
    return identifier.replace("-", "")


def _time(moment: datetime) -> str:
    """Return a time in UTC as the type ``DateTime`` stores it in SQLite."""
    return moment.replace(tzinfo=None).isoformat(" ", "microseconds")
