"""The calls of a repository through a cache: reads look there first, writes make its values invalid."""

from __future__ import annotations

import copy
import functools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sessions.cache.base import Filling, LookUp, SessionCache, Write
from sessions.cache.databases import Database
from sessions.cache.encoding import UnreadableError
from sessions.cache.scopes import CACHED, UNCACHED, WRITE_TO_EVERYTHING, Names, Read
from sessions.core.calls import Calls, Check
from sessions.core.values import Append
from sessions.errors import BackendUnavailableError, SessionsError

__all__ = ["CachedCalls", "is_over", "new_writer", "write_of"]

R = TypeVar("R")


def new_writer() -> str:
    """Return an id for the marks of one writer."""
    return secrets.token_hex(8)


class CachedCalls(Calls):
    """Calls of one repository, through a cache.

    Args:
        calls: The calls to the backend.
        cache: The cache.
        database: The database in the cache.
    """

    __slots__ = ("_behind", "_cache", "_database")

    def __init__(self, calls: Calls, cache: SessionCache, database: Database) -> None:
        super().__init__(calls.backend, calls.read_retry)
        self._behind = calls
        self._cache = cache
        self._database = database

    async def aclose(self) -> None:
        """Release the connections of the database, and those of the cache."""
        await self._behind.aclose()
        if self.manager.may_end_with_close:
            await self._cache.end(new_writer(), WRITE_TO_EVERYTHING, WRITE_TO_EVERYTHING.tags, changed=True)
        await self._cache.aclose()

    async def run(
        self,
        operation: str,
        work: Callable[..., Awaitable[R]],
        *arguments: Any,
        repeats_unknown: bool = True,
        check: Check | None = None,
    ) -> R:
        """Answer a read from the cache, or call an operation of the backend as `Calls.run` does."""
        name = work.__name__
        call = functools.partial(
            self._behind.run, operation, work, *arguments, repeats_unknown=repeats_unknown, check=check
        )
        if name in CACHED:
            return await self._read(name, arguments, call)
        if name in UNCACHED:
            return await call()
        return await self._write(name, arguments, call)

    async def run_counting_attempts(
        self, operation: str, work: Callable[..., Awaitable[R]], *args: Any, check: Check | None = None
    ) -> R:
        """Call a write of the backend as `Calls.run_counting_attempts` does."""
        call = functools.partial(self._behind.run_counting_attempts, operation, work, *args, check=check)
        # A session that is there stays as it is: services ensure theirs at each turn.
        changes = (lambda result: result is not False) if work.__name__ == "ensure" else _always
        return await self._write(work.__name__, args, call, changes)

    async def run_batches(self, operation: str, delete: Callable[..., Awaitable[int]], *args: Any) -> int:
        """Delete batches as `Calls.run_batches` does: for the cache they are one write."""
        call = functools.partial(self._behind.run_batches, operation, delete, *args)
        return await self._write(delete.__name__, (*args, self.batch_size), call)

    async def append(self, operation: str, append: Append) -> bool:
        """Append messages as `Calls.append` does."""
        return await self._write(
            "append", (append,), functools.partial(self._behind.append, operation, append)
        )

    # -- Reads -------------------------------------------------------------------------------------

    async def _read(self, name: str, arguments: Sequence[Any], call: Callable[[], Awaitable[R]]) -> R:
        cache, database = self._cache, self._database
        names = database.known(self.manager) or await database.names(self.manager)
        read: Read[R] | None = None if names is None else names.read_of(name, arguments)
        if names is not None and read is None:
            return await call()
        began = cache.clock()
        found = None if read is None else await cache.look_up(read.key, read.tags, read.wanted)
        if read is None or found is None:
            cache.counts.bypasses += 1
            return await call()
        if found.payload is not None:
            try:
                result = read.decode(found.payload)
            except UnreadableError:
                cache.counts.misses += 1
                return await call()
            cache.counts.hits += 1
            return result
        cache.counts.misses += 1
        if await database.names(self.manager) is not names:
            # Another database has taken its place.
            return await call()
        shared = await cache.shared_reads.get()
        try:
            # With the generation: a caller never waits for a read that began before a write that it has seen
            # end.
            return await shared.run(
                (read.key, found.generation),
                functools.partial(self._read_and_fill, read, found, began, call),
                functools.partial(_frozen, read),
                functools.partial(_thawed, read),
                wanted=read.wanted,
                now=began,
                oldest=began - cache.ttl,
            )
        except UnreadableError:
            # A payload that is nested as deep as the stack of the one who reads it.
            return await call()

    async def _read_and_fill(
        self, read: Read[R], found: LookUp, began: float, call: Callable[[], Awaitable[R]]
    ) -> R:
        result = await call()
        cache = self._cache
        if not found.may_fill or (payload := read.encode(result)) is None:
            return result
        # From the look-up on: what writers past the cache wrote meanwhile is not seen for longer.
        seconds = cache.ttl - (cache.clock() - began)
        if seconds > 0 and len(payload) <= cache.max_value_bytes:
            version = getattr(result, "version", 0)
            covers = read.covers(result)
            await cache.fill(
                Filling(read.key, read.tags, found.generation, payload, covers, version, seconds, read.owner)
            )
        return result

    # -- Writes ------------------------------------------------------------------------------------

    async def _write(
        self,
        name: str,
        arguments: Sequence[Any],
        call: Callable[[], Awaitable[R]],
        changes: Callable[[R], bool] = lambda _result: True,
    ) -> R:
        database, writer = self._database, new_writer()
        names = await database.names(self.manager)
        write = write_of(names, name, arguments)
        marked = await self._cache.begin(writer, write)
        try:
            result = await call()
        except BaseException as error:
            # Otherwise it may still take effect: the mark stays until nothing of before can be valid.
            if is_over(error):
                # Without the owner: the session may be another user's.
                await self._cache.end(writer, write.without_owner(), marked, changed=True)
            raise
        await self._cache.end(writer, write, marked, changed=changes(result))
        if names is not None and database.known(self.manager) is not names:
            # It was written to another database, which has taken the place of the one before.
            write = write_of(await database.names(self.manager), name, arguments)
            await self._cache.end(writer, write, write.tags, changed=True)
        return result


def _always(_result: object) -> bool:
    return True


def write_of(names: Names | None, name: str, arguments: Sequence[Any]) -> Write:
    """Return what a write makes invalid: everything, if it is not known in which database.

    Args:
        names: The names of the database.
        name: Name of the backend's method.
        arguments: Its arguments.
    """
    return WRITE_TO_EVERYTHING if names is None else names.write_of(name, arguments)


def is_over(error: BaseException) -> bool:
    """Return whether a write that failed with this error is over: nothing of it can take effect later."""
    return isinstance(error, SessionsError) and not isinstance(error, BackendUnavailableError)


def _frozen(read: Read[R], result: R) -> Any:
    """Return a result, which its own reader may change from now on, in a form for other readers."""
    return read.encode(result) or copy.deepcopy(result)


def _thawed(read: Read[R], frozen: Any) -> R:
    """Return what a reader wants of a result in that form."""
    if isinstance(frozen, bytes):
        return read.decode(frozen)
    result: Any = copy.deepcopy(frozen)
    found: R = result if read.wanted is None else result[-read.wanted :]
    return found
