"""The interface of a session repository, which custom backends implement."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

from sessions.administration import RepositoryAdmin
from sessions.connections import (
    AsyncBaseConnectionManager,
    BaseConnectionManager,
    ConnectionFactory,
    ConnectionType,
)
from sessions.core.forks import ProcessLock
from sessions.core.loops import kept_on, running_loop
from sessions.core.operations import Operations
from sessions.errors import ConfigurationError
from sessions.models import ChatMessage, ChatSession

__all__ = ["BaseSessionRepository"]

# The repositories that the running task, or its parent, makes ready.
_preparing: ContextVar[tuple[BaseSessionRepository, ...]] = ContextVar("sessions_preparing", default=())


# Async operations that are blocking under their plain name.
RENAMED = {
    "create_session_async",
    "delete_session_async",
    "list_paginated_sessions_async",
    "update_session_async",
}


def _is_operation(name: str) -> bool:
    """Return whether the built-in backends have an operation of this name."""
    plain = name.removesuffix("_sync")
    if plain in RENAMED or plain == "close":
        return True
    # The others have the name of the operation.
    return not plain.startswith("_") and f"{plain}_async" not in RENAMED and hasattr(Operations, plain)


def _missing(repository: BaseSessionRepository, name: str) -> Callable[..., NoReturn]:
    def missing(*_arguments: object, **_options: object) -> NoReturn:
        backend = getattr(repository, "connection_type", "")
        raise NotImplementedError(
            f"{name}: the backend {str(backend)!r} ({type(repository).__name__}) has no such operation"
        )

    return missing


class _MissingAdmin:
    """``admin`` of a backend that has none: each of its operations raises ``NotImplementedError``."""

    def __init__(self, repository: BaseSessionRepository) -> None:
        self._repository = repository

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        """Return a function that raises ``NotImplementedError`` for a missing operation."""
        if name.startswith("_") or not hasattr(RepositoryAdmin, name):
            raise AttributeError(f"'admin' has no attribute {name!r}", name=name, obj=self)
        return _missing(self._repository, f"admin.{name}")


class _OnLoop:
    """State of a repository on one event loop: an async connection belongs to one loop."""

    __slots__ = ("connection", "is_connected", "lock")

    def __init__(self) -> None:
        self.connection: Any = None
        self.is_connected = False
        self.lock = asyncio.Lock()


class _OnLoops:
    """Finds the state of the running loop.

    Not in a map by loop: a connection references its loop, and would keep it alive.
    """

    def here(self) -> _OnLoop:
        """Return what is kept on the running event loop."""
        kept = kept_on(asyncio.get_running_loop())
        found: _OnLoop | None = kept.get(self)
        if found is None:
            found = kept[self] = _OnLoop()
        return found


class BaseSessionRepository(ABC):
    """Base of all session repositories.

    A backend implements the six operations and ``_create_tables_if_not_exist``, sync or async, and has a
    connection manager, sync or async. It uses its database through ``self._connection``. Operations of the
    built-in backends that it does not implement raise ``NotImplementedError``.

    Args:
        connection_type: A built-in type, or a name registered with `register_connection_manager`.
        connection_manager: Use this manager instead of the factory's.

    Raises:
        UnknownRepositoryError: No connection manager is registered under that name.
    """

    def __init__(
        self,
        connection_type: ConnectionType | str,
        *,
        connection_manager: BaseConnectionManager | AsyncBaseConnectionManager | None = None,
    ) -> None:
        self.connection_type = connection_type
        self._connection_manager: BaseConnectionManager | AsyncBaseConnectionManager | None = (
            connection_manager
        )
        self._tables_lock = ProcessLock()
        self._tables_created = False
        self._creating_tables = False
        self._sync_connection: Any = None
        self._connection_is_set = False
        self._on_loops = _OnLoops()
        if connection_manager is None:
            self.load_and_validate_connection()

    if not TYPE_CHECKING:
        # Hidden from type checkers, for which a missing operation is an error.
        def __getattr__(self, name: str) -> Any:
            """Return a function that raises ``NotImplementedError`` for a missing operation."""
            if name == "admin":
                return _MissingAdmin(self)
            if not _is_operation(name):
                kind = type(self).__name__
                raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=self)
            return _missing(self, name)

    def load_and_validate_connection(self) -> None:
        """Take the connection manager of ``connection_type`` from the `ConnectionFactory`."""
        self._connection_manager = ConnectionFactory.get_connection_manager(self.connection_type)

    @property
    def _connection(self) -> Any:
        """The connection; a sync manager connects on first use, so this is never None.

        Raises:
            ConfigurationError: The manager is async and `_ensure_connection` was not awaited in this
                event loop.
        """
        if self._sync_connection is not None and (self._tables_created or self._connection_is_set):
            return self._sync_connection
        if isinstance(self._connection_manager, BaseConnectionManager):
            return self._connect()
        here = self._on_loops.here() if running_loop() else None
        if here is None or not here.is_connected:
            raise ConfigurationError(
                f"{type(self).__name__} is not connected in this event loop: "
                "await self._ensure_connection() first"
            )
        return here.connection

    @_connection.setter
    def _connection(self, connection: Any) -> None:
        # A backend that sets it itself also creates its tables itself.
        self._sync_connection = connection
        self._connection_is_set = connection is not None

    def _connect(self) -> Any:
        assert isinstance(self._connection_manager, BaseConnectionManager)
        # Other threads wait here until the tables exist; the one that creates them passes.
        with self._tables_lock:
            if self._sync_connection is None:
                self._sync_connection = self._connection_manager.connect()
            # An async one has to wait for the first `_ensure_connection`.
            is_async = inspect.iscoroutinefunction(self._create_tables_if_not_exist)
            if not (self._tables_created or self._creating_tables or is_async):
                self._creating_tables = True
                try:
                    self._create_tables_if_not_exist()
                    self._tables_created = True
                finally:
                    self._creating_tables = False
        return self._sync_connection

    async def _ensure_connection(self) -> None:
        """Connect, then create the tables, each once; cheap after that."""
        is_async = isinstance(self._connection_manager, AsyncBaseConnectionManager)
        here = self._on_loops.here()
        if self._tables_created and (not is_async or here.is_connected):
            return
        if self in _preparing.get():
            return  # `_create_tables_if_not_exist` itself uses the operations.
        async with here.lock:
            token = _preparing.set((*_preparing.get(), self))
            try:
                await self._prepare(here)
            finally:
                _preparing.reset(token)

    async def _prepare(self, here: _OnLoop) -> None:
        manager = self._connection_manager
        if isinstance(manager, AsyncBaseConnectionManager):
            if not here.is_connected:
                here.connection = await manager.connect()
                here.is_connected = True
        elif not self._connection_is_set:
            self._connect()
        if not self._tables_created:
            created = self._create_tables_if_not_exist()
            if inspect.isawaitable(created):
                await created
            self._tables_created = True

    @abstractmethod
    def _create_tables_if_not_exist(self) -> Any:
        """Create what the backend stores into, where it is missing; sync or async, must be repeatable."""

    @abstractmethod
    def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
        """Create a session and return its id.

        Args:
            user_id: Owner, 1 to 255 characters.
            session_data: ``title`` and ``metadata``, both optional.
        """

    @abstractmethod
    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        """Return the messages of a session, oldest first; empty if the user has no such session."""

    @abstractmethod
    def update_session(self, user_id: str, session_id: str, data: dict[str, Any]) -> bool:
        """Change ``title`` or replace ``metadata``; return whether the user has such a session."""

    @abstractmethod
    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        """Return one page of a user's sessions, newest first; pages count from 0."""

    @abstractmethod
    def delete_session(self, user_id: str, session_id: str) -> bool:
        """Delete a session with its messages; return whether the user had such a session."""

    @abstractmethod
    async def add_message(self, session_id: str, role: str, content: str) -> str:
        """Append a message to a session and return its id.

        Raises:
            SessionNotFoundError: There is no such session.
        """
