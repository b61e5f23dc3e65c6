"""Access to a private part of redis-py that has no public equivalent in all supported versions.

`tests/redis/test_internals.py` fails when redis-py changes it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["connections_idle"]


def connections_idle(pool: Any) -> int:
    """Return how many connections of a pool are open and not in use.

    Newer versions than the lowest one that is supported report it, with ``get_connection_count``.

    Args:
        pool: ``redis.asyncio.ConnectionPool``; 0 for a service's own kind of pool.
    """
    return len(getattr(pool, "_available_connections", ()))
