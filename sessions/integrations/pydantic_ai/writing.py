"""Writes a conversation of Pydantic AI: its record and new entries, in one transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_ai.conversation_store import ConversationConflict, ConversationRecord

from sessions.errors import (
    InvalidInputError,
    MessageConflictError,
    SessionNotFoundError,
    VersionConflictError,
)
from sessions.integrations.common import first_version, session_metadata, title_for
from sessions.integrations.conversations import as_decoded
from sessions.integrations.pydantic_ai.entries import FRAMEWORK, to_text, under_own_id
from sessions.integrations.pydantic_ai.finding import RECORD, Finder
from sessions.models import ChatMessage, ChatSession, NewMessage
from sessions.validation import DEFAULT_TITLE

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["AHEAD", "SCOPE", "Writer", "comparable"]

# Keys of a session's metadata.
SCOPE = "pydantic_ai.scope"
# Whether the time of the record is later than that of the write.
AHEAD = "pydantic_ai.ahead"


def comparable(text: str) -> str:
    """Return a text in a form that every backend can store and compare."""
    return json.dumps(text)


class Writer:
    """Stores the conversations of one user.

    Args:
        repository: Where they are stored.
        user_id: Owner.
        finder: Finds their sessions.
    """

    def __init__(self, repository: AsyncSessionRepository, user_id: str, finder: Finder) -> None:
        self._repository = repository
        self._user_id = user_id
        self._finder = finder

    async def store(
        self, record: ConversationRecord, messages: list[NewMessage], chat_session: ChatSession | None
    ) -> bool:
        """Store a record with new messages if the session is as it was read; return whether it was.

        Args:
            record: The record.
            messages: The messages that the session lacks.
            chat_session: The session as it was read; None if there was none.

        Raises:
            ConversationConflict: Another user has the session.
        """

        async def store(given: list[NewMessage]) -> bool:
            if chat_session is None:
                return await self._create(record, given)
            return await self._change(record, given, chat_session)

        try:
            return await store(messages)
        except MessageConflictError:  # Another session has an entry under one of the ids.
            session_id = self._finder.id_of(record.conversation_id)
            return await store([under_own_id(message, session_id) for message in messages])
        except InvalidInputError as error:
            return await store(as_decoded(messages, error))

    def _metadata(self, record: ConversationRecord, before: Mapping[str, Any]) -> dict[str, Any]:
        scope = None if record.scope is None else comparable(record.scope)
        found = {**session_metadata(FRAMEWORK, record.conversation_id), RECORD: to_text(record), SCOPE: scope}
        is_ahead = record.updated_at.timestamp() > time.time()
        if is_ahead or AHEAD in before:
            found[AHEAD] = is_ahead
        return found

    async def _create(self, record: ConversationRecord, messages: list[NewMessage]) -> bool:
        session_id, now = self._finder.id_of(record.conversation_id), datetime.now(UTC)
        title, version = title_for(messages) or DEFAULT_TITLE, first_version()
        chat_session = ChatSession(
            session_id, title, self._user_id, now, now, self._metadata(record, {}), version=version
        )
        stored = [
            ChatMessage(
                str(message.message_id),
                session_id,
                message.role,
                message.content,
                # Messages of one time keep the order in which they are given.
                message.timestamp or now,
                message.metadata or {},
                message.payload,
            )
            for message in messages
        ]
        if await self._repository.admin.restore_many([(chat_session, stored)], only_new=True):
            return True
        # It exists: of another writer, or of an attempt whose response was lost.
        known = await self._finder.read(record.conversation_id)
        if known is None:  # Of another user.
            raise ConversationConflict(record.conversation_id)
        return known.revision == record.revision

    async def _change(
        self, record: ConversationRecord, messages: list[NewMessage], chat_session: ChatSession
    ) -> bool:
        key = self._user_id, chat_session.session_id
        metadata = self._metadata(record, chat_session.metadata)
        try:
            if not messages:
                return await self._repository.update_session_async(
                    *key, merge_metadata=metadata, expected_version=chat_session.version
                )
            await self._repository.add_messages(
                chat_session.session_id,
                messages,
                user_id=self._user_id,
                merge_metadata=metadata,
                expected_version=chat_session.version,
            )
        except (VersionConflictError, SessionNotFoundError):
            return False
        if chat_session.title == DEFAULT_TITLE and (title := title_for(messages)) is not None:
            await self._repository.update_session_async(
                *key, {"title": title}, touch=False, if_title=DEFAULT_TITLE
            )
        return True
