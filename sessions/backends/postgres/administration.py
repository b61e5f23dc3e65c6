"""Restores in PostgreSQL, with one statement."""

from __future__ import annotations

from sessions.backends.sql.administration import (
    SqlAdministration,
    message_is_taken,
    restored_row,
    session_is_taken,
)
from sessions.backends.sql.rows import encode_json
from sessions.core.values import StoredMessage
from sessions.errors import MessageConflictError
from sessions.models import ChatSession
from sessions.queries import parameters

__all__ = ["PostgresAdministration"]

MAX_ATTEMPTS = 10


class PostgresAdministration(SqlAdministration):
    """What looks across users, in PostgreSQL."""

    async def restore(self, chat_session: ChatSession, messages: list[StoredMessage]) -> None:
        values = restored_row(chat_session) | _arrays(messages)
        is_stored, is_taken = await self._restore(values)
        if is_taken:
            raise message_is_taken()
        if not is_stored:
            raise session_is_taken()

    async def _restore(self, values: dict[str, object]) -> tuple[bool, bool]:
        for _ in range(MAX_ATTEMPTS):
            try:
                [found] = await self.manager.fetch(self._administration.restore, values)
            except Exception as error:
                # Another transaction stored one of the messages: the next snapshot shows for which session.
                if not self.manager.is_duplicate_key(error):
                    raise
                continue
            is_stored, is_taken = found
            return is_stored, is_taken
        # Not for ever: a service may have a unique index of its own.
        raise MessageConflictError("a message violates a unique index")


def _arrays(messages: list[StoredMessage]) -> dict[str, object]:
    return parameters(
        message_ids=[message.message_id for message in messages],
        roles=[message.role for message in messages],
        contents=[message.content for message in messages],
        timestamps=[message.timestamp.isoformat() for message in messages],
        metadata_texts=[encode_json(message.metadata) for message in messages],
        payloads=[message.payload for message in messages],
        write_orders=[str(message.write_order) for message in messages],
    )
