"""What the stores for agent frameworks share: ids of sessions, messages that can be stored, and titles."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sessions.core.blocking import run_blocking
from sessions.core.identifiers import new_message_id
from sessions.core.texts import storable
from sessions.core.titles import title_of
from sessions.errors import (
    InvalidInputError,
    MissingDependencyError,
    SessionConflictError,
    SessionNotFoundError,
)
from sessions.models import ChatMessage, NewMessage, Role, SessionData
from sessions.validation import DEFAULT_TITLE

if TYPE_CHECKING:
    from sessions.repositories import AsyncSessionRepository

    Change = Callable[[Sequence[NewMessage]], Awaitable[list[str]]]

__all__ = [
    "FRAMEWORK",
    "FRAMEWORK_SESSION_ID",
    "NAMESPACE",
    "Conversation",
    "Conversations",
    "as_decoded",
    "derived_id",
    "missing",
    "new_message",
    "run_blocking",
    "session_id_for",
    "session_metadata",
    "settled",
    "title_for",
]

R = TypeVar("R")

# Sessions that exist have ids derived from it: it never changes.
NAMESPACE = uuid.UUID("5b1e7a52-3f0d-4c55-9d0a-0e6f5c9c2a17")
# Keys of a session's metadata.
FRAMEWORK = "framework"
FRAMEWORK_SESSION_ID = "framework_session_id"
# Rounds in which somebody else creates or deletes the session between two calls.
ATTEMPTS = 5
REMEMBERED = 10_000
LONGEST_INTEGER = 2**63 - 1


def missing(framework: str, extra: str, error: ImportError) -> MissingDependencyError:
    """Return the error for a framework that is not installed.

    Args:
        framework: Its import name.
        extra: The extra that installs it.
        error: What its import raised.
    """
    package = str(error.name or framework).partition(".")[0]
    return MissingDependencyError(
        f"sessions.integrations.{extra.replace('-', '_')} needs {package}; "
        f"install it with: pip install 'agenthub-sessions[{extra}]'"
    )


def derived_id(*parts: str) -> str:
    """Return the same UUID for the same parts, in every process and release.

    It is the UUID of version 5, in `NAMESPACE`, of the parts as a JSON array without spaces, in ASCII.
    """
    return str(uuid.uuid5(NAMESPACE, json.dumps(parts, separators=(",", ":"))))


def session_id_for(framework: str, user_id: str, framework_session_id: str) -> str:
    """Return the id of the session for a framework's own session id.

    A UUID in its canonical form is taken as it is. Any other text gives a UUID that depends on the framework,
    the user and the text: the same text of two users is two sessions.

    Args:
        framework: Name of the framework, such as ``"openai-agents"``.
        user_id: Owner.
        framework_session_id: The framework's id.
    """
    try:
        if str(uuid.UUID(framework_session_id)) == framework_session_id:
            return framework_session_id
    except ValueError:
        pass
    return derived_id(framework, user_id, framework_session_id)


def session_metadata(framework: str, framework_session_id: str) -> dict[str, Any]:
    """Return the metadata by which a framework's sessions are found with ``where``."""
    return {FRAMEWORK: framework, FRAMEWORK_SESSION_ID: storable(framework_session_id)}


def new_message(
    role: Role,
    content: str,
    payload: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
    message_id: str | None = None,
    timestamp: datetime | None = None,
) -> NewMessage:
    """Return a message that every backend can store.

    Args:
        role: Role.
        content: Plain text of the item; U+FFFD replaces what cannot be stored.
        payload: The framework's item as a JSON value.
        metadata: Known facts, such as ``model``, ``usage.input_tokens``, ``usage.output_tokens``,
            ``tool.name`` and ``agent.name``; what is neither text nor a 64-bit integer is left out.
        message_id: Unique id; None for a new one.
        timestamp: Timezone-aware; None for the time of writing.
    """
    known: dict[str, Any] = {}
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            known[key] = storable(value)
        elif isinstance(value, int) and abs(value) <= LONGEST_INTEGER:
            known[key] = value
    return NewMessage(
        role, storable(content), message_id=message_id, timestamp=timestamp, metadata=known, payload=payload
    )


async def settled(write: Awaitable[R]) -> R:
    """Wait for a write also if the caller is cancelled, and then raise the cancellation.

    So a framework that cancels a run can rely on what it finds stored. The repository's time limits bound
    the wait.
    """
    task = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            # Further cancellations do not end the wait, either.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # It is not reported: the cancellation is raised in its place.
        raise


def title_for(messages: Iterable[NewMessage | ChatMessage]) -> str | None:
    """Return the title of a session from its first message of the user that has a word; None without one."""
    return next(
        (title for each in messages if each.role == "user" and (title := title_of(each.content))), None
    )


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

    def saw(self, history: Sequence[ChatMessage]) -> None:
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

        Raises:
            SessionConflictError: The id belongs to a session of another user.
            VersionConflictError: The session has another version; nothing is changed.
        """

        async def exchange(stored: Sequence[NewMessage]) -> list[str]:
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


def as_decoded(messages: Sequence[NewMessage], error: InvalidInputError) -> list[NewMessage]:
    """Return messages with their payloads as JSON text gives them back.

    A key that is a number becomes text, and a surrogate pair the character that it stands for.
    """
    try:
        return [replace(each, payload=json.loads(json.dumps(each.payload))) for each in messages]
    except (TypeError, ValueError, RecursionError):
        raise error from None
