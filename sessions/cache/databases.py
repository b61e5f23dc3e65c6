"""Which database a repository of a cache is in front of."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable

from sessions.cache.base import SessionCache
from sessions.cache.scopes import Names
from sessions.core.loops import LoopBound
from sessions.core.port import ConnectionManager
from sessions.core.shared_work import SharedWork
from sessions.correlation import logger_of

__all__ = ["Database", "database_in"]

logger = logger_of(__name__)

# After an identity could not be read, the next attempt comes so much later.
RETRY_SECONDS = 1.0
# A read of the identity that sees it change is repeated so often at most.
ATTEMPTS = 3


class Database:
    """One database in a cache: the names of its keys and tags there.

    They begin with the identity of the database, which the first call reads from the database itself. Calls
    that go to the database anyway read it again: after ``seconds``, because another database may have taken
    its place, and at once if this process has seen that.

    Args:
        namespace: Instead of the identity, together with the kind and the name of the database; None for the
            identity.
        seconds: How old an identity may be.
        clock: Returns seconds.
    """

    def __init__(self, namespace: str | None, *, seconds: float, clock: Callable[[], float]) -> None:
        self._namespace = namespace
        self._seconds = seconds
        self._clock = clock
        self._names: Names | None = None
        self._epoch: Hashable = None
        self._due = -math.inf
        self._is_warned = False
        self._reading = LoopBound(SharedWork, None)

    def known(self, manager: ConnectionManager) -> Names | None:
        """Return the names, without I/O; None if they are not known, or may have changed."""
        return self._names if self._epoch == manager.identity_epoch() else None

    async def names(self, manager: ConnectionManager) -> Names | None:
        """Return the names; read the identity first if it is not known, or has to be read again.

        Args:
            manager: A manager of the database, or of a transaction in it.

        Returns:
            The names; None if the identity cannot be read.
        """
        is_due = self._clock() >= self._due
        if is_due or (self._names is not None and self._epoch != manager.identity_epoch()):
            reading = await self._reading.get()
            await reading.run(lambda: self._read(manager))
        return self.known(manager)

    async def _read(self, manager: ConnectionManager) -> None:
        for _ in range(ATTEMPTS):
            epoch, now = manager.identity_epoch(), self._clock()
            try:
                place = await self._place(manager)
            except Exception as error:
                # The call itself goes to the database next, and raises what there is to raise.
                logger.debug("the identity of the database was not read: %s", type(error).__name__)
                self._due = now + RETRY_SECONDS
                if self._epoch != epoch:
                    self._names = None
                return
            self._epoch, self._due = epoch, now + self._seconds
            # The same object, as long as it is the same database.
            if self._names is None or self._names.database != place:
                self._names = None if place is None else Names(place)
            if place is None:
                self._warn(manager)
            if manager.identity_epoch() == epoch:
                return

    async def _place(self, manager: ConnectionManager) -> str | None:
        if self._namespace is not None and (name := manager.shared_name()) is not None:
            return f"namespace/{len(self._namespace)}:{self._namespace}/{name}"
        return await manager.run_step(manager.identity)

    def _warn(self, manager: ConnectionManager) -> None:
        if not self._is_warned:
            self._is_warned = True
            logger.warning(
                "the cache is not used for this %s database, which does not tell what distinguishes it from "
                "others: set sessions.cache.namespace",
                manager.target().system,
            )


# By cache and connection manager, then by namespace: repositories are created for each request.
_databases: weakref.WeakKeyDictionary[
    SessionCache, weakref.WeakKeyDictionary[ConnectionManager, dict[str | None, Database]]
] = weakref.WeakKeyDictionary()


def database_in(cache: SessionCache, manager: ConnectionManager, namespace: str | None) -> Database:
    """Return the database of a connection manager in a cache.

    Args:
        cache: The cache.
        manager: The manager.
        namespace: What tells the database from others; None for what it says itself.
    """
    of_cache = _databases.setdefault(cache, weakref.WeakKeyDictionary())
    of_manager = of_cache.setdefault(manager, {})
    if (found := of_manager.get(namespace)) is None:
        made = Database(namespace, seconds=cache.ttl, clock=cache.clock)
        found = of_manager.setdefault(namespace, made)
    return found
