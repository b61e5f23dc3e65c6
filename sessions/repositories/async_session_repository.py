"""The parent of the built-in repositories: the async operations, and their blocking twins.

A twin runs the async operation on the background loop and waits, from any thread, also from one whose
own event loop is running. The async operations document the arguments and errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sessions.config import load_settings
from sessions.connections import AsyncBaseConnectionManager, ConnectionFactory, ConnectionType
from sessions.core.blocking import run_blocking
from sessions.core.identifiers import Identifier
from sessions.core.operations import AsyncOperations, SessionData
from sessions.models import ChatMessage, ChatSession, SessionPage
from sessions.repositories.base_session_repository import BaseSessionRepository
from sessions.resilience import RetryConfig

if TYPE_CHECKING:
    from sessions.chats import AsyncChats

__all__ = ["AsyncSessionRepository"]

ONE_ATTEMPT = RetryConfig(max_attempts=1)


class AsyncSessionRepository(AsyncOperations, BaseSessionRepository):
    """A session repository with each operation both async and blocking.

    The six operations of `BaseSessionRepository` are async or blocking as there, and their twins carry
    ``_async`` or ``_sync``; every other operation is async, with a ``_sync`` twin.

    Args:
        connection_manager: A connection manager, instead of the factory's for the options.
        retry: Attempts and delays for transient errors; None for the settings, else the backend's own.
        **options: Options of the backend's connection manager.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    CONNECTION_TYPE: ClassVar[ConnectionType]
    DEFAULT_RETRY: ClassVar[RetryConfig]

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
        super().__init__(self.CONNECTION_TYPE, connection_manager=manager)
        self._manager = manager
        self._chosen_retry = retry

    @property
    def _retry(self) -> RetryConfig:
        # Resolved by the first operation: many repositories are created without one.
        if self._chosen_retry is None:
            self._chosen_retry = load_settings().sessions.retry or self.DEFAULT_RETRY
        return self._chosen_retry

    @property
    def chats(self) -> AsyncChats:
        """The same operations in plain names; `Chats` with ``repository=`` is the blocking twin."""
        from sessions.chats import AsyncChats

        return AsyncChats(repository=self)

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
        borrowed = object.__new__(type(self))
        vars(borrowed).update(vars(self))
        manager = self._manager.using(transaction)
        borrowed._manager = borrowed._connection_manager = manager
        borrowed._chosen_retry = ONE_ATTEMPT
        return borrowed

    async def _ensure_connection(self) -> None:
        await self._manager.run_step(self._manager.connect)

    async def _create_tables_if_not_exist(self) -> None:
        # The manager makes the schema ready once for all repositories that share it.
        await self._manager.connect()

    def create_session(self, user_id: str, session_data: SessionData = None) -> str:
        """Create a session and return its id; the blocking twin of `create_session_async`."""
        return run_blocking(self.create_session_async, user_id, session_data)

    def update_session(self, user_id: str, session_id: Identifier, data: Mapping[str, Any]) -> bool:
        """Change the title, or replace the metadata; the blocking twin of `update_session_async`."""
        return run_blocking(self.update_session_async, user_id, session_id, data)

    def delete_session(self, user_id: str, session_id: Identifier) -> bool:
        """Delete a session with its messages; the blocking twin of `delete_session_async`."""
        return run_blocking(self.delete_session_async, user_id, session_id)

    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        """Return one page of sessions; the blocking twin of `list_paginated_sessions_async`."""
        return run_blocking(self.list_paginated_sessions_async, user_id, page, limit)

    def ensure_session_exists_sync(
        self, session_id: Identifier, user_id: str, session_data: SessionData = None
    ) -> bool:
        """Create the session unless it exists; the blocking twin of `ensure_session_exists`."""
        return run_blocking(self.ensure_session_exists, session_id, user_id, session_data)

    def get_session_sync(self, user_id: str, session_id: Identifier) -> ChatSession | None:
        """Return one session or None; the blocking twin of `get_session`."""
        return run_blocking(self.get_session, user_id, session_id)

    def list_sessions_sync(self, user_id: str, *, limit: int = 10, cursor: str | None = None) -> SessionPage:
        """Return the next page of sessions; the blocking twin of `list_sessions`."""
        return run_blocking(self.list_sessions, user_id, limit=limit, cursor=cursor)

    def count_sessions_sync(self, user_id: str) -> int:
        """Return how many sessions a user has; the blocking twin of `count_sessions`."""
        return run_blocking(self.count_sessions, user_id)

    def add_message_sync(
        self, session_id: Identifier, role: str, content: str, *, user_id: str | None = None
    ) -> str:
        """Append a message and return its id; the blocking twin of `add_message`."""
        return run_blocking(self.add_message, session_id, role, content, user_id=user_id)

    def add_messages_sync(
        self, session_id: Identifier, messages: Iterable[tuple[str, str]], *, user_id: str | None = None
    ) -> list[str]:
        """Append messages, all or none, and return their ids; the blocking twin of `add_messages`."""
        return run_blocking(self.add_messages, session_id, messages, user_id=user_id)

    def get_session_history_sync(
        self,
        user_id: str,
        session_id: Identifier,
        *,
        limit: int | None = None,
        before: Identifier | None = None,
    ) -> list[ChatMessage]:
        """Return messages, oldest first; the blocking twin of `get_session_history`."""
        return run_blocking(self.get_session_history, user_id, session_id, limit=limit, before=before)

    def keep_latest_sessions_sync(self, user_id: str, keep_last_n: int) -> int:
        """Delete all but the newest sessions of a user; the blocking twin of `keep_latest_sessions`."""
        return run_blocking(self.keep_latest_sessions, user_id, keep_last_n)

    def delete_sessions_older_than_sync(self, cutoff: datetime, *, user_id: str | None = None) -> int:
        """Delete old sessions; the blocking twin of `delete_sessions_older_than`."""
        return run_blocking(self.delete_sessions_older_than, cutoff, user_id=user_id)

    def delete_user_sync(self, user_id: str) -> int:
        """Delete all sessions of a user; the blocking twin of `delete_user`."""
        return run_blocking(self.delete_user, user_id)

    def export_user_sync(self, user_id: str) -> Iterator[tuple[ChatSession, list[ChatMessage]]]:
        """Iterate over sessions with their messages; the blocking twin of `export_user`."""
        export = self.export_user(user_id)

        async def step() -> tuple[ChatSession, list[ChatMessage]] | None:
            return await anext(export, None)

        try:
            while (item := run_blocking(step)) is not None:
                yield item
        finally:
            run_blocking(export.aclose)

    def ensure_ready_sync(self) -> None:
        """Connect and make the schema ready; the blocking twin of `ensure_ready`."""
        run_blocking(self.ensure_ready)

    def is_healthy_sync(self) -> bool:
        """Return whether a write would work now; the blocking twin of `is_healthy`."""
        return run_blocking(self.is_healthy)

    def close(self) -> None:
        """Release the connections at once; the blocking twin of `aclose`."""
        run_blocking(self.aclose)

    def __enter__(self) -> Self:
        self._manager.hold()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._manager.release():
            self.close()

    def __copy__(self) -> Self:
        self._check_copyable()
        return type(self)(connection_manager=self._manager, retry=self._chosen_retry)

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        # The options, which may hold a password, without the connection.
        return _recreate, (type(self), self._check_copyable(), self._chosen_retry)

    def _check_copyable(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] | None = self._manager.made_with
        if options is None:
            raise TypeError(
                f"a {type(self).__name__} on an engine, a client or a connection manager of a service's own "
                "cannot be copied or pickled: create another one on the same"
            )
        return options


def _recreate(repository: type[Any], options: Mapping[str, Any], retry: RetryConfig | None) -> Any:
    return repository(retry=retry, **options)
