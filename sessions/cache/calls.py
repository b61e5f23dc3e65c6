"""The calls of a repository through a cache: reads look there first, writes make its values invalid."""

from __future__ import annotations

import copy
import functools
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sessions.cache.base import Filling, LookUp, SessionCache, Write
from sessions.cache.encoding import UnreadableError
from sessions.cache.scopes import EVERYTHING, UNCACHED, Names, Read
from sessions.core.calls import Calls, Check
from sessions.core.values import Append
from sessions.errors import BackendUnavailableError, SessionsError

__all__ = ["CachedCalls", "CallsInTransaction", "WritesInTransaction", "new_writer"]

R = TypeVar("R")


def new_writer() -> str:
    """Return an id for the marks of one writer."""
    return secrets.token_hex(8)


class CachedCalls(Calls):
    """Calls of one repository, through a cache.

    Args:
        calls: The calls to the backend.
        cache: The cache.
        names: The keys and tags of the database.
    """

    __slots__ = ("_cache", "_names")

    def __init__(self, calls: Calls, cache: SessionCache, names: Names) -> None:
        super().__init__(calls.backend, calls.read_retry)
        self._cache = cache
        self._names = names

    async def aclose(self) -> None:
        """Release the connections of the database, and those of the cache."""
        await super().aclose()
        if self.manager.shared_name() is None:
            # A temporary database ends with its connections.
            await self._cache.end(new_writer(), _TO_EVERYTHING, _TO_EVERYTHING.tags, changed=True)
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
            super().run, operation, work, *arguments, repeats_unknown=repeats_unknown, check=check
        )
        if (read := self._names.read_of(name, arguments)) is not None:
            return await self._read(read, call)
        if name in _READS:
            return await call()
        return await self._write(self._names.write_of(name, arguments), call)

    async def run_counting_attempts(
        self, operation: str, work: Callable[..., Awaitable[R]], *args: Any, check: Check | None = None
    ) -> R:
        """Call a write of the backend as `Calls.run_counting_attempts` does."""
        call = functools.partial(super().run_counting_attempts, operation, work, *args, check=check)
        # A session that is there stays as it is: services ensure theirs at each turn.
        changes = (lambda result: result is not False) if work.__name__ == "ensure" else _always
        return await self._write(self._names.write_of(work.__name__, args), call, changes)

    async def append(self, operation: str, append: Append) -> bool:
        """Append messages as `Calls.append` does."""
        call = functools.partial(super().append, operation, append)
        return await self._write(self._names.write_of("append", (append,)), call)

    # -- Reads -------------------------------------------------------------------------------------

    async def _read(self, read: Read[R], call: Callable[[], Awaitable[R]]) -> R:
        cache = self._cache
        began = cache.clock()
        found = await cache.look_up(read.key, read.tags, read.wanted)
        if found is None:
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
        write: Write,
        call: Callable[[], Awaitable[R]],
        changes: Callable[[R], bool] = lambda _result: True,
    ) -> R:
        writer = new_writer()
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
        return result


_TO_EVERYTHING = Write((EVERYTHING,))
_READS = UNCACHED | {"get", "history", "list_after", "list_page", "list_previews"}


def _always(_result: object) -> bool:
    return True


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


class WritesInTransaction:
    """The writes of one transaction of a caller's, which take effect when it is committed.

    Args:
        cache: The cache.
        ends: Whether `end` is called; otherwise the marks stay until they expire.
    """

    __slots__ = ("_cache", "_ends", "_marked", "_writer", "_writes")

    def __init__(self, cache: SessionCache, *, ends: bool) -> None:
        self._cache = cache
        self._ends = ends
        self._writer = new_writer()
        self._writes: list[Write] = []
        self._marked: list[tuple[str, ...]] = []

    async def begin(self, write: Write) -> None:
        """Set the mark on the tags of a write."""
        marked = await self._cache.begin(self._writer, write)
        if self._ends:
            self._marked.append(marked)
            # It may fail, or be rolled back.
            self._writes.append(write.without_owner())

    async def end(self) -> None:
        """Remove the marks, after the transaction."""
        for write, marked in zip(self._writes, self._marked, strict=True):
            await self._cache.end(self._writer, write, marked, changed=True)


class CallsInTransaction(Calls):
    """Calls of one repository in a transaction of a caller's.

    Its reads go to the database: they see what the transaction has written, and nobody else does. Its writes
    set their mark, and whoever commits removes it.

    Args:
        calls: The calls to the backend.
        names: The keys and tags of the database.
        writes: The writes of the transaction.
    """

    __slots__ = ("_names", "_writes")

    def __init__(self, calls: Calls, names: Names, writes: WritesInTransaction) -> None:
        super().__init__(calls.backend, calls.read_retry)
        self._names = names
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
        if work.__name__ not in _READS:
            await self._writes.begin(self._names.write_of(work.__name__, arguments))
        return await super().run(operation, work, *arguments, repeats_unknown=repeats_unknown, check=check)

    async def run_counting_attempts(
        self, operation: str, work: Callable[..., Awaitable[R]], *args: Any, check: Check | None = None
    ) -> R:
        """Call a write of the backend as `Calls.run_counting_attempts` does."""
        await self._writes.begin(self._names.write_of(work.__name__, args))
        return await super().run_counting_attempts(operation, work, *args, check=check)

    async def append(self, operation: str, append: Append) -> bool:
        """Append messages as `Calls.append` does."""
        await self._writes.begin(self._names.write_of("append", (append,)))
        return await super().append(operation, append)
