"""What is taken from inside PyMongo, because nothing public tells it.

`tests/mongodb/test_internals.py` fails when PyMongo changes it.
"""

from __future__ import annotations

from typing import Any

from pymongo import AsyncMongoClient

__all__ = ["connections_in_use", "parts_of"]


def connections_in_use(client: Any) -> int:
    """Return how many connections of a client's pools are checked out.

    PyMongo counts them in each pool and publishes no total. Its pool events would tell, at a cost for every
    operation, but not those of a service's own client, which takes listeners only when it is made.

    Args:
        client: ``AsyncMongoClient``, or Motor's ``AsyncIOMotorClient``.
    """
    topology = _driver_client(client)._topology
    servers = topology._servers.values() if topology is not None else ()
    return sum(server.pool.active_sockets for server in servers)


def parts_of(client: Any) -> tuple[object, ...]:
    """Return what a client consists of: its pools, its monitors and their tasks among them.

    In a child process the driver replaces them. Whoever holds them keeps them from being collected there,
    where that would close the parent's sockets and touch its event loop.

    Args:
        client: ``AsyncMongoClient``, or Motor's ``AsyncIOMotorClient``.
    """
    return tuple(vars(client).values())


def _driver_client(client: Any) -> Any:
    """Return PyMongo's client; Motor's has it as ``delegate``, an attribute that its manual does not name."""
    return client if isinstance(client, AsyncMongoClient) else client.delegate
