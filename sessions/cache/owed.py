"""What a process has written while its cache could not be told."""

from __future__ import annotations

from collections.abc import Set

from sessions.cache.scopes import EVERYTHING
from sessions.core.forks import ProcessLock

__all__ = ["Owed"]

# With more tags than these, everything is invalid.
MAX_TAGS = 1000


class Owed:
    """The tags that are to get a new generation, and lose a mark, as soon as the cache can be used again."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        # By tag and writer, with the number of the write.
        self._writes: dict[tuple[str, str], int] = {}
        self._number = 0

    def __bool__(self) -> bool:
        return bool(self._writes)

    def add(self, writer: str, tags: Set[str]) -> None:
        """Add the tags of a write."""
        with self._lock:
            self._number += 1
            self._writes.update(dict.fromkeys(((tag, writer) for tag in tags), self._number))
            if len(self._writes) > MAX_TAGS:
                self._writes = {(EVERYTHING, ""): self._number}

    def list(self) -> tuple[list[tuple[str, str]], int]:
        """Return each tag with a writer, and a number for `paid`."""
        with self._lock:
            return list(self._writes), self._number

    def paid(self, number: int) -> None:
        """Remove what was listed with a number."""
        with self._lock:
            self._writes = {write: added for write, added in self._writes.items() if added > number}
