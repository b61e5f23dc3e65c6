"""Counts the checked-out connections of a repository."""

from __future__ import annotations

from typing import Any

from sessions.connections.base import AsyncBaseConnectionManager

__all__ = ["count_checked_out"]


def count_checked_out(repository: Any) -> int:
    """Return how many connections are checked out of the pools of a repository, in all event loops.

    As its connection manager reports; 0 if there is no manager, or if it does not know.
    """
    manager = getattr(repository, "_connection_manager", None)
    return manager.checked_out() if isinstance(manager, AsyncBaseConnectionManager) else 0
