"""The parent of the built-in repositories: the operations under the names that users know.

Those of `SharedOperations` have one signature in both interfaces; the others delegate to `Operations`.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from sessions import validation
from sessions.administration import RepositoryAdmin
from sessions.config import load_settings
from sessions.connections import AsyncBaseConnectionManager, ConnectionFactory, ConnectionType
from sessions.connections.built_in import class_of
from sessions.core.appending import append_message, append_messages
from sessions.core.blocking import run_blocking
from sessions.core.calls import Calls
from sessions.core.identifiers import Identifier
from sessions.core.operations import Operations, SharedOperations
from sessions.core.port import Backend
from sessions.core.twins import blocking, iterating
from sessions.models import ChatSession, NewMessage
from sessions.repositories.base_session_repository import BaseSessionRepository
from sessions.resilience import RetryConfig

if TYPE_CHECKING:
    from sessions.chats import AsyncChats

__all__ = ["AsyncSessionRepository"]

R = TypeVar("R")

ONE_ATTEMPT = RetryConfig(max_attempts=1)


class AsyncSessionRepository(SharedOperations, BaseSessionRepository):
    """A session repository with each operation both async and blocking.

    The six operations of `BaseSessionRepository` are async or blocking as there, and their twins carry
    ``_async`` or ``_sync``; every other operation is async, with a ``_sync`` twin, which may be called from
    any thread, also from one whose own event loop is running.

    Args:
        connection_manager: A connection manager, instead of the factory's for the options.
        retry: Attempts and delays for transient errors; None for the settings, or else the backend's
            defaults.
        **options: Options of the backend's connection manager.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    CONNECTION_TYPE: ClassVar[ConnectionType]

    _connection_manager: AsyncBaseConnectionManager  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        *,
        connection_manager: AsyncBaseConnectionManager | None = None,
        retry: RetryConfig | None = None,
        **options: Any,
    ) -> None:
        manager = connection_manager or ConnectionFactory.get_connection_manager(
            self.CONNECTION_TYPE, **options
        )
        assert isinstance(manager, AsyncBaseConnectionManager)
        self._use(manager, retry)

    def _use(self, manager: AsyncBaseConnectionManager, retry: RetryConfig | None) -> None:
        super().__init__(self.CONNECTION_TYPE, connection_manager=manager)
        self._chosen_retry = retry
        backend = _backend_class(self.CONNECTION_TYPE)(manager)
        self._calls = Calls(
            backend, lambda: retry or load_settings().sessions.retry or type(backend).DEFAULT_RETRY
        )
        self._operations = Operations(self._calls)

    @property
    def chats(self) -> AsyncChats:
        """The same operations in plain names; `Chats` with ``repository=`` is the blocking twin."""
        from sessions.chats import AsyncChats

        return AsyncChats(repository=self)

    @property
    def admin(self) -> RepositoryAdmin:
        """What looks across users."""
        return RepositoryAdmin(self._calls)

    @property
    def in_transaction(self) -> bool:
        """Whether it is a repository of `using` or `run_in_transaction`.

        Its operations use one connection, one after another.
        """
        return self._connection_manager.is_borrowed

    def using(self, transaction: Any) -> Self:
        """Return a repository whose operations run in a transaction of the caller's own.

        The caller commits it or rolls it back, together with rows of its own. The repository never commits
        or retries, and closing it does nothing. Use the async methods, in the event loop of the transaction;
        the schema must be ready.

        Args:
            transaction: For SQL an ``AsyncSession`` or ``AsyncConnection`` of the same database, for MongoDB
                a client session in a transaction.

        Raises:
            ConfigurationError: It is none of these.
            NotImplementedError: The backend does not support it.
        """
        return self._on(self._connection_manager.using(transaction))

    def _on(self, manager: AsyncBaseConnectionManager) -> Self:
        """Return this repository in the transaction of a manager."""
        borrowed = object.__new__(type(self))
        vars(borrowed).update(vars(self))
        borrowed._use(manager, ONE_ATTEMPT)
        return borrowed

    # No coroutine function: as `using` it belongs to an event loop, and has no blocking twin.
    def run_in_transaction(self, work: Callable[[Self], Awaitable[R]]) -> Coroutine[Any, Any, R]:
        """Await ``work(repository)``, whose operations run in one transaction: all take effect, or none.

        The transaction is committed when ``work`` returns, and rolled back if it raises. After a transient
        error, such as a deadlock, it is begun and ``work`` called again, if the transaction had no effect.

        Args:
            work: A coroutine function. It uses only the repository that it gets, in its own task, and its
                async methods; it must be safe to repeat. All of it takes at most the time of one statement:
                ``statement_timeout`` on PostgreSQL, ``timeout`` on MongoDB. On SQLite other writers wait.

        Returns:
            What ``work`` returns.

        Raises:
            NotImplementedError: The backend has no such transactions: Redis, and a standalone MongoDB server.
            BackendUnavailableError: The database cannot be used, after the retries, or the response to the
                commit was lost. Operations inside of ``work`` raise the driver's errors.
        """

        async def on(manager: AsyncBaseConnectionManager) -> R:
            return await work(self._on(manager))

        return self._calls.run_in_transaction(on)

    async def _ensure_connection(self) -> None:
        await self._connection_manager.run_step(self._connection_manager.connect)

    async def _create_tables_if_not_exist(self) -> None:
        # The manager makes the schema ready once for all repositories that share it.
        await self._connection_manager.connect()

    # -- Operations with other names or arguments than in `Operations` ---------------------------------

    async def create_session_async(
        self,
        user_id: str,
        session_data: Mapping[str, Any] | None = None,
        *,
        messages: Iterable[tuple[str, str] | NewMessage] = (),
        session_id: Identifier | None = None,
    ) -> str:
        """Create a session with its first messages, all or none, and return its id, a UUID.

        Args:
            user_id: Owner, 1 to 255 characters.
            session_data: ``title`` (1 to 255 characters, default "New Chat") and ``metadata`` (a JSON
                object, default empty); either may be absent or None.
            messages: ``(role, content)`` pairs and `NewMessage` objects, in any mixture.
            session_id: An id of your own, as in `ensure_session_exists`; None for a new UUID.

        Raises:
            SessionConflictError: ``session_id`` is taken, by whichever user; nothing is stored.
            MessageConflictError: A message id is taken by another message; nothing is stored.
        """
        fields, first = _typed(session_data), _typed(messages)
        return await self._operations.create_session(user_id, fields, messages=first, session_id=session_id)

    def create_session(
        self,
        user_id: str,
        session_data: Mapping[str, Any] | None = None,
        *,
        messages: Iterable[tuple[str, str] | NewMessage] = (),
        session_id: Identifier | None = None,
    ) -> str:
        """Create a session and return its id; the blocking twin of `create_session_async`."""
        return run_blocking(
            self.create_session_async, user_id, session_data, messages=messages, session_id=session_id
        )

    async def ensure_session_exists(
        self, session_id: Identifier, user_id: str, session_data: Mapping[str, Any] | None = None
    ) -> bool:
        """Create the session unless it exists; idempotent, and safe to call concurrently.

        Args:
            session_id: A UUID, as text or ``uuid.UUID``; with MongoDB any text of 1 to 255 characters.
            user_id: Owner.
            session_data: As in `create_session`; used only if the session is created.

        Returns:
            True for exactly one of any number of concurrent callers, the one that created it.

        Raises:
            SessionConflictError: The id is taken by another user's session.
        """
        return await self._operations.ensure_session_exists(user_id, session_id, _typed(session_data))

    async def update_session_async(
        self,
        user_id: str,
        session_id: Identifier,
        data: Mapping[str, Any] | None = None,
        *,
        merge_metadata: dict[str, Any] | None = None,
        remove_metadata: Iterable[str] = (),
        touch: bool = True,
        if_title: str | None = None,
        expected_version: int | None = None,
    ) -> bool:
        """Change the title or the metadata of a session; return whether it is there and was to be changed.

        Bumps ``version``, and ``updated_at`` unless ``touch`` is False, if a value changes.

        Args:
            user_id: Owner.
            session_id: The session.
            data: ``title``, and ``metadata`` to replace the old; None or an absent key keeps the old value.
            merge_metadata: Top-level keys to set in the metadata, atomically.
            remove_metadata: Top-level keys to remove from the metadata, atomically.
            touch: False keeps ``updated_at``, and so the session's place in the list.
            if_title: Change nothing, and return False, unless this is the title. With a new title the call is
                not retried after a lost response.
            expected_version: The version that the session must have; None for any.

        Returns:
            Whether the user has such a session, with the title ``if_title`` if that is given.

        Raises:
            VersionConflictError: The session has another version; nothing is changed.
        """
        return await self._operations.update_session(
            user_id,
            session_id,
            _typed(data),
            merge_metadata=merge_metadata,
            remove_metadata=remove_metadata,
            touch=touch,
            if_title=if_title,
            expected_version=expected_version,
        )

    def update_session(
        self,
        user_id: str,
        session_id: Identifier,
        data: Mapping[str, Any] | None = None,
        *,
        merge_metadata: dict[str, Any] | None = None,
        remove_metadata: Iterable[str] = (),
        touch: bool = True,
        if_title: str | None = None,
        expected_version: int | None = None,
    ) -> bool:
        """Change the title or the metadata; the blocking twin of `update_session_async`."""
        return run_blocking(
            self.update_session_async,
            user_id,
            session_id,
            data,
            merge_metadata=merge_metadata,
            remove_metadata=remove_metadata,
            touch=touch,
            if_title=if_title,
            expected_version=expected_version,
        )

    async def delete_session_async(
        self, user_id: str, session_id: Identifier, *, expected_version: int | None = None
    ) -> bool:
        """Delete a session and its messages; return whether the user had such a session.

        Also True if the session is absent and the response to an earlier attempt, which may have deleted
        it, was lost.

        Args:
            user_id: Owner.
            session_id: The session.
            expected_version: The version that the session must have; None for any.

        Raises:
            VersionConflictError: The session has another version; nothing is deleted.
        """
        return await self._operations.delete_session(user_id, session_id, expected_version=expected_version)

    def delete_session(
        self, user_id: str, session_id: Identifier, *, expected_version: int | None = None
    ) -> bool:
        """Delete a session with its messages; the blocking twin of `delete_session_async`."""
        return run_blocking(self.delete_session_async, user_id, session_id, expected_version=expected_version)

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
        work = self._calls.backend.list_page
        return await self._calls.run("list_paginated_sessions", work, user_id, page * limit, limit)

    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        """Return one page of sessions; the blocking twin of `list_paginated_sessions_async`."""
        return run_blocking(self.list_paginated_sessions_async, user_id, page, limit)

    async def add_message(
        self,
        session_id: Identifier,
        role: str,
        content: str,
        *,
        user_id: str | None = None,
        message_id: Identifier | None = None,
        timestamp: datetime | None = None,
        metadata: dict[str, Any] | None = None,
        payload: Any = None,
        expected_version: int | None = None,
    ) -> str:
        """Append a message to a session, bump ``updated_at`` and ``version``, and return the message's id.

        Args:
            session_id: The session.
            role: ``"user"``, ``"assistant"``, ``"system"``, ``"developer"`` or ``"tool"``.
            content: Text without NUL and lone surrogates; may be empty.
            user_id: If given, the session must also belong to this user.
            message_id: An id of your own: sent again with the same role and content, nothing is stored and
                the same id is returned. None for a new UUID.
            timestamp: Timezone-aware; sorts the message into the history. None for the time of writing.
            metadata: A JSON object; None for an empty one.
            payload: Any value that ``json.dumps`` can express, such as a framework's own form of the message.
            expected_version: The version that the session must have; None for any.

        Raises:
            SessionNotFoundError: There is no such session; nothing is stored.
            MessageConflictError: ``message_id`` is taken by another message; nothing is stored.
            VersionConflictError: The session has another version; nothing is stored.
        """
        return await append_message(
            self._calls,
            session_id,
            user_id,
            role,
            content,
            message_id=message_id,
            timestamp=timestamp,
            metadata=metadata,
            payload=payload,
            expected_version=expected_version,
        )

    async def add_messages(
        self,
        session_id: Identifier,
        messages: Iterable[tuple[str, str] | NewMessage],
        *,
        user_id: str | None = None,
        merge_metadata: dict[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> list[str]:
        """Append messages to a session in their order, all of them or none, and return their ids.

        Args:
            session_id: The session.
            messages: ``(role, content)`` pairs and `NewMessage` objects, in any mixture; an empty batch only
                checks that the session exists.
            user_id: If given, the session must also belong to this user.
            merge_metadata: Top-level keys to set in the session's metadata, in the same transaction; not if
                all messages are stored already.
            expected_version: The version that the session must have; None for any.

        Raises:
            SessionNotFoundError: There is no such session; nothing is stored.
            MessageConflictError: A message id is taken by another message; nothing is stored.
            VersionConflictError: The session has another version; nothing is stored.
        """
        return await append_messages(
            self._calls, session_id, user_id, messages, merge_metadata, expected_version
        )

    async def delete_sessions_older_than(
        self, cutoff: datetime, *, user_id: str | None = None, where: Mapping[str, Any] | None = None
    ) -> int:
        """Delete sessions last updated before ``cutoff``, with their messages; return how many.

        Args:
            cutoff: Timezone-aware; sessions with ``updated_at`` before it are deleted.
            user_id: Delete only this user's sessions; None for those of all users.
            where: Only sessions whose metadata has these values, as in `list_sessions`.
        """
        cutoff, accepted = validation.check_cutoff(cutoff), validation.check_where(where)
        user_id = None if user_id is None else validation.check_user_id(user_id)
        work = self._calls.backend.delete_older
        return await self._calls.run_batches("delete_sessions_older_than", work, cutoff, user_id, accepted)

    # -- Blocking twins of async methods -----------------------------------------------------------

    ensure_session_exists_sync = blocking(ensure_session_exists, "ensure_session_exists_sync")
    add_message_sync = blocking(add_message, "add_message_sync")
    add_messages_sync = blocking(add_messages, "add_messages_sync")
    delete_sessions_older_than_sync = blocking(delete_sessions_older_than, "delete_sessions_older_than_sync")
    get_session_sync = blocking(SharedOperations.get_session, "get_session_sync")
    list_sessions_sync = blocking(SharedOperations.list_sessions, "list_sessions_sync")
    list_session_previews_sync = blocking(
        SharedOperations.list_session_previews, "list_session_previews_sync"
    )
    count_sessions_sync = blocking(SharedOperations.count_sessions, "count_sessions_sync")
    get_session_history_sync = blocking(SharedOperations.get_session_history, "get_session_history_sync")
    get_session_payloads_sync = blocking(SharedOperations.get_session_payloads, "get_session_payloads_sync")
    get_message_sync = blocking(SharedOperations.get_message, "get_message_sync")
    count_messages_sync = blocking(SharedOperations.count_messages, "count_messages_sync")
    update_message_sync = blocking(SharedOperations.update_message, "update_message_sync")
    pop_message_sync = blocking(SharedOperations.pop_message, "pop_message_sync")
    delete_messages_sync = blocking(SharedOperations.delete_messages, "delete_messages_sync")
    delete_messages_from_sync = blocking(SharedOperations.delete_messages_from, "delete_messages_from_sync")
    clear_messages_sync = blocking(SharedOperations.clear_messages, "clear_messages_sync")
    replace_messages_sync = blocking(SharedOperations.replace_messages, "replace_messages_sync")
    fork_session_sync = blocking(SharedOperations.fork_session, "fork_session_sync")
    search_messages_sync = blocking(SharedOperations.search_messages, "search_messages_sync")
    keep_latest_sessions_sync = blocking(SharedOperations.keep_latest_sessions, "keep_latest_sessions_sync")
    delete_user_sync = blocking(SharedOperations.delete_user, "delete_user_sync")
    export_user_sync = iterating(SharedOperations.export_user, "export_user_sync")
    ensure_ready_sync = blocking(SharedOperations.ensure_ready, "ensure_ready_sync")
    is_healthy_sync = blocking(SharedOperations.is_healthy, "is_healthy_sync")
    close = blocking(SharedOperations.aclose, "close")

    # -- Contexts, copies --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._connection_manager.hold()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection_manager.release():
            self.close()

    def __copy__(self) -> Self:
        self._check_copyable()
        return type(self)(connection_manager=self._connection_manager, retry=self._chosen_retry)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        # The options, which may hold a password, without the connection.
        kind: Any = type(self)
        if kind.__module__ == __name__:  # Created by `repository_class`, separately in each process.
            kind = self.CONNECTION_TYPE
        return _recreate, (kind, self._check_copyable(), self._chosen_retry)

    def _check_copyable(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] | None = self._connection_manager.made_with
        if options is None:
            raise TypeError(
                f"a {type(self).__name__} on an engine, a client or a connection manager of a service's own "
                "cannot be copied or pickled: create another one on the same"
            )
        return options


def _typed(value: Any) -> Any:
    # This interface takes any mapping and any role, as ever; the operation checks them.
    return value


@functools.cache
def repository_class(connection_type: ConnectionType) -> type[AsyncSessionRepository]:
    """Return a repository class for a built-in backend that has none of its own."""
    _backend_class(connection_type)  # A driver that is not installed is found here.
    name = f"{connection_type.value.capitalize()}SessionRepository"
    return type(name, (AsyncSessionRepository,), {"CONNECTION_TYPE": connection_type, "__module__": __name__})


@functools.cache
def _backend_class(connection_type: ConnectionType) -> type[Backend]:
    found: type[Backend] = class_of(connection_type, "repository")
    return found


def _recreate(
    repository: type[Any] | ConnectionType, options: Mapping[str, Any], retry: RetryConfig | None
) -> Any:
    if isinstance(repository, ConnectionType):
        repository = repository_class(repository)
    return repository(retry=retry, **options)
