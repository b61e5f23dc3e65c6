"""How many connections of a repository are in use at the moment."""

from __future__ import annotations

from typing import Any

from sessions.core.loops import LoopBound

__all__ = ["count_checked_out"]


def count_checked_out(repository: Any) -> int:
    """Return how many connections are checked out of the pools of a repository, in all event loops.

    It knows the pools of the built-in connection managers, SQLAlchemy's and PyMongo's; 0 for any other.
    """
    manager = getattr(repository, "_connection_manager", None)
    total = 0
    for value in vars(manager).values() if manager is not None else ():
        if isinstance(value, LoopBound):
            total += sum(_in_use(entry.resource) for entry in tuple(value._entries.values()))
    return total


def _in_use(resource: Any) -> int:
    if hasattr(resource, "engine"):
        in_pool: int = resource.engine.sync_engine.pool.checkedout()
        return in_pool
    # Motor wraps PyMongo's client, of which any other attribute is a database.
    client = vars(resource.client).get("delegate", resource.client)
    servers = client._topology._servers.values() if client._topology is not None else ()
    return sum(server.pool.active_sockets for server in servers)
