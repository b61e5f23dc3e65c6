"""The interface of a backend: its operations, on arguments that are already checked.

All of them may be called again with the same arguments after a transient error, whether or not the first
attempt took effect. The exceptions are named in their docstrings; they are not retried if an attempt may have
taken effect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeVar

from sessions.core.counting import Counts, Period
from sessions.core.group_commit import GroupCommit
from sessions.core.identifiers import new_session_id
from sessions.core.loops import LoopBound
from sessions.core.telemetry import PoolUse, Target
from sessions.core.values import (
    Append,
    EarlierAttempts,
    HistoryRange,
    MessageChange,
    MessageRow,
    NewSession,
    Position,
    SessionChange,
    StoredMessage,
    Where,
)
from sessions.errors import SessionsError
from sessions.models import ChatMessage, ChatSession, SearchHit, SessionPreview
from sessions.resilience import RetryConfig

__all__ = ["Backend", "ConnectionManager", "payloads_of"]

R = TypeVar("R")


class ConnectionManager(Protocol):
    """The part of a connection manager that the operations use; see `AsyncBaseConnectionManager`."""

    preparations: int
    queues: LoopBound[GroupCommit] | None
    may_end_with_close: ClassVar[bool]

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

    def run_step(self, step: Callable[[], Awaitable[R]]) -> Awaitable[R]:
        """Await one attempt of an operation; a caller that is cancelled returns at once."""
        ...

    async def in_transaction(self, work: Callable[[Any], Awaitable[R]]) -> R:
        """Await ``work(manager)`` in one transaction; commit it, or roll it back on an error."""
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

    def is_conflict(self, error: BaseException) -> bool:
        """Return whether a transient error is due to another writer."""
        ...

    def took_its_timeout(self, error: BaseException) -> bool:
        """Return whether an operation got no connection within the whole timeout of a setting."""
        ...

    def driver_error(self, error: BaseException) -> BaseException:
        """Return the error of the driver itself."""
        ...

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return this package's error for a driver's error."""
        ...

    def target(self) -> Target:
        """Return the database, as telemetry names it."""
        ...

    def shared_name(self) -> str | None:
        """Return a name of the database, by whichever address it is reached; None if nobody else has it."""
        ...

    async def identity(self) -> str | None:
        """Return what tells the database from every other one; None if it is not known."""
        ...

    def identity_epoch(self) -> Hashable:
        """Return what changes when this process sees that the identity may have changed."""
        ...

    def pools(self) -> list[PoolUse]:
        """Return the use of the pools, one for each event loop."""
        ...


def payloads_of(history: Sequence[ChatMessage]) -> list[Any]:
    """Return the payload of each message; of one without a payload the message itself."""
    return [each if each.payload is None else each.payload for each in history]


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

    def perform(self, work: Callable[..., Awaitable[R]], arguments: Sequence[Any]) -> Awaitable[R]:
        """Await one attempt of an operation of this backend.

        Args:
            work: A method of this backend.
            arguments: Its arguments.
        """
        return work(*arguments)

    async def make_ready(self) -> None:
        """Connect, check the schema again, and check the privilege to read the sessions."""
        await self.manager.make_ready()
        # A session that does not exist.
        await self.get(new_session_id(), new_session_id())

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

    def check_batch_size(self, rows: Sequence[MessageRow | StoredMessage]) -> None:
        """Reject a batch that this backend cannot store atomically, or a message that is too large."""
        return

    # -- Sessions ----------------------------------------------------------------------------------

    @abstractmethod
    async def create(self, new: NewSession, rows: list[MessageRow]) -> None:
        """Store a session under a new id, with its first messages, all or none.

        Raises:
            SessionConflictError: The id is taken by another session.
            MessageConflictError: A message id is taken by another message.
        """

    @abstractmethod
    async def ensure(self, new: NewSession, earlier: EarlierAttempts) -> bool | None:
        """Store a session unless the id is taken; return whether it did, or None if by another user.

        An attempt that finds the row of an earlier one has stored it.
        """

    @abstractmethod
    async def get(self, session_id: str, user_id: str) -> ChatSession | None:
        """Return a session, or None if the user has no such session."""

    @abstractmethod
    async def update(self, session_id: str, user_id: str, change: SessionChange) -> bool:
        """Change a session; return whether the user has it, with the title ``if_title`` if that is given.

        Raises ``version`` by one, and ``updated_at`` if ``touch``, only if a value changes.
        Not retried with an ``expected_version``, or with a new title and an ``if_title``, if an attempt may
        have taken effect.

        Raises:
            VersionConflictError: The user has the session, and it has another version than expected.
        """

    @abstractmethod
    async def delete(
        self, session_id: str, user_id: str, expected_version: int | None, earlier: EarlierAttempts
    ) -> bool:
        """Delete a session with its messages; return whether this attempt or an earlier one did.

        Raises:
            VersionConflictError: The session has another version than expected.
        """

    @abstractmethod
    async def list_page(self, user_id: str, offset: int, limit: int) -> list[ChatSession]:
        """Return sessions, newest first, after an offset."""

    @abstractmethod
    async def list_after(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[ChatSession]:
        """Return sessions, newest first, that come after an ``(updated_at, session_id)``."""

    @abstractmethod
    async def list_previews(
        self, user_id: str, after: tuple[datetime, str] | None, limit: int, where: Where | None
    ) -> list[SessionPreview]:
        """Return what `list_after` does, each session with its newest message, in one round trip."""

    @abstractmethod
    async def count(self, user_id: str, where: Where | None) -> int:
        """Return how many sessions a user has."""

    # -- Messages ----------------------------------------------------------------------------------

    @abstractmethod
    async def append(
        self,
        session_id: str,
        user_id: str | None,
        rows: list[MessageRow],
        merge: dict[str, Any] | None,
        expected_version: int | None,
    ) -> bool:
        """Append messages, all or none, and bump the session; return whether the session exists.

        Messages that are stored already, with the same session, role and content, stay as they are. If all of
        them are, nothing changes: neither ``updated_at`` nor ``version`` nor the metadata.

        Args:
            session_id: The session.
            user_id: Owner; None for the session of any user.
            rows: Messages in their order; with none of them, only ``merge`` changes something.
            merge: Top-level keys to set in the session's metadata, in the same transaction.
            expected_version: The version that the session must have; None for any.

        Raises:
            MessageConflictError: An id is taken by another message; nothing is stored.
            VersionConflictError: The session has another version than expected; nothing is stored. Not raised
                if all messages are stored already.
        """

    async def append_many(self, appends: Sequence[Append]) -> list[bool]:
        """Append the messages of several calls, each all or none, as if one call after another.

        Only called if the manager has queues. Any error but a transient one means that nothing is stored. A
        call that is cancelled before its messages are sent is left out.

        Returns:
            Of each call whether its messages are stored. If not, `append` is called with them.
        """
        raise NotImplementedError

    @abstractmethod
    async def history(self, session_id: str, user_id: str, part: HistoryRange) -> list[ChatMessage]:
        """Return messages, oldest first; none if the user has no such session.

        Raises:
            InvalidInputError: The user's session has no message with the id ``before`` or ``after``.
        """

    async def payloads(self, session_id: str, user_id: str, limit: int | None) -> list[Any]:
        """Return `payloads_of` the newest messages, faster where that is possible."""
        return payloads_of(await self.history(session_id, user_id, HistoryRange(limit)))

    @abstractmethod
    async def get_message(self, session_id: str, user_id: str, message_id: str) -> ChatMessage | None:
        """Return a message; None if the user has no such session, or the session no such message."""

    @abstractmethod
    async def count_messages(self, session_id: str, user_id: str) -> int:
        """Return how many messages a session has; 0 if the user has no such session."""

    @abstractmethod
    async def update_message(
        self, session_id: str, user_id: str, message_id: str, change: MessageChange
    ) -> bool:
        """Change a message, which keeps its id, place and timestamp; return whether it exists.

        Raises ``version`` and ``updated_at`` of the session only if a value changes.
        Not retried with an ``expected_version`` if an attempt may have taken effect.

        Raises:
            VersionConflictError: The session has another version than expected.
        """

    @abstractmethod
    async def pop_message(self, session_id: str, user_id: str) -> ChatMessage | None:
        """Remove the newest message and return it; None if there is none.

        No two callers get the same message. Not retried if an attempt may have taken effect.
        """

    @abstractmethod
    async def delete_messages(self, session_id: str, user_id: str, message_ids: list[str]) -> int:
        """Delete messages of a session; return how many."""

    @abstractmethod
    async def delete_messages_from(
        self, session_id: str, user_id: str, message_id: str, inclusive: bool
    ) -> int:
        """Delete the messages after one, and with ``inclusive`` that one; return how many.

        Not retried if an attempt may have taken effect.

        Raises:
            InvalidInputError: The user's session has no message with this id.
        """

    @abstractmethod
    async def clear_messages(self, session_id: str, user_id: str, expected_version: int | None) -> int:
        """Delete all messages of a session, which stays; return how many.

        Not retried with an ``expected_version`` if an attempt may have taken effect.

        Raises:
            VersionConflictError: The session has another version than expected.
        """

    @abstractmethod
    async def replace_messages(
        self, session_id: str, user_id: str, rows: list[MessageRow], expected_version: int | None
    ) -> bool:
        """Replace all messages of a session, atomically; return whether the user has such a session.

        A row with the id of a message that the session has replaces that message, whatever it holds.
        Not retried with an ``expected_version`` if an attempt may have taken effect.

        Raises:
            MessageConflictError: An id is taken by a message of another session; nothing is changed.
            VersionConflictError: The session has another version than expected; nothing is changed.
        """

    @abstractmethod
    async def fork(self, session_id: str, user_id: str, through: str | None, new: NewSession) -> bool:
        """Store a session with copies of another one's messages; return whether the user has that one.

        The copies have new ids, and the same order, timestamps, roles, contents, metadata and payloads.

        Args:
            session_id: The session to copy from.
            user_id: Owner of both.
            through: Id of the last message to copy; None for all.
            new: The session to store; of another one's user. An attempt that finds it stored is done.

        Raises:
            InvalidInputError: The user's session has no message with the id ``through``.
        """

    @abstractmethod
    async def search(
        self, user_id: str, terms: Sequence[str], session_id: str | None, after: Position | None, limit: int
    ) -> list[tuple[SearchHit, Position]]:
        """Return messages that contain all terms, newest first, after a position, each with its own.

        Args:
            user_id: Owner.
            terms: From `distinct_terms`: folded, the longest first.
            session_id: Only in this session; None for all of the user's.
            after: Only messages that come after this position in the result.
            limit: At most so many.
        """

    # -- Retention ---------------------------------------------------------------------------------

    @abstractmethod
    async def delete_beyond(self, user_id: str, keep_last_n: int, limit: int) -> int:
        """Delete up to ``limit`` sessions that are not among the newest ``keep_last_n``."""

    @abstractmethod
    async def delete_older(
        self, cutoff: datetime, user_id: str | None, where: Where | None, limit: int
    ) -> int:
        """Delete up to ``limit`` sessions last changed before a point in time."""

    @abstractmethod
    async def delete_user(self, user_id: str, limit: int) -> int:
        """Delete up to ``limit`` sessions of a user."""

    @abstractmethod
    async def export_sessions(self, user_id: str, after: ChatSession | None, limit: int) -> list[ChatSession]:
        """Return sessions in the order of their last change, after one of them."""

    @abstractmethod
    async def export_messages(
        self, session_id: str, user_id: str, after_position: Position | None, limit: int
    ) -> list[tuple[ChatMessage, Position]]:
        """Return messages of a session, oldest first, after a position, each with its own."""

    @abstractmethod
    async def export_many(self, sessions: list[ChatSession], limit: int) -> list[list[ChatMessage] | None]:
        """Return the messages of each of several sessions, oldest first, with few statements.

        Args:
            sessions: The sessions; one that its user does not have has no messages.
            limit: None stands for a session with so many messages or more, and may stand for others, of
                which too much would be read at once.
        """

    # -- Administration ----------------------------------------------------------------------------

    @abstractmethod
    async def list_users(self, after: str | None, limit: int) -> list[str]:
        """Return up to ``limit`` users with sessions, each once, in one order, after one of them.

        Returns no user only if there are no more. Reads one range of an index.
        """

    @abstractmethod
    async def list_all(self, after: str | None, limit: int) -> list[ChatSession]:
        """Return sessions of all users in the order of their ids, after one of them.

        Reads one range of an index.
        """

    @abstractmethod
    async def restore(self, chat_session: ChatSession, messages: list[StoredMessage]) -> None:
        """Store a session and messages exactly as they are given, in one transaction.

        A session of the same user under this id, and messages of this session under these ids, are
        replaced; a message whose timestamp stays keeps its write order. Other messages stay.

        Raises:
            SessionConflictError: Another user has a session under this id; nothing is stored.
            MessageConflictError: Another session has a message under one of the ids; nothing is stored.
        """

    @abstractmethod
    async def restore_many(
        self, conversations: list[tuple[ChatSession, list[StoredMessage]]], only_new: bool
    ) -> list[str]:
        """Store several sessions with messages, each as `restore` does: whole or not at all.

        If it fails, some of the sessions may be stored.

        Args:
            conversations: Sessions with different ids, and their messages with different ids.
            only_new: Whether to leave a session as it is whose id is taken, by any user.

        Returns:
            The ids of the sessions that were stored.

        Raises:
            SessionConflictError: As from `restore`, for one of them; not with ``only_new``.
            MessageConflictError: As from `restore`, for one of them.
        """

    @abstractmethod
    async def sizes(self) -> dict[str, int]:
        """Return how many bytes each part of the database takes on disk, with all of them as ``total``."""

    @abstractmethod
    async def count_all(self, period: Period) -> Counts:
        """Count what the database holds, and how it is used in a period."""
