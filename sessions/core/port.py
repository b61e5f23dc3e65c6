"""The interface of a built-in backend: its operations, on arguments that are already checked.

All of them are idempotent: after a transient error they are retried with the same arguments, whether or not
the first attempt took effect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeVar

from sessions.errors import SessionsError
from sessions.models import ChatMessage, ChatSession
from sessions.resilience import RetryConfig

__all__ = ["Backend", "ConnectionManager", "EarlierAttempts", "MessageRow", "NewSession"]

R = TypeVar("R")

# message_id, role, content
MessageRow = tuple[str, str, str]


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
