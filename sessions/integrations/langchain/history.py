"""The history of a session, for ``RunnableWithMessageHistory`` or any other use of its messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from sessions.errors import InvalidInputError
from sessions.integrations.common import run_blocking
from sessions.integrations.conversations import Conversation
from sessions.integrations.langchain.messages import (
    of_payload,
    said_by_user,
    to_message,
    to_new_message,
)

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

__all__ = ["ChatMessageHistory"]

FRAMEWORK = "langchain"


class ChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session of one user.

    Async and blocking calls may be mixed; the blocking ones work in any thread, also in one whose event loop
    is running. The session is created with its first messages, and its title is the first message of the
    user. A message that is added twice is there twice.

    Args:
        session_id: A UUID is the session's id; any other text gives an id that depends on the user, too.
        repository: Where the session is stored.
        user_id: Owner.
        history_size: How many of the newest messages to return; None for all.

    Raises:
        InvalidInputError: ``session_id`` is no text or empty, or ``history_size`` is not a number from 0.

    Attributes:
        session_id: As given.
    """

    session_id: str

    def __init__(
        self,
        session_id: str,
        *,
        repository: AsyncSessionRepository,
        user_id: str,
        history_size: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(session_id, str) or not session_id:
            raise InvalidInputError("session_id", "must be a text that is not empty")
        if history_size is not None and (
            not isinstance(history_size, int) or isinstance(history_size, bool) or history_size < 0
        ):
            raise InvalidInputError("history_size", "must be an integer from 0, or None")
        self.session_id = session_id
        self._repository = repository
        self._user_id = user_id
        self._history_size = history_size
        self._conversation = Conversation(repository, user_id, FRAMEWORK, session_id)

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """The messages, oldest first; blocking."""
        return run_blocking(self.aget_messages)

    async def aget_messages(self) -> list[BaseMessage]:
        """Return the messages, oldest first; none if the user has no such session."""
        key, limit = (self._user_id, self._conversation.session_id), self._history_size
        payloads = await self._repository.get_session_payloads(*key, limit=limit)
        messages = [message for each in payloads if (message := of_payload(each)) is not None]
        if len(messages) < len(payloads):
            # LangChain did not store all of them: their text is needed.
            messages = [*map(to_message, await self._repository.get_session_history(*key, limit=limit))]
        self._conversation.saw(said_by_user(messages))
        return messages

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, all or none; blocking.

        Args:
            messages: Messages of the classes of ``langchain_core``.
        """
        run_blocking(self.aadd_messages, messages)

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, all or none.

        Args:
            messages: Messages of the classes of ``langchain_core``.

        Raises:
            InvalidInputError: A message is of another class, or has a value that cannot be stored.
            SessionConflictError: The session is another user's.
        """
        if new := [to_new_message(each) for each in messages]:
            await self._conversation.append(new)

    def clear(self) -> None:
        """Remove all messages; the session stays, with its title. Blocking."""
        run_blocking(self.aclear)

    async def aclear(self) -> None:
        """Remove all messages; the session stays, with its title."""
        await self._repository.clear_messages(self._user_id, self._conversation.session_id)
