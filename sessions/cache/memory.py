"""A cache in the memory of this process."""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sessions.cache.base import Filling, LookUp, Owner, SessionCache, Write
from sessions.core import telemetry
from sessions.core.forks import ProcessLock, on_fork
from sessions.errors import ConfigurationError, MissingDependencyError

__all__ = ["MemoryCache"]

# What an entry takes beside its key and its value, as measured: of the two dictionaries, and its objects.
ENTRY_BYTES = 800
MARK_BYTES = 200
DEFAULT_BYTES = 64 * 2**20
DEFAULT_VALUE_BYTES = 2**20

_caches: weakref.WeakSet[MemoryCache] = weakref.WeakSet()


@dataclass(slots=True)
class _Tag:
    """The state of a tag.

    Attributes:
        generation: Changes with each write.
        key_bytes: Size of its name.
        marks: The writers under way, and until when each mark counts.
        lists: Of a session's tag, that of its owner's lists.
        expires: When it may be forgotten, with the values it has.
    """

    generation: bytes
    key_bytes: int
    marks: dict[str, float] = field(default_factory=dict)
    lists: str = ""
    expires: float = 0.0

    def is_marked(self, now: float) -> bool:
        if self.marks:
            self.marks = {writer: until for writer, until in self.marks.items() if until > now}
        return bool(self.marks)


@dataclass(slots=True)
class _Value:
    generation: bytes
    key_bytes: int
    payload: bytes
    covers: int | None
    version: int
    expires: float


class MemoryCache(SessionCache):
    """A cache in the memory of this process, for the repositories of one process.

    What other processes write is seen after ``ttl`` seconds. A forked child begins with an empty one. Of what
    does not fit, the entries that were not used for the longest time are dropped.

    Args:
        ttl: Seconds for which a value is valid.
        max_bytes: About how much memory it takes at most.
        max_value_bytes: Larger values, such as very long histories, are not stored.
        clock: Returns seconds; for tests.

    Raises:
        ConfigurationError: A number is not positive.
        MissingDependencyError: The extra ``[cache]`` is not installed.
    """

    def __init__(
        self,
        *,
        ttl: float = 60.0,
        max_bytes: int = DEFAULT_BYTES,
        max_value_bytes: int = DEFAULT_VALUE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("ttl", ttl), ("max_bytes", max_bytes), ("max_value_bytes", max_value_bytes)):
            if not value > 0:
                raise ConfigurationError(f"{name}: must be more than 0")
        super().__init__(
            ttl=ttl, max_value_bytes=min(max_value_bytes, max_bytes // 2), name="memory", clock=clock
        )
        self.max_bytes = max_bytes
        self._lock = ProcessLock()
        self._entries = self._new_entries()
        _caches.add(self)

    def _new_entries(self) -> Any:
        try:
            from cachetools import TLRUCache
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "a cache in memory needs cachetools; install it with: pip install 'agenthub-sessions[cache]'"
            ) from error
        return TLRUCache(self.max_bytes, lambda _key, entry, _now: entry.expires, self.clock, _size)

    def __reduce__(self) -> Any:
        raise TypeError("a MemoryCache cannot be copied or pickled: it belongs to one process")

    def statistics(self) -> telemetry.CacheUse:
        """Return how the cache was used by this process, and how large it is."""
        with self._lock:
            self._entries.expire()
            entries, size = len(self._entries), int(self._entries.currsize)
        counts = self.counts
        return telemetry.CacheUse(counts.hits, counts.misses, counts.bypasses, entries, size, self.max_bytes)

    def clear(self) -> None:
        """Drop all values; those that readers are about to store, too."""
        with self._lock:
            self._entries = self._new_entries()

    # -- Under the lock ----------------------------------------------------------------------------

    def _tag(self, name: str) -> _Tag:
        """Return a tag, which is kept for longer than what is stored now."""
        key, now = ("tag", name), self.clock()
        tag: _Tag | None = self._entries.get(key)
        # Set anew only now and then: each time takes as long as a look-up.
        if tag is None or tag.expires < now + self.mark_seconds:
            tag = tag or _Tag(secrets.token_bytes(8), sys.getsizeof(name))
            tag.expires = now + self.ttl + self.mark_seconds
            self._entries[key] = tag
        return tag

    def _state(self, tags: Sequence[str]) -> tuple[bytes, bool]:
        """Return the generations of tags, and whether one of them has a mark."""
        now = self.clock()
        found = [self._tag(tag) for tag in tags]
        return b"".join(tag.generation for tag in found), any(tag.is_marked(now) for tag in found)

    def _lists_of(self, write: Write) -> tuple[str, ...]:
        if write.of_anybody is None:
            return ()
        return (self._tag(write.of_anybody).lists or write.otherwise,)

    def _note(self, owner: Owner | None) -> None:
        if owner is not None:
            self._tag(owner.session).lists = owner.lists

    # ----------------------------------------------------------------------------------------------

    async def look_up(self, key: str, tags: Sequence[str], wanted: int | None) -> LookUp:
        """Return what is known of a key."""
        with self._lock:
            generation, is_marked = self._state(tags)
            value: _Value | None = self._entries.get(("value", key))
            if value is None or value.generation != generation or is_marked:
                return LookUp(None, generation, not is_marked)
            if value.covers is not None and (wanted is None or wanted > value.covers):
                with contextlib.suppress(KeyError):  # It may expire at this very moment.
                    del self._entries["value", key]
                return LookUp(None, generation, True)
            return LookUp(value.payload, generation, True)

    async def fill(self, filling: Filling) -> None:
        """Store a value, unless its tags have changed, or have a mark, or there is one that is not older."""
        with self._lock:
            generation, is_marked = self._state(filling.tags)
            if is_marked or generation != filling.generation:
                return
            key = ("value", filling.key)
            there: _Value | None = self._entries.get(key)
            if there is not None and there.generation == generation and there.version >= filling.version:
                return
            self._note(filling.owner)
            expires = self.clock() + filling.seconds
            self._entries[key] = _Value(
                generation,
                sys.getsizeof(filling.key),
                filling.payload,
                filling.covers,
                filling.version,
                expires,
            )

    async def begin(self, writer: str, write: Write) -> tuple[str, ...]:
        """Set the mark of a writer on the tags of a write; return them all."""
        until = self.clock() + self.mark_seconds
        with self._lock:
            marked = (*write.tags, *self._lists_of(write))
            for name in marked:
                tag = self._tag(name)
                tag.marks[writer] = until
                self._entries["tag", name] = tag  # Its size has changed.
        return marked

    async def end(self, writer: str, write: Write, marked: tuple[str, ...], *, changed: bool) -> None:
        """Remove the mark of a writer, and give the tags of its write a new generation."""
        with self._lock:
            # Its owner may be known, or be another one, since the write began.
            for name in {*marked, *self._lists_of(write)}:
                tag = self._tag(name)
                tag.marks.pop(writer, None)
                if changed:
                    tag.generation = secrets.token_bytes(8)
                if write.forgets_owners:
                    tag.lists = ""
                self._entries["tag", name] = tag
            if changed:
                self._note(write.owner)


def _size(entry: _Tag | _Value) -> int:
    if isinstance(entry, _Value):
        return ENTRY_BYTES + entry.key_bytes + len(entry.payload)
    return ENTRY_BYTES + entry.key_bytes + MARK_BYTES * len(entry.marks)


def _clear_all() -> list[object]:
    """Forget the values of the parent, which does not tell this process of its writes."""
    remains = [cache._entries for cache in _caches]
    for cache in _caches:
        cache.clear()
    return list(remains)


on_fork(in_child=_clear_all)
