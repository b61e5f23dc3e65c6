"""Restores in SQLite, with one transaction."""

from __future__ import annotations

from typing import Any, cast

from sessions.backends.sql.administration import (
    SqlAdministration,
    message_is_taken,
    restored_row,
    session_is_taken,
)
from sessions.backends.sql.executing import Executor
from sessions.backends.sql.rows import encode_json
from sessions.core.values import StoredMessage
from sessions.models import ChatSession
from sessions.queries import parameters, statements_for

__all__ = ["SqliteAdministration"]


class SqliteAdministration(SqlAdministration):
    """What looks across users, in SQLite."""

    async def restore(self, chat_session: ChatSession, messages: list[StoredMessage]) -> None:
        statements, session_id = self._administration, chat_session.session_id
        row = restored_row(chat_session)
        rows = [_row(session_id, message) for message in messages]
        ids = parameters(session_id=session_id, message_ids=[message.message_id for message in messages])

        def restore(transaction: Executor) -> None:
            # Everything is checked before the first write, for a caller's transaction, which goes on.
            stored = transaction.rows(statements_for("sqlite").find_owner, row)
            if stored and stored[0][0] != chat_session.user_id:
                raise session_is_taken()
            if rows and transaction.rows(statements.find_messages, ids):
                raise message_is_taken()
            transaction.write(statements.restore_session, row)
            if rows:
                transaction.write(statements.restore_message, rows)

        await cast(Any, self.manager).write(restore)


def _row(session_id: str, message: StoredMessage) -> dict[str, object]:
    return parameters(
        message_id=message.message_id,
        session_id=session_id,
        role=message.role,
        content=message.content,
        timestamp=message.timestamp,
        metadata=encode_json(message.metadata),
        payload=message.payload,
        write_order=message.write_order,
    )
