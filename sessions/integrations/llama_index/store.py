"""A store for ``Memory.from_defaults(chat_store=…)``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from pydantic import PrivateAttr

from sessions.errors import InvalidInputError
from sessions.integrations.common import FRAMEWORK, FRAMEWORK_SESSION_ID, new_message_id, session_metadata
from sessions.integrations.conversations import Conversations
from sessions.integrations.llama_index.by_status import ByStatus
from sessions.integrations.llama_index.loops import on_lasting_loop
from sessions.integrations.llama_index.messages import to_message, to_new_message
from sessions.integrations.llama_index.statuses import ARCHIVED, DELETED, STATUS

if TYPE_CHECKING:
    from sessions.models import ChatMessage as StoredMessage
    from sessions.models import NewMessage
    from sessions.repositories import AsyncSessionRepository

__all__ = ["ChatStore"]

NAME = "llama-index"
KEYS_READ = 1000


class ChatStore(AsyncDBChatStore):
    """The conversations of one user, each under a key.

    A key that is a UUID is the id of the session; any other text gives an id that depends on the user, too. A
    session is created with its first messages, and its title is the first message of the user.

    Args:
        repository: Where the conversations are stored.
        user_id: Owner.
    """

    _repository: AsyncSessionRepository = PrivateAttr()
    _user_id: str = PrivateAttr()
    _conversations: Conversations = PrivateAttr()
    _stored: ByStatus = PrivateAttr()

    def __init__(self, repository: AsyncSessionRepository, *, user_id: str) -> None:
        super().__init__()
        self._repository = repository
        self._user_id = user_id
        self._conversations = Conversations(repository, user_id, NAME)
        self._stored = ByStatus(repository, user_id)

    @classmethod
    def class_name(cls) -> str:
        """Return the class name."""
        return "SessionsChatStore"

    @on_lasting_loop
    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """Return messages, oldest first.

        Args:
            key: Key of the conversation.
            status: Only messages with this status; None for all.
            limit: At most so many, from the oldest on; None for all.
            offset: How many of the oldest to leave out.

        Raises:
            InvalidInputError: A number is negative.
        """
        start = _check_count("offset", offset or 0)
        end = None if limit is None else start + _check_count("limit", limit)
        found = await self._stored.with_status(self._conversations.of(key), status)
        return [to_message(each) for each in found[start:end]]

    @on_lasting_loop
    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """Return how many messages have a status.

        Args:
            key: Key of the conversation.
            status: The status; None for any.
        """
        return len(await self._stored.with_status(self._conversations.of(key), status))

    async def add_message(
        self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append a message; see `add_messages`."""
        await self.add_messages(key, [message], status)

    @on_lasting_loop
    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append messages, all or none.

        Args:
            key: Key of the conversation.
            messages: The messages.
            status: Their status.

        Raises:
            InvalidInputError: A message has a value that cannot be stored.
            SessionConflictError: The session is another user's.
        """
        if new := _to_new_messages(messages, status):
            # With ids and with metadata, which stays as it is, an append follows all earlier changes of the
            # session also on MongoDB. Else a message may be stored late, before others that are archived.
            same = {FRAMEWORK_SESSION_ID: session_metadata(NAME, key)[FRAMEWORK_SESSION_ID]}
            await self._conversations.of(key).append(new, merge_metadata=same)

    @on_lasting_loop
    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Replace all messages of a conversation, whatever their status, atomically.

        Args:
            key: Key of the conversation.
            messages: The new messages.
            status: Their status.

        Raises:
            InvalidInputError: A message has a value that cannot be stored.
            SessionConflictError: The session is another user's.
        """
        if new := _to_new_messages(messages, status):
            await self._conversations.of(key).replace(new)
        else:
            await self.delete_messages(key)

    @on_lasting_loop
    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete an active message and return it; None if there is none. No two callers get the same one.

        Args:
            key: Key of the conversation.
            idx: Its place in what ``get_messages(key)`` returns, from 0 on.

        Raises:
            InvalidInputError: ``idx`` is not an integer.
            VersionConflictError: Other writers changed the session during each of many attempts.
        """
        if not isinstance(idx, int) or isinstance(idx, bool):
            raise InvalidInputError("idx", "must be an integer")
        conversation = self._conversations.of(key)

        async def attempt(version: int) -> list[StoredMessage] | None:
            active = await self._stored.active(conversation)
            if not 0 <= idx < len(active):
                return []
            is_marked = await self._stored.mark(conversation, active[idx], DELETED, version)
            return [active[idx]] if is_marked else None

        deleted = await self._stored.change(conversation, attempt)
        await self._stored.delete(conversation, deleted)
        return to_message(deleted[0]) if deleted else None

    @on_lasting_loop
    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Delete messages; the session stays, with its title.

        Args:
            key: Key of the conversation.
            status: Only messages with this status; None for all.
        """
        conversation = self._conversations.of(key)
        if status is None:
            await self._repository.clear_messages(self._user_id, conversation.session_id)
        elif MessageStatus(status) is MessageStatus.ACTIVE:
            await self._stored.delete(conversation, await self._stored.archive(conversation, None))
        else:
            await self._stored.delete(conversation, await self._stored.with_status(conversation, status))

    @on_lasting_loop
    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Delete the oldest active messages and return them. No two callers get the same one.

        They are archived before they are deleted: a process that is killed in between leaves them archived.

        Args:
            key: Key of the conversation.
            n: How many.

        Raises:
            InvalidInputError: The number is negative.
            VersionConflictError: Other writers changed the session during each of many attempts.
        """
        conversation = self._conversations.of(key)
        deleted = await self._stored.archive(conversation, _check_count("n", n))
        await self._stored.delete(conversation, deleted)
        return [to_message(each) for each in deleted]

    @on_lasting_loop
    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the oldest active messages, all or none, and return them. No two callers get the same one.

        Args:
            key: Key of the conversation.
            n: How many.

        Raises:
            InvalidInputError: The number is negative.
            VersionConflictError: Other writers changed the session during each of many attempts.
        """
        archived = await self._stored.archive(self._conversations.of(key), _check_count("n", n))
        return [to_message(each) for each in archived]

    @on_lasting_loop
    async def get_keys(self) -> list[str]:
        """Return the keys of the user's conversations that have messages, in their order."""
        keys: set[str] = set()
        cursor: str | None = None
        while True:
            page = await self._repository.list_session_previews(
                self._user_id, limit=KEYS_READ, cursor=cursor, where={FRAMEWORK: NAME}
            )
            for preview in page.previews:
                if preview.last_message is not None:
                    keys.add(preview.session.metadata[FRAMEWORK_SESSION_ID])
            cursor = page.next_cursor
            if cursor is None:
                return sorted(keys)


def _to_new_messages(messages: list[ChatMessage], status: MessageStatus) -> list[NewMessage]:
    is_archived = MessageStatus(status) is MessageStatus.ARCHIVED
    metadata = {STATUS: ARCHIVED} if is_archived else {}
    new = [to_new_message(each, **metadata) for each in messages]
    return [replace(each, message_id=new_message_id()) for each in new]


def _check_count(argument: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInputError(argument, "must be an integer from 0")
    return value
