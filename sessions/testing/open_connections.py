"""How many connections of a repository are in use at the moment."""

from __future__ import annotations

from typing import Any

from sessions.connections.base import AsyncBaseConnectionManager

__all__ = ["count_checked_out"]


def count_checked_out(repository: Any) -> int:
    """Return how many connections are checked out of the pools of a repository, in all event loops.

    Its connection manager says it; 0 where there is none, or none that knows.
    """
    manager = getattr(repository, "_connection_manager", None)
    return manager.checked_out() if isinstance(manager, AsyncBaseConnectionManager) else 0
