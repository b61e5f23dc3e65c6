"""Restores in PostgreSQL, with one statement."""

from __future__ import annotations

from sessions.backends.sql.administration import (
    SqlAdministration,
    message_is_taken,
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
        await self.restore_many([(chat_session, messages)], False)

    async def restore_many(
        self, conversations: list[tuple[ChatSession, list[StoredMessage]]], only_new: bool
    ) -> list[str]:
        stored, is_taken = await self._restore(_arrays(conversations), only_new)
        if is_taken:
            raise message_is_taken()
        if not only_new and len(stored) < len(conversations):
            raise session_is_taken()
        return stored

    async def _restore(self, values: dict[str, object], only_new: bool) -> tuple[list[str], bool]:
        for _ in range(MAX_ATTEMPTS):
            try:
                [found] = await self.manager.fetch(self._restoring.restore[only_new], values)
            except Exception as error:
                # Another transaction stored one of the messages: the next snapshot shows for which session.
                if not self.manager.is_duplicate_key(error):
                    raise
                continue
            stored, is_taken = found
            return stored, is_taken
        # Not for ever: a service may have a unique index of its own.
        raise MessageConflictError("a message violates a unique index")


def _arrays(conversations: list[tuple[ChatSession, list[StoredMessage]]]) -> dict[str, object]:
    # In one order, so that two of these statements do not deadlock.
    conversations = sorted(conversations, key=lambda conversation: conversation[0].session_id)
    sessions = [chat_session for chat_session, _ in conversations]
    messages = [message for _, batch in conversations for message in batch]
    return parameters(
        session_ids=[chat_session.session_id for chat_session in sessions],
        titles=[chat_session.title for chat_session in sessions],
        user_ids=[chat_session.user_id for chat_session in sessions],
        created=[chat_session.created_at.isoformat() for chat_session in sessions],
        updated=[chat_session.updated_at.isoformat() for chat_session in sessions],
        session_metadata=[encode_json(chat_session.metadata) for chat_session in sessions],
        versions=[str(chat_session.version) for chat_session in sessions],
        owner_ids=[chat_session.session_id for chat_session, batch in conversations for _ in batch],
        message_ids=[message.message_id for message in messages],
        roles=[message.role for message in messages],
        contents=[message.content for message in messages],
        timestamps=[message.timestamp.isoformat() for message in messages],
        metadata_texts=[encode_json(message.metadata) if message.metadata else "{}" for message in messages],
        payloads=[message.payload for message in messages],
        write_orders=[str(message.write_order) for message in messages],
    )
