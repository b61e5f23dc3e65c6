"""Time limits of a checkout and of a statement, and a cancellation that SQLAlchemy loses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from sessions.resilience import time_left

__all__ = ["cancellation_check", "from_now", "smaller"]


def smaller(seconds: float, at_most: float) -> float | None:
    """Return a time limit in seconds, within that of the call; None for none."""
    return None if math.isinf(seconds) else min(time_left(seconds), at_most)


def from_now(seconds: float | None) -> float | None:
    """Return a time of the running event loop; None for never."""
    if seconds is None or math.isinf(seconds):
        return None
    return asyncio.get_running_loop().time() + time_left(seconds)


def cancellation_check() -> Callable[[], None]:
    """Return a function that raises ``CancelledError`` if the running task lost a cancellation.

    In Python 3.11, SQLAlchemy up to 2.1.5 loses a cancellation during the wait for a connection, if one is
    returned to the pool at the same time.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0

    def check() -> None:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError

    return check
