"""What every cache does: values that are valid as long as their tags are unchanged.

Each value belongs to tags, such as its session and its user. A tag has a *generation*, a random token, and
the *marks* of the writers that are under way. This is what keeps the promises of the cache:

- A reader that finds no value gets the generations of the tags, reads the database, and stores what it read
  under these generations. A value is valid only while its tags still have them.
- A writer sets its mark on the tags before its write, and removes it after the write, together with a new
  generation. While a tag has a mark, its values are neither returned nor stored.

So a value that was read before a write returned is never returned after it, however late its reader stores
it. A cache that loses a tag, because it evicts it, loses the values with it: the next generation is another
random token. A writer that dies leaves its mark, which expires after the values that it was to invalidate.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sessions.cache.shared_reads import SharedReads
from sessions.core import telemetry
from sessions.core.loops import LoopBound

__all__ = ["Filling", "LookUp", "Owner", "SessionCache", "Write"]

# A writer is done, or its process is dead, after at most this time: more than the time limits of an operation
# with all its attempts.
WRITE_SECONDS = 60.0


class LookUp(NamedTuple):
    """What a cache knows of a key.

    Attributes:
        payload: The value; None if there is none that is valid.
        generation: The generations of the tags.
        may_fill: Whether a value that is read from now on may be stored.
    """

    payload: bytes | None
    generation: bytes
    may_fill: bool


class Owner(NamedTuple):
    """Who owns a session: noted with the tag of the session, for writers that do not say it.

    Attributes:
        session: Tag of the session.
        lists: Tag of the lists of its owner; empty if it has no owner any more.
    """

    session: str
    lists: str


@dataclass(frozen=True, slots=True)
class Filling:
    """A value to store.

    Attributes:
        key: Its key.
        tags: Its tags.
        generation: The generations of the tags before it was read.
        payload: The value.
        covers: Of a history how many messages it has; None for all there are.
        version: Of a session its version; 0 for other values.
        seconds: How long it is valid.
        owner: What it says of the owner of a session.
    """

    key: str
    tags: Sequence[str]
    generation: bytes
    payload: bytes
    covers: int | None
    version: int
    seconds: float
    owner: Owner | None


@dataclass(frozen=True, slots=True)
class Write:
    """The tags whose values a write makes invalid.

    Attributes:
        tags: The tags.
        of_anybody: Tag of a session whose owner the writer does not name: its noted owner's lists are
            concerned, and if there is none, ``otherwise``.
        otherwise: Tag of the lists of all users.
        owner: What is known of the owner after the write, if it succeeds.
        forgets_owners: Whether the noted owners of the sessions are not known any more.
    """

    tags: tuple[str, ...]
    of_anybody: str | None = None
    otherwise: str = ""
    owner: Owner | None = None
    forgets_owners: bool = False

    def without_owner(self) -> Write:
        """Return this write if it is not known whether it succeeds."""
        return self if self.owner is None else replace(self, owner=None, forgets_owners=True)


@dataclass(slots=True)
class _Counts:
    hits: int = 0
    misses: int = 0
    bypasses: int = 0


class SessionCache(ABC):
    """A cache that repositories share; `MemoryCache` and `RedisCache` are the two kinds.

    Args:
        ttl: Seconds for which a value is valid: after them, what writers that go past the cache have written
            is seen.
        max_value_bytes: Larger values are not stored.
        name: Its name in metrics.
        clock: Returns seconds.
    """

    def __init__(
        self,
        *,
        ttl: float,
        max_value_bytes: int,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ttl = ttl
        self.clock = clock
        self.max_value_bytes = max_value_bytes
        self.name = name
        self.counts = _Counts()
        self.shared_reads: LoopBound[SharedReads] = LoopBound(SharedReads, None)
        telemetry.caches.add(self)

    @property
    def mark_seconds(self) -> float:
        """How long the mark of a writer is kept that does not remove it: longer than the values there are."""
        return max(self.ttl, WRITE_SECONDS)

    def statistics(self) -> telemetry.CacheUse:
        """Return how the cache was used by this process, and how large it is."""
        counts = self.counts
        return telemetry.CacheUse(counts.hits, counts.misses, counts.bypasses)

    @abstractmethod
    async def look_up(self, key: str, tags: Sequence[str], wanted: int | None) -> LookUp | None:
        """Return what is known of a key; None if the cache cannot be used.

        Args:
            key: The key.
            tags: Its tags.
            wanted: Of a history how many messages are wanted; None for all. A value that covers fewer is
                dropped.
        """

    @abstractmethod
    async def fill(self, filling: Filling) -> None:
        """Store a value, unless its tags have changed, or have a mark, or there is one that is not older."""

    @abstractmethod
    async def begin(self, writer: str, write: Write) -> tuple[str, ...]:
        """Set the mark of a writer on the tags of a write; return them all.

        Args:
            writer: Identifies the writer.
            write: What it is to write.
        """

    @abstractmethod
    async def end(self, writer: str, write: Write, marked: tuple[str, ...], *, changed: bool) -> None:
        """Remove the mark of a writer, and give the tags of its write a new generation.

        Args:
            writer: Identifies the writer.
            write: What it has written.
            marked: What `begin` has returned.
            changed: False if it has written nothing, so that the values stay valid.
        """

    async def aclose(self) -> None:
        """Release all connections; a later call opens new ones."""
        return
