"""A store for ``Memory.from_defaults(chat_store=…)``."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from pydantic import PrivateAttr

from sessions.errors import InvalidInputError, VersionConflictError
from sessions.integrations.common import (
    FRAMEWORK,
    FRAMEWORK_SESSION_ID,
    Conversation,
    Conversations,
    run_blocking,
)
from sessions.integrations.llama_index.messages import to_message, to_new_message
from sessions.integrations.llama_index.statuses import (
    ARCHIVED,
    ARCHIVED_THROUGH,
    DELETED,
    STATUS,
    active_of,
    is_archived_through,
)
from sessions.models import ChatMessage as StoredMessage

if TYPE_CHECKING:
    from sessions.models import NewMessage
    from sessions.repositories import AsyncSessionRepository

__all__ = ["ChatStore"]

Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])

NAME = "llama-index"
# How many messages the first read for the active ones takes, and by how much more each further one does.
FIRST_READ, GROWTH = 256, 8
KEYS_READ = 1000
# Attempts of an operation, if other writers of the session come first.
ATTEMPTS = 100
LONGEST_PAUSE = 0.05


def _on_lasting_loop(method: Method) -> Method:
    """Run a method on the background loop, unless the loop is that of the main thread.

    ``Memory``'s blocking methods run each call on a new loop in another thread, and close it without the
    clean-up of ``asyncio.run``: each call would open connections, and leave them.
    """

    @functools.wraps(method)
    async def call(*args: Any, **options: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return await method(*args, **options)
        return await asyncio.to_thread(run_blocking, method, *args, **options)

    return cast("Method", call)


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

    def __init__(self, repository: AsyncSessionRepository, *, user_id: str) -> None:
        super().__init__()
        self._repository = repository
        self._user_id = user_id
        self._conversations = Conversations(repository, user_id, NAME)

    @classmethod
    def class_name(cls) -> str:
        """Return the class name."""
        return "SessionsChatStore"

    @_on_lasting_loop
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
        return [to_message(each) for each in (await self._with_status(key, status))[start:end]]

    @_on_lasting_loop
    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """Return how many messages have a status.

        Args:
            key: Key of the conversation.
            status: The status; None for any.
        """
        return len(await self._with_status(key, status))

    async def add_message(
        self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append a message; see `add_messages`."""
        await self.add_messages(key, [message], status)

    @_on_lasting_loop
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
            await self._conversations.of(key).append(new)

    @_on_lasting_loop
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

    @_on_lasting_loop
    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete a message and return it; None if there is none. No two callers get the same one.

        Args:
            key: Key of the conversation.
            idx: Number of the message among all of the conversation, from 1, whatever their status.
        """
        conversation = self._conversations.of(key)

        async def attempt(version: int) -> list[StoredMessage] | None:
            messages = await self._all(conversation)
            if not 1 <= idx <= len(messages):
                return []
            message = messages[idx - 1]
            if idx > 1 and is_archived_through(message) and not is_archived_through(messages[idx - 2]):
                # First, so that those before it stay archived.
                await self._mark(conversation, messages[idx - 2], ARCHIVED_THROUGH, version)
                return None
            is_marked = await self._mark(conversation, message, DELETED, version)
            return [message] if is_marked else None

        deleted = await self._change(conversation, attempt)
        await self._delete(conversation, deleted)
        return to_message(deleted[0]) if deleted else None

    @_on_lasting_loop
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
            await self._delete(conversation, await self._archive(conversation, None))
        else:
            await self._delete(conversation, await self._with_status(key, status))

    @_on_lasting_loop
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
        deleted = await self._archive(conversation, _check_count("n", n))
        await self._delete(conversation, deleted)
        return [to_message(each) for each in deleted]

    @_on_lasting_loop
    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the oldest active messages, all or none, and return them. No two callers get the same one.

        Args:
            key: Key of the conversation.
            n: How many.

        Raises:
            InvalidInputError: The number is negative.
            VersionConflictError: Other writers changed the session during each of many attempts.
        """
        archived = await self._archive(self._conversations.of(key), _check_count("n", n))
        return [to_message(each) for each in archived]

    @_on_lasting_loop
    async def get_keys(self) -> list[str]:
        """Return the keys of the user's conversations that have messages, the latest change first."""
        keys: dict[str, None] = {}
        cursor: str | None = None
        while True:
            page = await self._repository.list_session_previews(
                self._user_id, limit=KEYS_READ, cursor=cursor, where={FRAMEWORK: NAME}
            )
            for preview in page.previews:
                if preview.last_message is not None:
                    keys[preview.session.metadata[FRAMEWORK_SESSION_ID]] = None
            cursor = page.next_cursor
            if cursor is None:
                return list(keys)

    # -- Messages by their status -------------------------------------------------------------------

    async def _with_status(self, key: str, status: MessageStatus | None) -> list[StoredMessage]:
        conversation = self._conversations.of(key)
        if status is not None and MessageStatus(status) is MessageStatus.ACTIVE:
            return await self._active(conversation)
        messages = await self._all(conversation)
        if status is None:
            return messages
        active = {id(each) for each in active_of(messages)[0]}
        return [each for each in messages if id(each) not in active]

    async def _all(self, conversation: Conversation) -> list[StoredMessage]:
        messages = await self._repository.get_session_history(self._user_id, conversation.session_id)
        conversation.saw(messages)
        return [each for each in messages if each.metadata.get(STATUS) != DELETED]

    async def _active(self, conversation: Conversation) -> list[StoredMessage]:
        """Return the active messages, without a read of all that are archived."""
        found: list[StoredMessage] = []
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

    async def _archive(self, conversation: Conversation, count: int | None) -> list[StoredMessage]:
        """Archive the oldest active messages, or all for None, and return them."""

        async def attempt(version: int) -> list[StoredMessage] | None:
            oldest = (await self._active(conversation))[:count]
            if oldest and not await self._mark(conversation, oldest[-1], ARCHIVED_THROUGH, version):
                return None
            return oldest

        return [] if count == 0 else await self._change(conversation, attempt)

    async def _mark(
        self, conversation: Conversation, message: StoredMessage, status: str, version: int
    ) -> bool:
        return await self._repository.update_message(
            self._user_id,
            conversation.session_id,
            message.message_id,
            merge_metadata={STATUS: status},
            expected_version=version,
        )

    async def _delete(self, conversation: Conversation, messages: list[StoredMessage]) -> None:
        if messages:
            ids = [each.message_id for each in messages]
            await self._repository.delete_messages(self._user_id, conversation.session_id, ids)

    async def _change(
        self,
        conversation: Conversation,
        attempt: Callable[[int], Awaitable[list[StoredMessage] | None]],
    ) -> list[StoredMessage]:
        """Return what an attempt returns, which reads and writes one version of the session.

        Args:
            conversation: The conversation.
            attempt: Returns None to be called again.
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


def _to_new_messages(messages: list[ChatMessage], status: MessageStatus) -> list[NewMessage]:
    is_archived = MessageStatus(status) is MessageStatus.ARCHIVED
    metadata = {STATUS: ARCHIVED} if is_archived else {}
    return [to_new_message(each, **metadata) for each in messages]


def _check_count(argument: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInputError(argument, "must be an integer from 0")
    return value
