"""Reads a conversation for a turn, and stores what came of it, if no other turn has changed it meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sessions.core.identifiers import new_message_id
from sessions.errors import (
    InvalidInputError,
    SessionConflictError,
    SessionNotFoundError,
    TurnConflictError,
    VersionConflictError,
)
from sessions.models import ChatMessage, ChatSession, NewMessage
from sessions.services.windows import SUMMARY

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["Conversation", "Conversations"]

# Other changes of a session, such as of its title, that may come between reading its version and storing.
MAX_ATTEMPTS = 20
# Sessions whose version is remembered from their last turn here.
MAX_KNOWN = 1024


@dataclass(slots=True)
class Conversation:
    """A session as a turn has read it.

    Attributes:
        user_id: Owner.
        session_id: The session.
        chat_session: The session; None if there is none, or if only its version was needed.
        version: Its version; None if there is no session.
        messages: Its newest messages, oldest first.
        is_whole: Whether ``messages`` are all messages, to be replaced.
    """

    user_id: str
    session_id: str
    chat_session: ChatSession | None = None
    version: int | None = None
    messages: list[ChatMessage] = field(default_factory=list)
    is_whole: bool = False

    @property
    def last_id(self) -> str | None:
        """Id of the newest message; None if there is none."""
        return self.messages[-1].message_id if self.messages else None


class Conversations:
    """Reads and stores the conversations of a repository.

    Args:
        repository: The repository.
    """

    def __init__(self, repository: AsyncSessionRepository) -> None:
        self._repository = repository
        # The version, and the id of the newest message, after the last turn here: a turn that reads the
        # same message as the newest one need not read the version. A session created anew has other ids.
        self._known: dict[tuple[str, str], tuple[int, str]] = {}

    async def read(
        self,
        user_id: str,
        session_id: str,
        *,
        limit: int | None,
        after: Callable[[dict[str, Any]], str | None] | None = None,
        whole: bool = False,
    ) -> Conversation:
        """Return a session with its newest messages.

        The version is read before the messages: a message that comes between is seen, and storing finds that
        the version is old, but the newest message is the one that was seen.

        Args:
            user_id: Owner.
            session_id: The session, which need not exist.
            limit: At most so many messages; None for all.
            after: Returns, for the session's metadata, the id after which to read; None for all.
            whole: Whether the session itself is needed, and whether all messages are to be replaced.

        Raises:
            SessionConflictError: It is another user's, and not needed as a whole: one can be created.
        """
        if limit is not None:
            limit = max(1, limit)
        known = None if whole or after else self._known.get((user_id, session_id))
        if known is not None:
            messages = await self._repository.get_session_history(user_id, session_id, limit=limit)
            if messages and messages[-1].message_id == known[1]:
                return Conversation(user_id, session_id, None, known[0], messages)
        found = await self._repository.get_session(user_id, session_id)
        if found is None and not whole and await self._is_taken(session_id):
            # By another user, unless the user's own was created since.
            found = await self._repository.get_session(user_id, session_id)
            if found is None:
                raise SessionConflictError("the session id is taken by another user's session")
        if found is None:
            return Conversation(user_id, session_id)
        messages = await self._messages(found, limit, after(found.metadata) if after else None)
        return Conversation(user_id, found.session_id, found, found.version, messages, whole)

    async def _messages(
        self, chat_session: ChatSession, limit: int | None, after: str | None
    ) -> list[ChatMessage]:
        key = chat_session.user_id, chat_session.session_id
        if after is not None:
            try:
                if messages := await self._repository.get_session_history(*key, after=after):
                    return messages
            except InvalidInputError:
                # The message is gone, and the summary that ends with it no longer holds.
                chat_session.metadata.pop(SUMMARY, None)
        return await self._repository.get_session_history(*key, limit=limit)

    async def _is_taken(self, session_id: str) -> bool:
        """Return whether there is such a session, of whichever user."""
        try:
            await self._repository.add_messages(session_id, ())  # An empty batch only checks that.
        except SessionNotFoundError:
            return False
        return True

    async def append(
        self, conversation: Conversation, messages: Sequence[NewMessage], *, title: str | None = None
    ) -> list[str]:
        """Append messages, and create the session if there was none; all or none. Return their ids.

        Args:
            conversation: The conversation, as the turn has read it.
            messages: The messages.
            title: Title of a new session.

        Raises:
            TurnConflictError: There is a newer message than the turn has seen; nothing is stored.
            SessionNotFoundError: The session was deleted meanwhile; nothing is stored.
        """
        user_id, session_id = conversation.user_id, conversation.session_id
        if conversation.version is None and (ids := await self._create(conversation, messages, title)):
            return ids
        for _ in range(MAX_ATTEMPTS):
            try:
                ids = await self._repository.add_messages(
                    session_id, messages, user_id=user_id, expected_version=conversation.version
                )
            except VersionConflictError as error:
                await self._renew(conversation, error)
            else:
                self._remember(conversation, (conversation.version or 0) + 1, ids)
                return ids
        raise TurnConflictError("the session changes too often to store a turn")

    async def _create(
        self, conversation: Conversation, messages: Sequence[NewMessage], title: str | None
    ) -> list[str]:
        """Store a new session and return the ids of its messages; none if it has been created since."""
        data, new = {"title": title}, [with_id(message) for message in messages]
        user_id, session_id = conversation.user_id, conversation.session_id
        try:
            await self._repository.create_session_async(user_id, data, messages=new, session_id=session_id)
        except SessionConflictError as error:
            await self._renew(conversation, error)  # Raises if it is another user's.
            return []
        ids = [str(message.message_id) for message in new]
        self._remember(conversation, 0, ids)
        return ids

    async def _renew(self, conversation: Conversation, error: Exception) -> None:
        """Take over the session's version, if its messages are still those that the turn has seen."""
        user_id, session_id = conversation.user_id, conversation.session_id
        self._known.pop((user_id, session_id), None)
        found = await self._repository.get_session(user_id, session_id)
        if found is None:
            if isinstance(error, SessionConflictError) and await self._is_taken(session_id):
                raise error
            raise SessionNotFoundError("the session was deleted during the turn") from error
        # All of them if all are to be replaced.
        limit = None if conversation.is_whole else 1
        messages = await self._repository.get_session_history(user_id, session_id, limit=limit)
        seen = [message.message_id for message in conversation.messages]
        if [message.message_id for message in messages] != (seen if conversation.is_whole else seen[-1:]):
            raise TurnConflictError("another turn has changed the conversation meanwhile") from error
        if conversation.is_whole:
            conversation.messages[:] = messages
        conversation.version = found.version

    async def replace(
        self, conversation: Conversation, kept: int, messages: Sequence[NewMessage]
    ) -> list[str]:
        """Replace the last messages of a conversation that was read whole; all or none. Return the new ids.

        Args:
            conversation: The conversation, as the turn has read it.
            kept: How many of its first messages stay.
            messages: The messages after them.

        Raises:
            TurnConflictError: The messages are not those that the turn has seen; nothing is stored.
            SessionNotFoundError: The session was deleted meanwhile; nothing is stored.
        """
        for _ in range(MAX_ATTEMPTS):
            stays = [again(message) for message in conversation.messages[:kept]]
            try:
                ids = await self._repository.replace_messages(
                    conversation.user_id,
                    conversation.session_id,
                    [*stays, *messages],
                    expected_version=conversation.version,
                )
            except VersionConflictError as error:
                await self._renew(conversation, error)
            else:
                self._remember(conversation, (conversation.version or 0) + 1, ids)
                return ids[kept:]
        raise TurnConflictError("the session changes too often to store a turn")

    async def branch(
        self, conversation: Conversation, kept: int, messages: Sequence[NewMessage], session_id: str
    ) -> list[str]:
        """Store a new session: copies of a conversation's first messages, then others; all or none.

        Returns the ids of the others.

        Args:
            conversation: The conversation.
            kept: How many of its first messages are copied.
            messages: The messages after them.
            session_id: Id of the new session.
        """
        copies = [again(message, is_copy=True) for message in conversation.messages[:kept]]
        new = [with_id(message) for message in messages]
        data = {"title": conversation.chat_session.title if conversation.chat_session else None}
        await self._repository.create_session_async(
            conversation.user_id, data, messages=[*copies, *new], session_id=session_id
        )
        return [str(message.message_id) for message in new]

    def _remember(self, conversation: Conversation, version: int, ids: Sequence[str]) -> None:
        key = conversation.user_id, conversation.session_id
        self._known.pop(key, None)
        self._known[key] = version, ids[-1]
        if len(self._known) > MAX_KNOWN:
            with contextlib.suppress(RuntimeError):  # Another thread changes it just now.
                self._known.pop(next(iter(self._known)), None)

    def forget(self, user_id: str, session_id: str) -> None:
        """Read the version of a session again at its next turn."""
        self._known.pop((user_id, session_id), None)


def again(message: ChatMessage, *, is_copy: bool = False) -> NewMessage:
    """Return a stored message as one to store, under a new id if it is a copy."""
    return NewMessage(
        message.role,
        message.content,
        message_id=None if is_copy else message.message_id,
        timestamp=message.timestamp,
        metadata=message.metadata,
        payload=message.payload,
    )


def with_id(message: NewMessage) -> NewMessage:
    """Return a message with an id."""
    return message if message.message_id is not None else replace(message, message_id=new_message_id())
