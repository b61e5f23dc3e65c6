"""Stored messages by their status, and the changes of it, each of one version of the session."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from llama_index.core.storage.chat_store.base_db import MessageStatus

from sessions.errors import InvalidInputError, VersionConflictError
from sessions.integrations.conversations import Conversation
from sessions.integrations.llama_index.statuses import (
    ARCHIVED_THROUGH,
    DELETED,
    STATUS,
    active_of,
)
from sessions.models import ChatMessage

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["ByStatus"]

# How many messages the first read for the active ones takes, and by how much more each further one does.
FIRST_READ, GROWTH = 256, 8
# Attempts of an operation, if other writers of the session come first.
ATTEMPTS = 100
LONGEST_PAUSE = 0.05


class ByStatus:
    """Reads, archives and deletes messages of the conversations of one user.

    Args:
        repository: Where they are stored.
        user_id: Owner.
    """

    def __init__(self, repository: AsyncSessionRepository, user_id: str) -> None:
        self._repository = repository
        self._user_id = user_id

    async def with_status(
        self, conversation: Conversation, status: MessageStatus | None
    ) -> list[ChatMessage]:
        """Return the messages with a status, oldest first; with any for None."""
        if status is not None and MessageStatus(status) is MessageStatus.ACTIVE:
            return await self.active(conversation)
        messages = await self.all(conversation)
        if status is None:
            return messages
        active = {id(each) for each in active_of(messages)[0]}
        return [each for each in messages if id(each) not in active]

    async def all(self, conversation: Conversation) -> list[ChatMessage]:
        """Return all messages, oldest first."""
        messages = await self._repository.get_session_history(self._user_id, conversation.session_id)
        conversation.saw(messages)
        return [each for each in messages if each.metadata.get(STATUS) != DELETED]

    async def active(self, conversation: Conversation) -> list[ChatMessage]:
        """Return the active messages, without a read of all that are archived."""
        found: list[ChatMessage] = []
        limit, before = FIRST_READ, None
        while True:
            try:
                page = await self._repository.get_session_history(
                    self._user_id, conversation.session_id, limit=limit, before=before
                )
            except InvalidInputError:
                if before is None:
                    raise
                # Deleted since it was read.
                found, limit, before = [], FIRST_READ, None
                continue
            active, is_complete = active_of(page)
            found = active + found
            if is_complete or len(page) < limit:
                conversation.saw(found)
                return found
            limit, before = limit * GROWTH, page[0].message_id

    async def archive(self, conversation: Conversation, count: int | None) -> list[ChatMessage]:
        """Archive the oldest active messages, or all for None, and return them."""

        async def attempt(version: int) -> list[ChatMessage] | None:
            oldest = (await self.active(conversation))[:count]
            if oldest and not await self.mark(conversation, oldest[-1], ARCHIVED_THROUGH, version):
                return None
            return oldest

        return [] if count == 0 else await self.change(conversation, attempt)

    async def mark(self, conversation: Conversation, message: ChatMessage, status: str, version: int) -> bool:
        """Set the status of a message; return whether it exists.

        Raises:
            VersionConflictError: The session has another version.
        """
        return await self._repository.update_message(
            self._user_id,
            conversation.session_id,
            message.message_id,
            merge_metadata={STATUS: status},
            expected_version=version,
        )

    async def delete(self, conversation: Conversation, messages: list[ChatMessage]) -> None:
        """Delete messages."""
        if messages:
            ids = [each.message_id for each in messages]
            await self._repository.delete_messages(self._user_id, conversation.session_id, ids)

    async def change(
        self,
        conversation: Conversation,
        attempt: Callable[[int], Awaitable[list[ChatMessage] | None]],
    ) -> list[ChatMessage]:
        """Return what an attempt returns, which reads and writes one version of the session.

        Args:
            conversation: The conversation.
            attempt: Takes the version; returns None to be called again.

        Raises:
            VersionConflictError: Other writers changed the session during each of many attempts.
        """
        for number in range(ATTEMPTS):
            chat_session = await self._repository.get_session(self._user_id, conversation.session_id)
            if chat_session is None:
                return []
            try:
                result = await attempt(chat_session.version)
            except VersionConflictError:
                if number == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE, 0.001 * 2**number)))
            else:
                if result is not None:
                    return result
        raise VersionConflictError("other writers changed the session during each attempt")
