"""The calls of a repository in a transaction of a caller's, through a cache."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sessions.cache.base import SessionCache, Write
from sessions.cache.calls import is_over, new_writer, write_of
from sessions.cache.databases import Database
from sessions.cache.scopes import CACHED, UNCACHED
from sessions.core.calls import Calls, Check
from sessions.core.port import ConnectionManager
from sessions.core.values import Append

__all__ = ["CallsInTransaction", "WritesInTransaction"]

R = TypeVar("R")


class WritesInTransaction:
    """The writes of one transaction of a caller's, which take effect when it is committed.

    Args:
        cache: The cache.
        database: The database in the cache.
        ends: Whether `around` is called; otherwise the marks stay until they expire.
    """

    __slots__ = ("_cache", "_database", "_ends", "_marked", "_writer", "_writes")

    def __init__(self, cache: SessionCache, database: Database, *, ends: bool) -> None:
        self._cache = cache
        self._database = database
        self._ends = ends
        self._writer = new_writer()
        self._writes: list[Write] = []
        self._marked: list[tuple[str, ...]] = []

    async def begin(self, manager: ConnectionManager, name: str, arguments: Sequence[Any]) -> None:
        """Set the mark on the tags of a write.

        Args:
            manager: ConnectionManager of the transaction.
            name: Name of the backend's method.
            arguments: Its arguments.
        """
        names = self._database.known(manager) or await self._database.names(manager)
        write = write_of(names, name, arguments)
        marked = await self._cache.begin(self._writer, write)
        if self._ends:
            self._marked.append(marked)
            # It may fail, or be rolled back.
            self._writes.append(write.without_owner())

    async def around(self, manager: ConnectionManager, transaction: Callable[[], Awaitable[R]]) -> R:
        """Await a transaction, and remove the marks after it.

        Args:
            manager: ConnectionManager of the database.
            transaction: Begins, works in and ends it.
        """
        # Before it: inside, another connection might not be free.
        await self._database.names(manager)
        try:
            result = await transaction()
        except BaseException as error:
            # Whether it was committed may not be known: then the marks stay.
            if is_over(error):
                await self._end()
            raise
        await self._end()
        return result

    async def _end(self) -> None:
        for write, marked in zip(self._writes, self._marked, strict=True):
            await self._cache.end(self._writer, write, marked, changed=True)


class CallsInTransaction(Calls):
    """Calls of one repository in a transaction of a caller's.

    Its reads go to the database: they see what the transaction has written, and nobody else does. Its writes
    set their mark, and whoever commits removes it.

    Args:
        calls: The calls to the backend.
        writes: The writes of the transaction.
    """

    __slots__ = ("_behind", "_writes")

    def __init__(self, calls: Calls, writes: WritesInTransaction) -> None:
        super().__init__(calls.backend, calls.read_retry)
        self._behind = calls
        self._writes = writes

    async def run(
        self,
        operation: str,
        work: Callable[..., Awaitable[R]],
        *arguments: Any,
        repeats_unknown: bool = True,
        check: Check | None = None,
    ) -> R:
        """Call an operation of the backend as `Calls.run` does."""
        if work.__name__ not in CACHED | UNCACHED:
            await self._writes.begin(self.manager, work.__name__, arguments)
        return await self._behind.run(
            operation, work, *arguments, repeats_unknown=repeats_unknown, check=check
        )

    async def run_counting_attempts(
        self, operation: str, work: Callable[..., Awaitable[R]], *args: Any, check: Check | None = None
    ) -> R:
        """Call a write of the backend as `Calls.run_counting_attempts` does."""
        await self._writes.begin(self.manager, work.__name__, args)
        return await self._behind.run_counting_attempts(operation, work, *args, check=check)

    async def run_batches(self, operation: str, delete: Callable[..., Awaitable[int]], *args: Any) -> int:
        """Delete batches as `Calls.run_batches` does."""
        await self._writes.begin(self.manager, delete.__name__, (*args, self.batch_size))
        return await self._behind.run_batches(operation, delete, *args)

    async def append(self, operation: str, append: Append) -> bool:
        """Append messages as `Calls.append` does."""
        await self._writes.begin(self.manager, "append", (append,))
        return await self._behind.append(operation, append)
