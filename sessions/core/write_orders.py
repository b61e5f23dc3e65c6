"""Write orders for messages whose timestamps are given."""

from __future__ import annotations

import time

from sessions.core.forks import ProcessLock

__all__ = ["last_write_order", "reserve_write_orders"]

_lock = ProcessLock()
_last = 0


def reserve_write_orders(count: int, *, beyond: int = 0) -> range:
    """Return increasing write orders, in microseconds since 1970, beyond all that this process got before.

    Args:
        count: How many.
        beyond: Another one that they have to be greater than.
    """
    global _last
    with _lock:
        first = max(time.time_ns() // 1000, _last + 1, beyond + 1)
        _last = first + count - 1
    return range(first, first + count)


def last_write_order() -> int:
    """Return the greatest write order that this process got; 0 if it got none."""
    return _last
