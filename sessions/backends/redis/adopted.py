"""A service's own client of redis-py."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis, RedisCluster

from sessions.backends.redis.options import Servers
from sessions.core.failures import Place
from sessions.errors import ConfigurationError

__all__ = ["check_client", "place_of_client", "servers_of_client"]

# How a client connects to a node, and as whom. Of the rest the time limits and the size are settings, replies
# have one form here, and what the client runs on a new connection may let it read from replicas.
TAKEN = ("connection_class", "credential_provider", "username", "password", "client_name")
TAKEN_OF = ("socket_keepalive_", "ssl_")


def check_client(client: object) -> None:
    """Reject what is not an asyncio client of redis-py.

    Raises:
        ConfigurationError: It is not. The text does not show it.
    """
    if not isinstance(client, Redis | RedisCluster):
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        raise ConfigurationError(
            f"client: must be a redis.asyncio.Redis or redis.asyncio.RedisCluster, not a {kind}"
        )


def servers_of_client(client: Redis | RedisCluster) -> Servers | None:
    """Return the nodes that a client of a cluster knows; None for a client of one server.

    A pool of the latter is used as it is. The connections of the former's nodes are not public, so others are
    opened, with the same options.
    """
    if not isinstance(client, RedisCluster):
        return None
    given = client.get_connection_kwargs()
    options: dict[str, Any] = {
        name: value
        for name, value in given.items()
        if value is not None and (name in TAKEN or name.startswith(TAKEN_OF))
    }
    # The password of the settings is that of another server.
    options.setdefault("credential_provider", None)
    return Servers(_nodes_of(client), options, is_cluster=True, remap=client.nodes_manager.remap_host_port)


def _nodes_of(client: RedisCluster) -> tuple[tuple[str, int], ...]:
    nodes = client.get_nodes() or client.nodes_manager.startup_nodes.values()
    return tuple((node.host, int(node.port)) for node in nodes)


def place_of_client(client: Redis | RedisCluster) -> Place:
    """Return the address, database and user of a client for the text of an error."""
    if isinstance(client, RedisCluster):
        addresses = tuple(f"{host}:{port}" for host, port in _nodes_of(client))
        return Place("Redis", addresses, "0", client.get_connection_kwargs().get("username"))
    options = client.connection_pool.connection_kwargs
    address = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return Place("Redis", (address,), str(options.get("db", 0)), options.get("username"))
