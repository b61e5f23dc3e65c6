"""The async operations: each checks its arguments, then runs the backend's own part with retries.

Ids and times are generated once, before the first attempt, so every attempt is idempotent.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from sessions import validation
from sessions.core.cursors import decode_cursor, encode_cursor
from sessions.core.identifiers import Identifier, new_message_id, new_session_id, utc_now
from sessions.core.port import BackendOperations, ConnectionManager, EarlierAttempts, MessageRow, NewSession
from sessions.errors import SessionConflictError, SessionNotFoundError, SessionsError
from sessions.models import ChatMessage, ChatSession, SessionPage
from sessions.resilience import RetryConfig, call_with_retry

__all__ = ["AsyncOperations"]

R = TypeVar("R")
SessionData = Mapping[str, Any] | None

# Sessions deleted, or messages exported, by one statement: bounds locks and memory.
BATCH_SIZE = 1000


class AsyncOperations(BackendOperations):
    """The async half of every built-in repository.

    Raises:
        InvalidInputError: From every operation: an argument is invalid; nothing was sent.
        BackendUnavailableError: From every operation: the database cannot be used, after the retries.
        SchemaOutdatedError: From every operation: the schema is older and ``auto_migrate`` is off, or it
            lacks what this package needs.
        ConfigurationError: From every operation: the database refuses the user or the database name.
    """

    @property
    @abstractmethod
    def _retry(self) -> RetryConfig:
        """Attempts and delays for transient errors."""

    # -- Sessions ----------------------------------------------------------------------------------

    async def create_session_async(self, user_id: str, session_data: SessionData = None) -> str:
        """Create a session and return its id, a UUID.

        Args:
            user_id: Owner, 1 to 255 characters.
            session_data: ``title`` (1 to 255 characters, default "New Chat") and ``metadata`` (a JSON
                object, default empty); either may be absent or None.
        """
        new = self._new_session(new_session_id(), validation.check_user_id(user_id), session_data)
        await self._run("create_session", self._create, new)
        return new.session_id

    async def ensure_session_exists(
        self, session_id: Identifier, user_id: str, session_data: SessionData = None
    ) -> bool:
        """Create the session unless it exists; idempotent, and safe under concurrent calls.

        Args:
            session_id: A UUID, as text or ``uuid.UUID``; with MongoDB any text of 1 to 255 characters.
            user_id: Owner.
            session_data: As in `create_session`; used only if the session is created.

        Returns:
            True for exactly one of any number of concurrent callers, the one that created it.

        Raises:
            SessionConflictError: The id is taken by another user's session.
        """
        new = self._new_session(*self._check_key(session_id, user_id), session_data)
        created = await self._run_counting_attempts("ensure_session_exists", self._ensure, new)
        if created is None:
            raise SessionConflictError("the session id is taken by another user's session")
        return created

    async def get_session(self, user_id: str, session_id: Identifier) -> ChatSession | None:
        """Return one session, or None if the user has no such session."""
        session_id, user_id = self._check_key(session_id, user_id)
        return await self._run("get_session", self._get, session_id, user_id)

    async def update_session_async(
        self, user_id: str, session_id: Identifier, data: Mapping[str, Any]
    ) -> bool:
        """Change the title, or replace the metadata, of a session, and bump its ``updated_at``.

        Args:
            user_id: Owner.
            session_id: The session.
            data: ``title`` and ``metadata``; None or an absent key keeps the old value.

        Returns:
            Whether the user has such a session.
        """
        session_id, user_id = self._check_key(session_id, user_id)
        title, metadata = validation.check_update(data)
        self._check_size("metadata", metadata)
        return await self._run("update_session", self._update, session_id, user_id, title, metadata)

    async def delete_session_async(self, user_id: str, session_id: Identifier) -> bool:
        """Delete a session and its messages; return whether the user had such a session.

        Also True if the session is absent and the response to an earlier attempt, which may have deleted
        it, was lost.
        """
        session_id, user_id = self._check_key(session_id, user_id)
        return await self._run_counting_attempts("delete_session", self._delete, session_id, user_id)

    async def list_paginated_sessions_async(
        self, user_id: str, page: int = 0, limit: int = 10
    ) -> list[ChatSession]:
        """Return one page of a user's sessions, newest first.

        Args:
            user_id: Owner.
            page: Counts from 0. Far pages read all before them; `list_sessions` does not.
            limit: Sessions on a page, 1 to 1000.
        """
        user_id = validation.check_user_id(user_id)
        page, limit = validation.check_page(page), validation.check_limit(limit)
        return await self._run("list_paginated_sessions", self._list_page, user_id, page * limit, limit)

    async def list_sessions(self, user_id: str, *, limit: int = 10, cursor: str | None = None) -> SessionPage:
        """Return the next page of a user's sessions, newest first, as cheaply for any page.

        While others write, no session comes twice, and none is missed that was not itself changed.

        Args:
            user_id: Owner.
            limit: Sessions on a page, 1 to 1000.
            cursor: ``next_cursor`` of the page before; None for the first.
        """
        user_id, limit = validation.check_user_id(user_id), validation.check_limit(limit)
        after = None if cursor is None else decode_cursor(cursor, self._check_session_id)
        found = await self._run("list_sessions", self._list_after, user_id, after, limit + 1)
        # One more than asked for tells whether there is a next page.
        page = found[:limit]
        return SessionPage(page, encode_cursor(page[-1]) if len(found) > limit else None)

    async def count_sessions(self, user_id: str) -> int:
        """Return how many sessions a user has."""
        return await self._run("count_sessions", self._count, validation.check_user_id(user_id))

    # -- Messages ----------------------------------------------------------------------------------

    async def add_message(
        self, session_id: Identifier, role: str, content: str, *, user_id: str | None = None
    ) -> str:
        """Append a message to a session, bump the session's ``updated_at``, and return the message's id.

        Args:
            session_id: The session.
            role: ``"user"`` or ``"assistant"``.
            content: Text without NUL and lone surrogates; may be empty.
            user_id: If given, the session must also belong to this user.

        Raises:
            SessionNotFoundError: There is no such session; nothing is stored.
        """
        session_id = self._check_session_id("session_id", session_id)
        role, content = validation.check_role(role), validation.check_content(content)
        self._check_size("content", content)
        user_id = None if user_id is None else validation.check_user_id(user_id)
        message_id = new_message_id()
        if not await self._run("add_message", self._add, session_id, user_id, message_id, role, content):
            raise _not_found()
        return message_id

    async def add_messages(
        self, session_id: Identifier, messages: Iterable[tuple[str, str]], *, user_id: str | None = None
    ) -> list[str]:
        """Append messages to a session in their order, all of them or none, and return their ids.

        Args:
            session_id: The session.
            messages: ``(role, content)`` pairs; an empty batch only checks that the session is there.
            user_id: If given, the session must also belong to this user.

        Raises:
            SessionNotFoundError: There is no such session; nothing is stored.
        """
        session_id = self._check_session_id("session_id", session_id)
        pairs = validation.check_messages(messages)
        user_id = None if user_id is None else validation.check_user_id(user_id)
        rows = [MessageRow(new_message_id(), role, content) for role, content in pairs]
        self._check_batch_size(rows)
        if not await self._run("add_messages", self._add_batch, session_id, user_id, rows):
            raise _not_found()
        return [row.message_id for row in rows]

    async def get_session_history(
        self,
        user_id: str,
        session_id: Identifier,
        *,
        limit: int | None = None,
        before: Identifier | None = None,
    ) -> list[ChatMessage]:
        """Return the messages of a session, oldest first; empty if the user has no such session.

        Args:
            user_id: Owner.
            session_id: The session.
            limit: Only the newest so many, 1 to 1000; None for all.
            before: Only messages before the one with this id.

        Raises:
            InvalidInputError: Also if the user has the session, and it has no message with the id ``before``.
        """
        session_id, user_id = self._check_key(session_id, user_id)
        limit = None if limit is None else validation.check_limit(limit)
        before = None if before is None else self._check_session_id("before", before)
        return await self._run("get_session_history", self._history, session_id, user_id, limit, before)

    # -- Retention ---------------------------------------------------------------------------------

    async def keep_latest_sessions(self, user_id: str, keep_last_n: int) -> int:
        """Delete a user's sessions except the newest ones, with their messages; return how many."""
        user_id = validation.check_user_id(user_id)
        keep_last_n = validation.check_count("keep_last_n", keep_last_n)
        return await self._run_batches("keep_latest_sessions", self._delete_beyond, user_id, keep_last_n)

    async def delete_sessions_older_than(self, cutoff: datetime, *, user_id: str | None = None) -> int:
        """Delete sessions last changed before a point in time, with their messages; return how many.

        Args:
            cutoff: Timezone-aware; sessions with ``updated_at`` before it go.
            user_id: Only this user's sessions; None for everybody's.
        """
        cutoff = validation.check_cutoff(cutoff)
        user_id = None if user_id is None else validation.check_user_id(user_id)
        return await self._run_batches("delete_sessions_older_than", self._delete_older, cutoff, user_id)

    async def delete_user(self, user_id: str) -> int:
        """Delete all of a user's sessions with their messages; return how many sessions."""
        return await self._run_batches("delete_user", self._delete_user, validation.check_user_id(user_id))

    async def export_user(self, user_id: str) -> AsyncGenerator[tuple[ChatSession, list[ChatMessage]], None]:
        """Yield every session of a user with its messages, oldest first, in constant memory.

        A session with more than 1000 messages comes in several parts, one after the other, each with the
        next 1000 of them. A session that is written to meanwhile comes once, not never.

        Args:
            user_id: Owner.
        """
        user_id = validation.check_user_id(user_id)
        seen: set[str] = set()
        last: ChatSession | None = None
        while found := await self._run("export_user", self._export_sessions, user_id, last, BATCH_SIZE):
            for last in found:
                if last.session_id in seen:
                    continue
                seen.add(last.session_id)
                async for part in self._export_messages_of(last):
                    yield last, part

    async def _export_messages_of(self, chat_session: ChatSession) -> AsyncIterator[list[ChatMessage]]:
        after: ChatMessage | None = None
        while True:
            part = await self._run(
                "export_user",
                self._export_messages,
                chat_session.session_id,
                chat_session.user_id,
                after,
                BATCH_SIZE,
            )
            if part or after is None:
                yield part
            if len(part) < BATCH_SIZE:
                return
            after = part[-1]

    # -- Lifecycle ---------------------------------------------------------------------------------

    async def ensure_ready(self) -> None:
        """Connect and make the schema ready, or raise why not.

        For the start of a service: a wrong setting, an old schema or an absent database is found before the
        first request. Every call checks the database, also if it was ready before.
        """
        await self._run("ensure_ready", self._make_ready)

    async def _make_ready(self) -> None:
        await self._manager.make_ready()
        # Reads an absent session: checks the right to read the sessions.
        await self._get(new_session_id(), new_session_id())

    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises.

        The reason for False is logged as a warning.
        """
        manager: ConnectionManager = self._manager
        return await manager.is_healthy()

    async def aclose(self) -> None:
        """Release the connections, which repositories of the same database share, at once.

        A second close does nothing; a later call connects again. A service's own engine or client is
        never closed. Of several ``async with`` blocks on the same database, the last one to end closes.
        """
        await self._manager.aclose()

    async def __aenter__(self) -> Self:
        self._manager.hold()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._manager.release():
            await self.aclose()

    # -- The path of every operation ---------------------------------------------------------------

    def _check_key(self, session_id: object, user_id: object) -> tuple[str, str]:
        return self._check_session_id("session_id", session_id), validation.check_user_id(user_id)

    def _new_session(self, session_id: str, user_id: str, session_data: object) -> NewSession:
        title, metadata = validation.check_session_data(session_data)
        self._check_size("metadata", metadata)
        return NewSession(session_id, user_id, title, metadata, utc_now(), self._new_key())

    async def _run(self, operation: str, work: Callable[..., Awaitable[R]], *arguments: Any) -> R:
        manager: ConnectionManager = self._manager
        try:
            # A background step is one attempt: after a cancellation there is no retry.
            attempt = functools.partial(
                manager.run_step, functools.partial(self._attempt, self._bound(work), arguments)
            )
            return await call_with_retry(
                operation, attempt, self._retry, on=manager.is_transient, unwrap=manager.driver_error
            )
        except SessionsError:
            raise
        except Exception as error:
            failure = manager.translate(error)
            if failure is None:
                raise
            cause = failure.__cause__ or error
        # Outside of `except`, so that the driver's error, which may quote the row, is not its context.
        raise failure from cause

    async def _attempt(self, work: Callable[..., Awaitable[R]], arguments: tuple[Any, ...]) -> R:
        # Twice: the first check of the schema, inside the call, may find it ready before it is dropped.
        for _ in range(2):
            seen = self._manager.preparations
            try:
                return await work(*arguments)
            except Exception as error:
                if not await self._manager.prepare_again(error, seen=seen):
                    raise
        return await work(*arguments)

    async def _run_counting_attempts(
        self, operation: str, work: Callable[..., Awaitable[R]], *args: Any
    ) -> R:
        """Do as `_run` does; tell each attempt about the earlier ones."""
        earlier = EarlierAttempts()

        async def counting() -> R:
            try:
                return await work(*args, earlier)
            except Exception as error:
                earlier.failed += 1
                earlier.may_have_worked |= self._manager.outcome_is_unknown(error)
                raise

        return await self._run(operation, counting)

    async def _run_batches(self, operation: str, delete: Callable[..., Awaitable[int]], *args: Any) -> int:
        total = 0
        while deleted := await self._run(operation, delete, *args, BATCH_SIZE):
            total += deleted
        return total


def _not_found() -> SessionNotFoundError:
    # The same text for an absent and a foreign session, and no id: it may be a guess worth confirming.
    return SessionNotFoundError("there is no such session")
