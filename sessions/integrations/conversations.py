"""Sessions of a framework whose ids are those of the conversations, created with their first messages."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sessions.errors import InvalidInputError, SessionConflictError, SessionNotFoundError
from sessions.integrations.common import new_message_id, session_id_for, session_metadata, title_for
from sessions.models import ChatMessage, NewMessage, SessionData
from sessions.validation import DEFAULT_TITLE

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

    Change = Callable[[Sequence[NewMessage]], Awaitable[list[str]]]

__all__ = ["Conversation", "Conversations", "NotJsonError", "as_decoded"]

# Rounds in which somebody else creates or deletes the session between two calls.
ATTEMPTS = 5
REMEMBERED = 10_000


class Conversation:
    """One session of a framework, which comes into being with its first messages.

    Args:
        repository: Where it is stored.
        user_id: Owner.
        framework: Name of the framework.
        framework_session_id: The framework's own id.
        session_id: Id of the session; None for that of `session_id_for`.

    Attributes:
        session_id: Id of the session.
        is_titled: Whether a message of the user is known to have given the session its title.
    """

    def __init__(
        self,
        repository: AsyncSessionRepository,
        user_id: str,
        framework: str,
        framework_session_id: str,
        *,
        session_id: str | None = None,
    ) -> None:
        self.session_id = session_id or session_id_for(framework, user_id, framework_session_id)
        self.is_titled = False
        self._repository = repository
        self._user_id = user_id
        self._metadata = session_metadata(framework, framework_session_id)

    def saw(self, history: Iterable[NewMessage | ChatMessage]) -> None:
        """Take note of a history that was read: whether the session has its title."""
        self.is_titled = self.is_titled or title_for(history) is not None

    async def append(
        self, messages: Sequence[NewMessage], *, merge_metadata: dict[str, Any] | None = None
    ) -> list[str]:
        """Append messages, all or none, and create the session if it does not exist; return their ids.

        Raises:
            SessionConflictError: The id belongs to a session of another user.
        """

        async def add(stored: Sequence[NewMessage]) -> list[str]:
            if len(stored) == 1 and merge_metadata is None:
                (only,) = stored
                # The statement for one message is the fastest.
                return [
                    await self._repository.add_message(
                        self.session_id,
                        only.role,
                        only.content,
                        user_id=self._user_id,
                        message_id=only.message_id,
                        timestamp=only.timestamp,
                        metadata=only.metadata,
                        payload=only.payload,
                    )
                ]
            return await self._repository.add_messages(
                self.session_id, stored, user_id=self._user_id, merge_metadata=merge_metadata
            )

        return await self._store(add, messages, merge_metadata)

    async def replace(
        self, messages: Sequence[NewMessage], *, expected_version: int | None = None
    ) -> list[str]:
        """Replace the whole history atomically, and create the session if it does not exist; return the ids.

        The new messages have the time of the newest former one: what another process appends meanwhile
        follows them, whichever of the two began first.

        Raises:
            SessionConflictError: The id belongs to a session of another user.
            VersionConflictError: The session has another version; nothing is changed.
        """

        async def exchange(stored: Sequence[NewMessage]) -> list[str]:
            newest = await self._repository.get_session_history(self._user_id, self.session_id, limit=1)
            if newest:
                stored = [replace(each, timestamp=newest[0].timestamp) for each in stored]
            return await self._repository.replace_messages(
                self._user_id, self.session_id, stored, expected_version=expected_version
            )

        return await self._store(exchange, messages, None)

    async def _store(
        self, change: Change, messages: Sequence[NewMessage], merge_metadata: dict[str, Any] | None
    ) -> list[str]:
        try:
            return await self._store_or_create(change, messages, merge_metadata)
        except InvalidInputError as error:  # Raised before any I/O.
            decoded = as_decoded(messages, error)
        return await self._store_or_create(change, decoded, merge_metadata)

    async def _store_or_create(
        self, change: Change, messages: Sequence[NewMessage], merge_metadata: dict[str, Any] | None
    ) -> list[str]:
        for remaining in reversed(range(ATTEMPTS)):
            try:
                ids = await change(messages)
            except SessionNotFoundError:
                pass
            else:
                if not self.is_titled and (title := title_for(messages)) is not None:
                    await self._set_title(title)
                return ids
            try:
                return await self._create(messages, merge_metadata or {})
            except SessionConflictError:
                # Somebody else has created it meanwhile, or it is another user's.
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    async def _create(self, messages: Sequence[NewMessage], merge_metadata: dict[str, Any]) -> list[str]:
        title = title_for(messages)
        identified = [replace(each, message_id=each.message_id or new_message_id()) for each in messages]
        data: SessionData = {"title": title, "metadata": {**self._metadata, **merge_metadata}}
        await self._repository.create_session_async(
            self._user_id, data, messages=identified, session_id=self.session_id
        )
        self.is_titled = title is not None
        return [str(each.message_id) for each in identified]

    async def _set_title(self, title: str) -> None:
        """Title a session that began without a message of the user."""
        await self._repository.update_session_async(
            self._user_id, self.session_id, {"title": title}, touch=False, if_title=DEFAULT_TITLE
        )
        self.is_titled = True


class Conversations:
    """The conversations of one user that a store has used lately.

    Args:
        repository: Where they are stored.
        user_id: Owner.
        framework: Name of the framework.
    """

    def __init__(self, repository: AsyncSessionRepository, user_id: str, framework: str) -> None:
        self._repository = repository
        self._user_id = user_id
        self._framework = framework
        self._used: OrderedDict[str, Conversation] = OrderedDict()

    def of(self, framework_session_id: str) -> Conversation:
        """Return the conversation with a framework's id; nothing is read."""
        found = self._used.pop(framework_session_id, None)
        if found is None:
            found = Conversation(self._repository, self._user_id, self._framework, framework_session_id)
        self._used[framework_session_id] = found
        if len(self._used) > REMEMBERED:
            self._used.popitem(last=False)
        return found


class NotJsonError(InvalidInputError, TypeError):
    """A payload has a value that JSON cannot express: a `TypeError`, too, as frameworks expect."""


def as_decoded(messages: Sequence[NewMessage], error: InvalidInputError) -> list[NewMessage]:
    """Return messages with their payloads as JSON text gives them back.

    A key that is a number becomes text, and a surrogate pair the character that it stands for.

    Args:
        messages: Messages that the repository rejected.
        error: Its error.

    Raises:
        InvalidInputError: The error, if JSON cannot express a payload.
    """
    try:
        return [replace(each, payload=json.loads(json.dumps(each.payload))) for each in messages]
    except TypeError:
        raise NotJsonError(error.argument, error.reason) from None
    except (ValueError, RecursionError):
        raise error from None
