"""The interface of a built-in backend: its operations, on arguments that are already checked.

All of them are idempotent: after a transient error they are retried with the same arguments, whether or not
the first attempt took effect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

from sessions.errors import SessionsError
from sessions.models import UNSET, ChatMessage, ChatSession, Unset
from sessions.resilience import RetryConfig

__all__ = [
    "Backend",
    "ConnectionManager",
    "EarlierAttempts",
    "FoundMessage",
    "HistoryRange",
    "MessageChange",
    "MessageRow",
    "NewSession",
    "SessionChange",
]

R = TypeVar("R")


class MessageRow(NamedTuple):
    """A message to store.

    Attributes:
        message_id: Id, of the caller or generated; the same for each attempt of a call.
        role: Role.
        content: Content.
        timestamp: In UTC; None lets the backend assign one.
        metadata: A JSON object, may be empty; None for an empty one.
        payload: JSON text in ASCII; None for no payload.
    """

    message_id: str
    role: str
    content: str
    timestamp: datetime | None = None
    metadata: dict[str, Any] | None = None
    payload: str | None = None


class FoundMessage(NamedTuple):
    """A message that a search found.

    Attributes:
        chat_session: Its session.
        message: The message.
        write_order: Its place among messages with the same timestamp.
    """

    chat_session: ChatSession
    message: ChatMessage
    write_order: int


@dataclass(slots=True, frozen=True)
class SessionChange:
    """What an update changes of a session.

    Attributes:
        title: New title; None keeps the old one.
        metadata: Replaces the metadata; None keeps the old one.
        merge: Top-level keys to set in the metadata, atomically.
        remove: Top-level keys to remove from the metadata, atomically; none of them is in ``merge``.
        touch: Whether ``updated_at`` becomes the time of the change.
        if_title: Change nothing unless the title is this one.
        expected_version: Change nothing, and report a conflict, unless the version is this one.
    """

    title: str | None = None
    metadata: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    remove: tuple[str, ...] = ()
    touch: bool = True
    if_title: str | None = None
    expected_version: int | None = None


@dataclass(slots=True, frozen=True)
class MessageChange:
    """What an update changes of a message.

    Attributes:
        content: New content; None keeps the old one.
        metadata: Replaces the metadata; None keeps the old one.
        merge: Top-level keys to set in the metadata, atomically.
        payload: JSON text of the new payload; None removes it, `UNSET` keeps it.
        expected_version: Change nothing, and report a conflict, unless the session's version is this one.
    """

    content: str | None = None
    metadata: dict[str, Any] | None = None
    merge: dict[str, Any] | None = None
    payload: str | Unset | None = UNSET
    expected_version: int | None = None


@dataclass(slots=True, frozen=True)
class HistoryRange:
    """The part of a history to read; at most one of ``before``, ``after`` and ``since`` is given.

    Attributes:
        limit: At most so many messages: with ``after`` or ``since`` the oldest, else the newest; None
            for all.
        before: Only messages before the one with this id.
        after: Only messages after the one with this id.
        since: Only messages with this timestamp, in UTC, or a later one.
    """

    limit: int | None = None
    before: str | None = None
    after: str | None = None
    since: datetime | None = None


@dataclass(slots=True, frozen=True)
class NewSession:
    """A session to store; made once, before the first attempt."""

    session_id: str
    user_id: str
    title: str
    metadata: dict[str, Any]
    created_at: datetime
    key: Any = None
    """Result of `Backend.new_key`: the same for each attempt of a call."""


@dataclass(slots=True)
class EarlierAttempts:
    """The earlier attempts of the same call.

    Attributes:
        failed: Number of failed attempts.
        may_have_worked: Whether one of them may have taken effect, because its response was lost.
    """

    failed: int = 0
    may_have_worked: bool = False


class ConnectionManager(Protocol):
    """The part of a connection manager that the operations use; see `AsyncBaseConnectionManager`."""

    preparations: int

    async def connect(self) -> Any:
        """Connect, and make the schema ready."""
        ...

    async def make_ready(self) -> None:
        """Connect, and check the schema again, also if it was ready before."""
        ...

    async def aclose(self) -> None:
        """Release all connections."""
        ...

    def hold(self) -> None:
        """Count a ``with`` block that begins."""
        ...

    def release(self) -> bool:
        """Count a ``with`` block that ends; return whether it was the last."""
        ...

    async def prepare_again(self, error: BaseException, *, seen: int) -> bool:
        """Make the schema ready again if an error reports that it is missing."""
        ...

    async def run_step(self, step: Callable[[], Awaitable[R]]) -> R:
        """Await one attempt of an operation; a caller that is cancelled returns at once."""
        ...

    async def is_healthy(self) -> bool:
        """Return whether a write would work now."""
        ...

    def is_transient(self, error: BaseException) -> bool:
        """Return whether a call that failed with this error may be retried."""
        ...

    def outcome_is_unknown(self, error: BaseException) -> bool:
        """Return whether a call that failed with this error may have taken effect."""
        ...

    def driver_error(self, error: BaseException) -> BaseException:
        """Return the error of the driver itself."""
        ...

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return this package's error for a driver's error."""
        ...


class Backend(ABC):
    """The operations of one backend.

    Args:
        manager: The `ConnectionManager` of its database, or of a caller's transaction.
    """

    DEFAULT_RETRY: ClassVar[RetryConfig]

    # Each backend declares the class of its manager.
    manager: Any

    def __init__(self, manager: Any) -> None:
        self.manager = manager

    def bound(self, work: Callable[..., Awaitable[R]]) -> Callable[..., Awaitable[R]]:
        """Return an operation wrapped in the context that this backend's operations need."""
        return work

    @abstractmethod
    def check_id(self, argument: str, value: object) -> str:
        """Return a session or message id in the form this backend stores."""

    def new_key(self) -> Any:
        """Return a key that identifies the session of one call; most backends need none."""
        return None

    def check_size(self, argument: str, value: str | dict[str, Any] | None) -> None:
        """Reject a value that is too large for this backend; most have no practical limit."""
        return

    def check_message_size(self, row: MessageRow, prefix: str = "") -> None:
        """Reject a message that is too large for this backend; most have no practical limit.

        Args:
            row: The message.
            prefix: What comes before the name of the argument in an error: ``"messages[3]."``.
        """
        return

    def check_batch_size(self, rows: list[MessageRow]) -> None:
        """Reject a batch that this backend cannot store atomically, or a message that is too large."""
        return

    @abstractmethod
    async def create(self, new: NewSession) -> None:
        """Store a session under a new id."""

    @abstractmethod
    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        """Store a session unless the id is taken; return whether it did, or None if by another user.

        An attempt that finds the row of an earlier one has stored it.
        """

    @abstractmethod
    async def get(self, session_id: str, user_id: str) -> ChatSession | None:
        """Return a session, or None if the user has no such session."""

    @abstractmethod
    async def update(
        self, session_id: str, user_id: str, title: str | None, metadata: dict[str, Any] | None
    ) -> bool:
        """Change a session; return whether the user has it."""

    @abstractmethod
    async def delete(self, session_id: str, user_id: str, earlier: EarlierAttempts) -> bool:
        """Delete a session with its messages; return whether this attempt or an earlier one did."""

    @abstractmethod
    async def list_page(self, user_id: str, offset: int, limit: int) -> list[ChatSession]:
        """Return sessions, newest first, after an offset."""

    @abstractmethod
    async def list_after(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int
    ) -> list[ChatSession]:
        """Return sessions, newest first, that come after an ``(updated_at, session_id)``."""

    @abstractmethod
    async def count(self, user_id: str) -> int:
        """Return how many sessions a user has."""

    @abstractmethod
    async def append(self, session_id: str, user_id: str | None, rows: list[MessageRow]) -> bool:
        """Append messages, all or none, and bump the session; return whether the session exists.

        Messages that an earlier attempt stored stay as they are.

        Raises:
            MessageConflictError: An id is taken by another message; nothing is stored.
        """

    @abstractmethod
    async def history(
        self, session_id: str, user_id: str, limit: int | None, before: str | None
    ) -> list[ChatMessage]:
        """Return messages, oldest first; none if the user has no such session.

        Raises:
            InvalidInputError: The user's session has no message with the id ``before``.
        """

    @abstractmethod
    async def search(
        self,
        user_id: str,
        terms: Sequence[str],
        session_id: str | None,
        after: tuple[datetime, int, str] | None,
        limit: int,
    ) -> list[FoundMessage]:
        """Return a user's messages that contain each term, whatever the case, newest first.

        Args:
            user_id: Owner.
            terms: Results of `distinct_terms`, the longest first.
            session_id: The session to search; None for all of the user's.
            after: The ``(timestamp, write_order, message_id)`` to continue after.
            limit: At most so many.
        """

    @abstractmethod
    async def delete_beyond(self, user_id: str, keep_last_n: int, limit: int) -> int:
        """Delete up to ``limit`` sessions that are not among the newest ``keep_last_n``."""

    @abstractmethod
    async def delete_older(self, cutoff: datetime, user_id: str | None, limit: int) -> int:
        """Delete up to ``limit`` sessions last changed before a point in time."""

    @abstractmethod
    async def delete_user(self, user_id: str, limit: int) -> int:
        """Delete up to ``limit`` sessions of a user."""

    @abstractmethod
    async def export_sessions(self, user_id: str, after: ChatSession | None, limit: int) -> list[ChatSession]:
        """Return sessions in the order of their last change, after one of them."""

    @abstractmethod
    async def export_messages(
        self, session_id: str, user_id: str, after: ChatMessage | None, limit: int
    ) -> list[ChatMessage]:
        """Return messages of a session, oldest first, after one of them."""
