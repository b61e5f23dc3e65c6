"""A repository in front of another one, which answers from a cache what the cache knows."""

from __future__ import annotations

import copy
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self, TypeVar

from sessions import validation
from sessions.cache.base import SessionCache, Write
from sessions.cache.calls import CachedCalls, new_writer
from sessions.cache.databases import database_in
from sessions.cache.opening import cache_of
from sessions.cache.scopes import WRITE_TO_EVERYTHING
from sessions.cache.transactions import CallsInTransaction, WritesInTransaction
from sessions.config import load_settings
from sessions.connections import AsyncBaseConnectionManager
from sessions.core.identifiers import Identifier
from sessions.core.operations import Operations
from sessions.core.twins import blocking
from sessions.errors import ConfigurationError
from sessions.repositories import AsyncSessionRepository, BaseSessionRepository
from sessions.resilience import RetryConfig

__all__ = ["CachedSessionRepository"]

R = TypeVar("R")


class CachedSessionRepository(AsyncSessionRepository):
    """A repository in front of another one, with a cache.

    It answers ``get_session``, the newest messages of a history and the first page of each list from the
    cache if it can, and everything else from the database. Each write makes invalid what it concerns. What a
    read returns that begins after a write has returned, through any repository with the same cache, has that
    write. What writers past the cache have written is seen after the cache's ``ttl``.

    All operations, ``chats`` and ``admin`` are those of the repository behind it, with the same results and
    errors; if the cache cannot be used, they go to the database.

    Args:
        repository: The repository of a built-in backend.
        cache: A `MemoryCache` or a `RedisCache`, or the URL of one, as ``sessions.cache.url``: all
            repositories with the same URL share one.
        namespace: Tells the database from others in the cache, with its kind and its name: the same in all
            processes of a service, another one for a copy of the database. None for what the database itself
            says, and if the cache is a URL for ``sessions.cache.namespace``.

    Raises:
        ConfigurationError: The repository has no backend of this package, or has a cache, or the URL is
            wrong.
        MissingDependencyError: The cache needs a package that is not installed.
    """

    def __init__(
        self, repository: AsyncSessionRepository, *, cache: SessionCache | str, namespace: str | None = None
    ) -> None:
        if not isinstance(repository, AsyncSessionRepository):
            raise ConfigurationError(
                f"repository: {type(repository).__name__} is not an AsyncSessionRepository"
            )
        if isinstance(repository, CachedSessionRepository):
            raise ConfigurationError("repository: has a cache already")
        self._behind = repository
        self._cache = cache_of(cache) if isinstance(cache, str) else cache
        if namespace is not None and not (isinstance(namespace, str) and namespace):
            raise ConfigurationError("namespace: must be a text that is not empty")
        if isinstance(cache, str) and namespace is None:
            namespace = load_settings().sessions.cache.namespace
        self._namespace = namespace
        self._database = database_in(self._cache, repository._connection_manager, namespace)
        self._use(repository._connection_manager, repository._chosen_retry)

    def _use(self, manager: AsyncBaseConnectionManager, retry: RetryConfig | None) -> None:
        BaseSessionRepository.__init__(self, self._behind.connection_type, connection_manager=manager)
        self._chosen_retry = retry
        self._calls = CachedCalls(self._behind._calls, self._cache, self._database)
        self._operations = Operations(self._calls)

    @property
    def cache(self) -> SessionCache:
        """The cache, with its ``statistics()``."""
        return self._cache

    @property
    def uncached(self) -> AsyncSessionRepository:
        """The repository behind the cache."""
        return self._behind

    async def invalidate(self, user_id: str, session_id: Identifier | None = None) -> None:
        """Drop what the cache holds of a user's session, or of all of a user's, and the user's lists.

        For a service that writes past the cache, such as with its own ``AsyncSession``: after its commit.

        Args:
            user_id: Owner.
            session_id: The session; None for all of the user's.
        """
        user_id = validation.check_user_id(user_id)
        if session_id is not None:
            session_id = self._calls.check_id("session_id", session_id)
        write = WRITE_TO_EVERYTHING
        if (names := await self._database.names(self._connection_manager)) is not None:
            of_either = names.user(user_id) if session_id is None else names.session(session_id)
            write = Write((names.lists(user_id), of_either))
        await self._cache.end(new_writer(), write, write.tags, changed=True)

    invalidate_sync = blocking(invalidate, "invalidate_sync")

    # -- Transactions ------------------------------------------------------------------------------

    def using(self, transaction: Any) -> Self:
        """Return a repository whose operations run in a transaction of the caller's own.

        See `AsyncSessionRepository.using`. Its reads go to the database. When the caller commits is not seen
        here: what it has written is not cached for a minute, or for ``ttl`` if that is longer. After a
        transaction that takes longer, call `CachedSessionRepository.invalidate`.

        Args:
            transaction: For SQL an ``AsyncSession`` or ``AsyncConnection`` of the same database, for MongoDB
                a client session in a transaction.

        Raises:
            ConfigurationError: It is none of these.
            NotImplementedError: The backend does not support it.
        """
        writes = WritesInTransaction(self._cache, self._database, ends=False)
        return self._inside(self._behind.using(transaction), writes)

    def _inside(self, behind: AsyncSessionRepository, writes: WritesInTransaction) -> Self:
        """Return this repository in a transaction, in which another one is behind it."""
        borrowed = object.__new__(type(self))
        vars(borrowed).update(vars(behind))
        vars(borrowed).update(_behind=behind, _cache=self._cache, _database=self._database)
        borrowed._calls = CallsInTransaction(behind._calls, writes)
        borrowed._operations = Operations(borrowed._calls)
        return borrowed

    def run_in_transaction(self, work: Callable[[Self], Awaitable[R]]) -> Coroutine[Any, Any, R]:
        """Await ``work(repository)``, whose operations run in one transaction: all take effect, or none.

        See `AsyncSessionRepository.run_in_transaction`. The reads of ``work`` go to the database; what it
        writes is invalid in the cache from the write on, until the transaction has ended.

        Args:
            work: A coroutine function that uses only the repository that it gets; it must be safe to repeat.

        Returns:
            What ``work`` returns.

        Raises:
            NotImplementedError: The backend has no such transactions: Redis, and a standalone MongoDB server.
        """
        writes = WritesInTransaction(self._cache, self._database, ends=True)

        async def on(behind: AsyncSessionRepository) -> R:
            return await work(self._inside(behind, writes))

        transaction = functools.partial(self._behind.run_in_transaction, on)
        return writes.around(self._connection_manager, transaction)

    # -- Copies ------------------------------------------------------------------------------------

    def __copy__(self) -> Self:
        return type(self)(copy.copy(self._behind), cache=self._cache, namespace=self._namespace)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(_cached, namespace=self._namespace), (self._behind, self._cache)


def _cached(
    repository: AsyncSessionRepository, cache: SessionCache, *, namespace: str | None
) -> CachedSessionRepository:
    return CachedSessionRepository(repository, cache=cache, namespace=namespace)
