"""Fork safety: locks that threads of the parent hold, and sockets that the parent still uses."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["ProcessLock", "importing", "on_fork"]

# The parent's sockets and event loops, in a child. Closing a transport would remove the shared descriptor
# from the parent's epoll set, so they stay referenced until the process exits.
_inherited: list[object] = []
# References held during a fork, and in the child until it exits.
_parts: list[object] = []

# Seconds that a fork waits for an import in another thread.
IMPORT_SECONDS = 10.0
_importing_is_held = False

_before: list[Callable[[], object]] = []
_in_child: list[Callable[[], object]] = []
_locks: weakref.WeakSet[ProcessLock] = weakref.WeakSet()


class ProcessLock:
    """A lock that is free in a forked child, whichever of the parent's threads holds it.

    That thread does not exist in the child, so it would never release the lock there.

    Args:
        reentrant: Whether the thread that holds it may acquire it again.
    """

    __slots__ = ("__weakref__", "_lock", "_reentrant")

    def __init__(self, *, reentrant: bool = True) -> None:
        self._reentrant = reentrant
        self._renew()
        _locks.add(self)

    def _renew(self) -> None:
        # Looked up each time: gevent replaces them.
        self._lock: Any = threading.RLock() if self._reentrant else threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; return whether it was acquired."""
        return bool(self._lock.acquire(blocking, timeout))

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


# Held during an import on first use. A child would deadlock on a module that another thread of the parent was
# importing, so a fork waits for the import.
importing = ProcessLock()


def on_fork(*, before: Callable[[], object] | None = None, in_child: Callable[[], object]) -> None:
    """Register functions to call when this process forks.

    Args:
        before: Called before the fork; its result is not finalized in the child, even if its owner drops it.
        in_child: Called in the child; its result is never finalized there.
    """
    if before is not None:
        _before.append(before)
    _in_child.append(in_child)


def _before_fork() -> None:
    global _importing_is_held
    _importing_is_held = importing.acquire(timeout=IMPORT_SECONDS)
    _parts[:] = [function() for function in _before]


def _after_fork_in_parent() -> None:
    _parts.clear()
    if _importing_is_held:
        importing.release()


def _after_fork_in_child() -> None:
    for lock in tuple(_locks):
        lock._renew()
    _inherited.extend(function() for function in _in_child)
    _inherited.extend(_parts)
    _parts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
