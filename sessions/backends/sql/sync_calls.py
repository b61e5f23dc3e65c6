"""Runs blocking SQLAlchemy code in a greenlet, in which it may use an asyncio driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["run_sync"]

R = TypeVar("R")

# Bound to nothing, it never opens a connection. `AsyncConnection.run_sync` needs one before the call, and
# returns it to the pool in a task of its own; what both call in ``sqlalchemy.util`` is not public.
_db_session = AsyncSession()


async def run_sync(function: Callable[..., R], *arguments: Any) -> R:
    """Call ``function(*arguments)`` in a greenlet, in which an asyncio driver may be awaited.

    One call for a checkout, a statement and the return to the pool.
    """
    return await _db_session.run_sync(lambda _: function(*arguments))
