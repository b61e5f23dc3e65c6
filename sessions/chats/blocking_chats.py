"""`Chats`: the operations of `AsyncChats` for callers without an event loop; each call blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from sessions import validation
from sessions.chats.opening import OpenedChats, Role, SessionData, merged
from sessions.models import ChatMessage, ChatSession, SessionPage

__all__ = ["Chats"]


class Chats(OpenedChats):
    """The conversations of one database, for callers without an event loop.

    The blocking twin of `AsyncChats`.

    ::

        with Chats("postgresql://…") as chats:
            session_id = chats.create_session("alice", title="Trip to Rome")
            chats.add_message("alice", session_id, "user", "What should I see first?")
            history = chats.get_session_history("alice", session_id)

    May be called from any thread, also from one whose event loop is running, which it blocks.

    Args:
        url: ``postgresql://…``, ``mongodb://…`` or ``sqlite:///…``; None for the settings.
        backend: ``"postgres"``, ``"mongodb"`` or ``"sqlite"``, if there is no URL.
        repository: Use the database of this repository; excludes all other options.
        **options: As for `SessionRepositoryFactory.create_repository`.

    Raises:
        ConfigurationError: A setting is missing or wrong.
        InvalidInputError: From every operation: an argument is invalid; nothing is sent.
        BackendUnavailableError: From every operation: the database cannot be used, after the retries.
        SchemaOutdatedError: From every operation: the schema is older and ``auto_migrate`` is off, or it
            lacks what this package needs.
    """

    # -- Sessions ----------------------------------------------------------------------------------

    def create_session(
        self,
        user_id: str,
        session_data: SessionData | None = None,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Create a session and return its id, a UUID.

        Args:
            user_id: Owner, 1 to 255 characters.
            session_data: ``title`` and ``metadata`` as a mapping, instead of by keyword.
            title: 1 to 255 characters; "New Chat" if not given.
            metadata: A JSON object; empty if not given.
        """
        return self._repository.create_session(user_id, merged(session_data, title, metadata))

    def ensure_session_exists(
        self,
        user_id: str,
        session_id: str | UUID,
        session_data: SessionData | None = None,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Create the session unless it exists; idempotent, and safe to call concurrently.

        Args:
            user_id: Owner.
            session_id: A UUID; with MongoDB any text of 1 to 255 characters.
            session_data: As in `create_session`; used only if the session is created.
            title: As in `create_session`.
            metadata: As in `create_session`.

        Returns:
            True for exactly one of any number of concurrent callers, the one that created it.

        Raises:
            SessionConflictError: The id is taken by another user's session.
        """
        data = merged(session_data, title, metadata)
        return self._repository.ensure_session_exists_sync(session_id, user_id, data)

    def get_session(self, user_id: str, session_id: str | UUID) -> ChatSession | None:
        """Return one session, or None if the user has no such session."""
        return self._repository.get_session_sync(user_id, session_id)

    def update_session(
        self,
        user_id: str,
        session_id: str | UUID,
        data: SessionData | None = None,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Change the title, or replace the metadata, of a session, and bump its ``updated_at``.

        Args:
            user_id: Owner.
            session_id: The session.
            data: ``title`` and ``metadata`` as a mapping, instead of by keyword.
            title: The new title; None keeps the old one.
            metadata: The new metadata; None keeps the old.

        Returns:
            Whether the user has such a session.
        """
        changes = merged(data, title, metadata)
        return self._repository.update_session(user_id, session_id, {} if changes is None else changes)

    def delete_session(self, user_id: str, session_id: str | UUID) -> bool:
        """Delete a session with its messages; return whether the user had such a session."""
        return self._repository.delete_session(user_id, session_id)

    def list_sessions(self, user_id: str, *, limit: int = 10, cursor: str | None = None) -> SessionPage:
        """Return the next page of a user's sessions, newest first, as cheaply for any page.

        Args:
            user_id: Owner.
            limit: Sessions on a page, 1 to 1000.
            cursor: ``next_cursor`` of the page before; None for the first.
        """
        return self._repository.list_sessions_sync(user_id, limit=limit, cursor=cursor)

    def count_sessions(self, user_id: str) -> int:
        """Return how many sessions a user has."""
        return self._repository.count_sessions_sync(user_id)

    # -- Messages ----------------------------------------------------------------------------------

    def add_message(self, user_id: str, session_id: str | UUID, role: Role, content: str) -> str:
        """Append a message to a session, bump its ``updated_at``, and return the message's id.

        Args:
            user_id: Owner.
            session_id: The session.
            role: ``"user"`` or ``"assistant"``.
            content: Text without NUL and lone surrogates; may be empty.

        Raises:
            SessionNotFoundError: The user has no such session; nothing is stored.
        """
        owner = validation.check_user_id(user_id)
        return self._repository.add_message_sync(session_id, role, content, user_id=owner)

    def add_messages(
        self, user_id: str, session_id: str | UUID, messages: Iterable[tuple[Role, str]]
    ) -> list[str]:
        """Append messages to a session in their order, all of them or none, and return their ids.

        Args:
            user_id: Owner.
            session_id: The session.
            messages: ``(role, content)`` pairs; an empty batch only checks that the session exists.

        Raises:
            SessionNotFoundError: The user has no such session; nothing is stored.
        """
        owner = validation.check_user_id(user_id)
        return self._repository.add_messages_sync(session_id, messages, user_id=owner)

    def get_session_history(
        self,
        user_id: str,
        session_id: str | UUID,
        *,
        limit: int | None = None,
        before: str | UUID | None = None,
    ) -> list[ChatMessage]:
        """Return the messages of a session, oldest first; empty if the user has no such session.

        Args:
            user_id: Owner.
            session_id: The session.
            limit: Only the newest so many; None for all.
            before: Only messages before the one with this id.

        Raises:
            InvalidInputError: The session has no message with the id ``before``.
        """
        return self._repository.get_session_history_sync(user_id, session_id, limit=limit, before=before)

    # -- Retention ---------------------------------------------------------------------------------

    def keep_latest_sessions(self, user_id: str, keep_last_n: int) -> int:
        """Delete a user's sessions except the newest ones, with their messages; return how many."""
        return self._repository.keep_latest_sessions_sync(user_id, keep_last_n)

    def delete_sessions_older_than(self, user_id: str, cutoff: datetime) -> int:
        """Delete a user's sessions last changed before a point in time; return how many.

        Args:
            user_id: Owner.
            cutoff: Timezone-aware; sessions with ``updated_at`` before it are deleted with their messages.
        """
        owner = validation.check_user_id(user_id)
        return self._repository.delete_sessions_older_than_sync(cutoff, user_id=owner)

    def delete_user(self, user_id: str) -> int:
        """Delete all of a user's sessions with their messages; return how many sessions."""
        return self._repository.delete_user_sync(user_id)

    def export_user(self, user_id: str) -> Iterator[tuple[ChatSession, list[ChatMessage]]]:
        """Iterate over a user's sessions with their messages, oldest first, in constant memory.

        A session with more than 1000 messages comes in several parts, one after the other.
        """
        return self._repository.export_user_sync(user_id)

    # -- Lifecycle ---------------------------------------------------------------------------------

    def ensure_ready(self) -> None:
        """Connect and make the schema ready, or raise why not."""
        self._repository.ensure_ready_sync()

    def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises."""
        return self._repository.is_healthy_sync()

    def close(self) -> None:
        """Release the connections, which all that use the same database share; a later call reconnects."""
        self._repository.close()

    def __enter__(self) -> Self:
        self._repository.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._repository.__exit__(exc_type, exc, traceback)
