"""What a process has written while its cache could not be told."""

from __future__ import annotations

from collections.abc import Set

from sessions.cache.scopes import EVERYTHING
from sessions.core.forks import ProcessLock

__all__ = ["Owed"]

# With more tags than these, everything is invalid.
MAX_TAGS = 1000


class Owed:
    """The tags that are to get a new generation as soon as the cache can be used again."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._tags: dict[str, int] = {}
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._tags)

    def add(self, tags: Set[str]) -> None:
        """Add the tags of a write."""
        with self._lock:
            self._number += 1
            self._tags.update(dict.fromkeys(tags, self._number))
            if len(self._tags) > MAX_TAGS:
                self._tags = {EVERYTHING: self._number}

    def list(self) -> tuple[list[str], int]:
        """Return the tags, and a number for `paid`."""
        with self._lock:
            return list(self._tags), self._number

    def paid(self, number: int) -> None:
        """Remove the tags that were listed with a number, unless they were added again."""
        with self._lock:
            self._tags = {tag: added for tag, added in self._tags.items() if added > number}
