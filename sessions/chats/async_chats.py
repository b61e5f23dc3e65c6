"""`AsyncChats`: every operation under its plain name, with the user first and the owner always checked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from sessions import validation
from sessions.chats.opening import OpenedChats, Role, SessionData, merged
from sessions.models import ChatMessage, ChatSession, SessionPage

__all__ = ["AsyncChats"]


class AsyncChats(OpenedChats):
    """The conversations of one database, for callers with an event loop.

    ::

        async with AsyncChats("postgresql://…") as chats:
            session_id = await chats.create_session("alice", title="Trip to Rome")
            await chats.add_message("alice", session_id, "user", "What should I see first?")
            history = await chats.get_session_history("alice", session_id)

    Cheap to create: all instances for the same database share its connections, and the last ``async with``
    block of a database closes them.

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

    def using(self, transaction: Any) -> AsyncChats:
        """Return chats whose operations run in a transaction of the caller's own.

        See `AsyncSessionRepository.using`.

        Args:
            transaction: For SQL an ``AsyncSession`` or ``AsyncConnection`` of the same database, for MongoDB
                a client session in a transaction.

        Raises:
            ConfigurationError: It is none of these.
        """
        return AsyncChats(repository=self._repository.using(transaction))

    # -- Sessions ----------------------------------------------------------------------------------

    async def create_session(
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
        return await self._repository.create_session_async(user_id, merged(session_data, title, metadata))

    async def ensure_session_exists(
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
        return await self._repository.ensure_session_exists(session_id, user_id, data)

    async def get_session(self, user_id: str, session_id: str | UUID) -> ChatSession | None:
        """Return one session, or None if the user has no such session."""
        return await self._repository.get_session(user_id, session_id)

    async def update_session(
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
        return await self._repository.update_session_async(
            user_id, session_id, {} if changes is None else changes
        )

    async def delete_session(self, user_id: str, session_id: str | UUID) -> bool:
        """Delete a session with its messages; return whether the user had such a session."""
        return await self._repository.delete_session_async(user_id, session_id)

    async def list_sessions(self, user_id: str, *, limit: int = 10, cursor: str | None = None) -> SessionPage:
        """Return the next page of a user's sessions, newest first, as cheaply for any page.

        Args:
            user_id: Owner.
            limit: Sessions on a page, 1 to 1000.
            cursor: ``next_cursor`` of the page before; None for the first.
        """
        return await self._repository.list_sessions(user_id, limit=limit, cursor=cursor)

    async def count_sessions(self, user_id: str) -> int:
        """Return how many sessions a user has."""
        return await self._repository.count_sessions(user_id)

    # -- Messages ----------------------------------------------------------------------------------

    async def add_message(self, user_id: str, session_id: str | UUID, role: Role, content: str) -> str:
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
        return await self._repository.add_message(session_id, role, content, user_id=owner)

    async def add_messages(
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
        return await self._repository.add_messages(session_id, messages, user_id=owner)

    async def get_session_history(
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
        return await self._repository.get_session_history(user_id, session_id, limit=limit, before=before)

    # -- Retention ---------------------------------------------------------------------------------

    async def keep_latest_sessions(self, user_id: str, keep_last_n: int) -> int:
        """Delete a user's sessions except the newest ones, with their messages; return how many."""
        return await self._repository.keep_latest_sessions(user_id, keep_last_n)

    async def delete_sessions_older_than(self, user_id: str, cutoff: datetime) -> int:
        """Delete a user's sessions last changed before a point in time; return how many.

        Args:
            user_id: Owner.
            cutoff: Timezone-aware; sessions with ``updated_at`` before it are deleted with their messages.
        """
        owner = validation.check_user_id(user_id)
        return await self._repository.delete_sessions_older_than(cutoff, user_id=owner)

    async def delete_user(self, user_id: str) -> int:
        """Delete all of a user's sessions with their messages; return how many sessions."""
        return await self._repository.delete_user(user_id)

    def export_user(self, user_id: str) -> AsyncGenerator[tuple[ChatSession, list[ChatMessage]], None]:
        """Iterate over a user's sessions with their messages, oldest first, in constant memory.

        A session with more than 1000 messages comes in several parts, one after the other.
        """
        return self._repository.export_user(user_id)

    # -- Lifecycle ---------------------------------------------------------------------------------

    async def ensure_ready(self) -> None:
        """Connect and make the schema ready, or raise why not."""
        await self._repository.ensure_ready()

    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises."""
        return await self._repository.is_healthy()

    async def aclose(self) -> None:
        """Release the connections, which all that use the same database share; a later call reconnects."""
        await self._repository.aclose()

    async def __aenter__(self) -> Self:
        await self._repository.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._repository.__aexit__(exc_type, exc, traceback)
