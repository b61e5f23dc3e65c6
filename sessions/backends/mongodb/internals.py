"""Access to private parts of PyMongo that have no public equivalent.

`tests/mongodb/test_internals.py` fails when PyMongo changes it.
"""

from __future__ import annotations

from typing import Any

from pymongo import AsyncMongoClient

__all__ = ["connections_idle", "connections_in_use", "parts_of"]


def connections_in_use(client: Any) -> int:
    """Return how many connections of a client's pools are checked out.

    PyMongo counts them in each pool, without a public total. Pool events would cost time in every operation,
    and a service's own client accepts listeners only when it is created.

    Args:
        client: ``AsyncMongoClient``, or Motor's ``AsyncIOMotorClient``.
    """
    return sum(pool.active_sockets for pool in _pools(client))


def connections_idle(client: Any) -> int:
    """Return how many connections of a client's pools are open and not in use.

    Args:
        client: ``AsyncMongoClient``, or Motor's ``AsyncIOMotorClient``.
    """
    return sum(len(pool.conns) for pool in _pools(client))


def _pools(client: Any) -> list[Any]:
    topology = _driver_client(client)._topology
    return [server.pool for server in tuple(topology._servers.values())] if topology is not None else []


def parts_of(client: Any) -> tuple[object, ...]:
    """Return the parts of a client, such as its pools and monitors.

    In a forked child the driver replaces them. A reference to them prevents their finalization there, which
    would close the parent's sockets.

    Args:
        client: ``AsyncMongoClient``, or Motor's ``AsyncIOMotorClient``.
    """
    return tuple(vars(client).values())


def _driver_client(client: Any) -> Any:
    """Return PyMongo's client; the undocumented attribute ``delegate`` of Motor's client."""
    return client if isinstance(client, AsyncMongoClient) else client.delegate
