"""`AsyncChats`: every operation under its plain name, with the user first and the owner always checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, Unpack

from sessions.administration import AsyncAdmin
from sessions.chats.opening import BackendName, open_repository
from sessions.core.operations import Operations
from sessions.repositories import AsyncSessionRepository, SessionRepositoryType
from sessions.repositories.options import ChatsOptions

__all__ = ["AsyncChats"]

R = TypeVar("R")


class AsyncChats(Operations):
    """The conversations of one database, for callers with an event loop.

    ::

        async with AsyncChats("postgresql://…") as chats:
            session_id = await chats.create_session("alice", title="Trip to Rome")
            await chats.add_message("alice", session_id, "user", "What should I see first?")
            history = await chats.get_session_history("alice", session_id)

    Cheap to create: all instances for the same database share its connections, and the last ``async with``
    block of a database closes them.

    Args:
        url: ``postgresql://…``, ``mongodb://…``, ``sqlite:///…`` or ``redis://…``; None for the settings.
        backend: ``"postgres"``, ``"mongodb"``, ``"sqlite"`` or ``"redis"``, if there is no URL.
        repository: Use the database of this repository; excludes all other options.
        **options: As for `SessionRepositoryFactory.create_repository`.

    Raises:
        ConfigurationError: A setting is missing or wrong.
        InvalidInputError: From every operation: an argument is invalid; nothing is sent.
        BackendUnavailableError: From every operation: the database cannot be used, after the retries.
        SchemaOutdatedError: From every operation: the schema is older and ``auto_migrate`` is off, or it
            lacks what this package needs.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        backend: BackendName | SessionRepositoryType | None = None,
        repository: AsyncSessionRepository | None = None,
        **options: Unpack[ChatsOptions],
    ) -> None:
        self._repository = open_repository(url, backend, repository, {**options})
        super().__init__(self._repository._calls)

    @property
    def repository(self) -> AsyncSessionRepository:
        """The repository of the same database, with the operations under the names of its interface."""
        return self._repository

    @property
    def admin(self) -> AsyncAdmin:
        """What looks across users."""
        return AsyncAdmin(self._calls)

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

    def run_in_transaction(self, work: Callable[[AsyncChats], Awaitable[R]]) -> Coroutine[Any, Any, R]:
        """Await ``work(chats)``, whose operations run in one transaction: all of them take effect, or none.

        See `AsyncSessionRepository.run_in_transaction`.

        Args:
            work: A coroutine function that uses only the chats that it gets; it must be safe to repeat.

        Returns:
            What ``work`` returns.

        Raises:
            NotImplementedError: The backend has no such transactions: Redis, and a standalone MongoDB server.
        """

        async def on(repository: AsyncSessionRepository) -> R:
            return await work(AsyncChats(repository=repository))

        return self._repository.run_in_transaction(on)
