"""SQLAlchemy's connection pool, for who must not wait where there is nothing to wait for."""

from __future__ import annotations

from typing import Any

from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util.queue import AsyncAdaptedQueue

__all__ = ["PostgresPool"]


class _Queue(AsyncAdaptedQueue[Any]):
    """Hands out what is there without waiting, as SQLAlchemy's own does since 2.1.5, and counts who waits."""

    waiting = 0

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not block or not self.empty():
            return self.get_nowait()
        self.waiting += 1
        try:
            return super().get(block, timeout)
        finally:
            self.waiting -= 1


class PostgresPool(AsyncAdaptedQueuePool):
    """A pool that tells whether somebody waits for a connection."""

    _queue_class = _Queue

    @property
    def waiting(self) -> int:
        """How many wait for a connection to be given back."""
        queue: Any = self._pool
        waiting: int = queue.waiting
        return waiting
