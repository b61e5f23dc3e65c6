"""Restores in SQLite, with one transaction."""

from __future__ import annotations

from typing import Any, cast

from sessions.backends.sql.administration import (
    SqlAdministration,
    message_is_taken,
    restored_row,
    session_is_taken,
)
from sessions.backends.sql.rows import encode_json
from sessions.core.values import StoredMessage
from sessions.models import ChatSession
from sessions.queries import parameters, statements_for

__all__ = ["SqliteAdministration"]

# SQLite's limit is 32,766 parameters.
IDS_AT_ONCE = 1000


class SqliteAdministration(SqlAdministration):
    """What looks across users, in SQLite."""

    async def restore(self, chat_session: ChatSession, messages: list[StoredMessage]) -> None:
        statements, session_id = self._administration, chat_session.session_id
        # A transaction of its own, or the caller's: everything is checked before the first write.
        async with cast(Any, self.manager).write() as connection:
            find_owner = statements_for("sqlite").find_owner
            owner = (await connection.execute(find_owner, parameters(session_id=session_id))).first()
            if owner is not None and owner.user_id != chat_session.user_id:
                raise session_is_taken()
            for start in range(0, len(messages), IDS_AT_ONCE):
                ids = [message.message_id for message in messages[start : start + IDS_AT_ONCE]]
                key = parameters(session_id=session_id, message_ids=ids)
                if (await connection.execute(statements.find_messages, key)).first() is not None:
                    raise message_is_taken()
            await connection.execute(statements.restore_session, restored_row(chat_session))
            if messages:
                rows = [_row(session_id, message) for message in messages]
                await connection.execute(statements.restore_message, rows)


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
