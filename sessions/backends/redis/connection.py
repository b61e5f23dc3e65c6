"""Redis or Valkey, through a pool of redis-py's asyncio client for each event loop."""

from __future__ import annotations

import asyncio
import functools
import math
import uuid
from collections.abc import Hashable
from typing import Any

from redis import exceptions

from sessions.backends.redis import errors
from sessions.backends.redis.adopted import check_client, place_of_client, servers_of_client
from sessions.backends.redis.client import RedisConnection
from sessions.backends.redis.cluster import Address, ClusterConnection
from sessions.backends.redis.commands import (
    Connections,
    NoAnswerError,
    PoolTimeoutError,
    Waits,
)
from sessions.backends.redis.internals import connections_idle
from sessions.backends.redis.options import Servers, new_pool, place_of, servers_of
from sessions.config import RedisSettings, load_settings
from sessions.connections.base import HEALTH_TIMEOUT_SECONDS, AsyncBaseConnectionManager
from sessions.connections.keys import name_variables
from sessions.core.batches import GroupLimits, sends_within
from sessions.core.failures import Place
from sessions.core.group_commit import GroupCommit
from sessions.core.loops import LoopBound
from sessions.core.telemetry import PoolMeter, PoolUse, Target, target_of
from sessions.correlation import logger_of
from sessions.errors import ConfigurationError, SessionsError

__all__ = ["RedisConnectionManager", "information"]

logger = logger_of(__name__)


class RedisConnectionManager(AsyncBaseConnectionManager):
    """One database of a Redis or Valkey server, or a cluster.

    Args:
        url: ``redis://``, ``rediss://``, ``valkey://`` or ``unix://``; ``redis+cluster://`` or
            ``redis+sentinel://`` with one or more hosts.
        client: A service's own ``redis.asyncio.Redis``, used and never closed here; it belongs to one event
            loop. Or its ``redis.asyncio.RedisCluster``, which says where the nodes are and how to connect.
        **settings: Any key of ``db.redis``, over the configured value.

    Raises:
        ConfigurationError: A setting is missing or wrong.
    """

    def __init__(self, *, url: str | None = None, client: Any = None, **settings: Any) -> None:
        self._settings = _settings(url, client, settings)
        self._url_given = {"url": url}
        self._client = client
        self._nodes = None if client is None else servers_of_client(client)
        is_borrowed = client is not None and self._nodes is None
        self._connections = LoopBound(
            self._open,
            None if is_borrowed else self._close,
            parts=lambda connection: [server.pool for server in connection.opened()],
        )
        self.queues = LoopBound(self._open_queue, None)
        self._is_ready = False
        self._is_warned = False

    @classmethod
    def cache_key(cls, *, url: str | None = None, client: Any = None, **settings: Any) -> Hashable:
        """Return the complete settings, and the service's client if there is one."""
        resolved = _settings(url, client, settings)
        return resolved if client is None else (id(client), resolved)

    async def connect(self) -> Connections:
        """Return the running event loop's connections, on a server that was checked."""
        connection = await self._connections.get()
        while not self._is_ready:
            await connection.preparing.run(functools.partial(self._prepare, connection))
        return connection

    async def make_ready(self) -> None:
        """Connect, and check the server again, also whether it accepts writes."""
        connection = await self._connections.get()
        await connection.preparing.run(functools.partial(self._prepare, connection))
        await connection.check()

    async def _prepare(self, connection: Connections) -> None:
        reasons = set()
        for server in await connection.servers():
            found = information(await server.command("", "INFO"))
            self._check(found, is_cluster=connection is not server)
            reasons.add(await _what_is_lost(server, found))
        self._check_durability(next(filter(None, reasons), None))
        try:
            await connection.check()
        except exceptions.RedisError as error:
            if errors.code_of(error) not in errors.READS_ONLY:
                raise
        self._is_ready = True
        self.preparations += 1

    def _check(self, found: dict[str, str], *, is_cluster: bool) -> None:
        """Refuse a server that does not keep each key, or does not have them all."""
        place = self._place()
        if found.get("cluster_enabled") == "1" and not is_cluster:
            raise place.refused(
                "db.redis.cluster",
                "it is a node of a cluster; set it, begin the URL with redis+cluster://, or pass a "
                "redis.asyncio.RedisCluster",
            )
        policy = found.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            reason = (
                f"its maxmemory-policy is {policy}, which deletes parts of conversations when memory is full"
            )
            raise place.refused("db.redis", f"{reason}; set noeviction")

    def _check_durability(self, reason: str | None) -> None:
        """Refuse a server that loses acknowledged writes when it crashes, or warn of it once."""
        if reason is None:
            return
        if self._settings.require_durable:
            raise self._place().refused("db.redis.require_durable", reason)
        if not self._is_warned:
            self._is_warned = True
            logger.warning("%s: %s", self._place(), reason)

    async def disconnect(self) -> None:
        """Close the connections of all event loops, and forget what is known of the server.

        A service's own client is not closed.
        """
        self._is_ready = False
        await self._connections.aclose()

    def checked_out(self) -> int:
        """Return how many connections are in use, in all event loops."""
        return sum(connection.in_use for connection in self._connections.resources())

    def pools(self) -> list[PoolUse]:
        """Return the use of the pools, one for each event loop."""
        return [
            PoolUse(server.in_use_here, connections_idle(server.pool), server.size, server.meter.pending)
            for connection in self._connections.resources()
            for server in connection.opened()
        ]

    def target(self) -> Target:
        """Return the database, as telemetry names it."""
        return target_of("redis", self._place())

    def shared_name(self) -> str | None:
        """Return the number of the database with the prefix of the keys."""
        return f"{super().shared_name()}/{self._settings.prefix}"

    async def identity(self) -> str | None:
        """Return a random token that the database keeps; the first who asks stores it.

        Raises:
            Exception: It could not be stored.
        """
        connection = await self.connect()
        scope = connection.scopes()[0]
        key, token = f"{scope}:identity", uuid.uuid4().hex
        stored, found = await connection.send(
            [(scope, ("SET", key, token, "NX")), (scope, ("GET", key))], writes=True
        )
        if isinstance(found, str):
            return f"redis/{found}"
        raise next((reply for reply in (stored, found) if isinstance(reply, Exception)), KeyError(key))

    async def is_healthy(self) -> bool:
        """Return whether a write would work now. Writes nothing, is bounded, and never raises."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
                connection = await self._connections.get()
                await connection.servers()
                await connection.check()
        except Exception as error:
            self.log_unhealthy(error)
            return False
        return True

    def is_transient(self, error: BaseException) -> bool:
        """Return whether the driver's error is transient, by its class or code."""
        return errors.is_transient(error)

    def took_its_timeout(self, error: BaseException) -> bool:
        """Return whether no connection was free within ``pool_timeout``."""
        return isinstance(error, PoolTimeoutError)

    def outcome_is_unknown(self, error: BaseException) -> bool:
        """Return whether the connection was lost after a command was sent on it."""
        return errors.outcome_is_unknown(error)

    def driver_error(self, error: BaseException) -> BaseException:
        """Return redis-py's error."""
        return errors.driver_error(error)

    def translate(self, error: BaseException) -> SessionsError | None:
        """Return the package's error for an error of redis-py."""
        return errors.translate(error, self._place(), by_url=self._settings.url is not None)

    def _place(self) -> Place:
        """Return the address, database and user for the text of an error."""
        if self._client is not None:
            return place_of_client(self._client)
        address, database, user = place_of(self._settings)
        return Place("Redis", (address,) if address else (), database or None, user)

    def _open(self) -> Connections:
        settings = self._settings
        if self._client is not None and self._nodes is None:
            return self._new_connection(self._client.connection_pool)
        try:
            servers = self._nodes or servers_of(settings)
        except ConfigurationError as error:
            name_variables(error, self._url_given)
            raise
        if not servers.is_cluster:
            return self._new_connection(new_pool(settings, servers))
        open_node = functools.partial(self._open_node, servers)
        kept, waits = _kept(settings), _waits(settings)
        return ClusterConnection(settings.prefix, kept, servers.hosts, open_node, waits)

    def _open_node(self, servers: Servers, host: Address) -> RedisConnection:
        return self._new_connection(new_pool(self._settings, servers, host))

    def _new_connection(self, pool: Any) -> RedisConnection:
        settings = self._settings
        size = min(settings.pool_size, getattr(pool, "max_connections", settings.pool_size))
        return RedisConnection(
            pool,
            *(settings.prefix, _kept(settings), size, _waits(settings), settings.wait_replicas),
            PoolMeter(self.target()),
        )

    def _open_queue(self) -> GroupCommit:
        settings = self._settings
        size = settings.pool_size
        # Other operations do not wait behind appends for a connection.
        sends, slow_sends = sends_within(size)
        limits = GroupLimits(
            count=settings.append_batch_messages,
            size=settings.append_batch_bytes,
            sends=sends,
            slow_sends=slow_sends,
            seconds=settings.pool_timeout,
            queue_timeout=PoolTimeoutError,
            no_answer=NoAnswerError,
        )
        return GroupCommit(limits, self._connections.start)

    async def _close(self, connection: Connections) -> None:
        await connection.aclose()


def _kept(settings: RedisSettings) -> str:
    """Return what follows the name of an operation: for how many milliseconds a write keeps its session."""
    return "" if settings.expire_after is None else f":{math.ceil(settings.expire_after * 1000)}"


def _waits(settings: RedisSettings) -> Waits:
    return Waits(settings.pool_timeout, settings.connect_timeout, settings.timeout)


def information(text: str) -> dict[str, str]:
    """Return the keys and values of the reply to ``INFO``."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


async def _what_is_lost(server: RedisConnection, found: dict[str, str]) -> str | None:
    """Return which acknowledged writes a crash loses, and the setting at fault; None if it loses none."""
    if found.get("aof_enabled") != "1":
        return "a crash loses what was written since its last snapshot: appendonly is no"
    try:
        _, policy = await server.command("", "CONFIG GET", "appendfsync")
    except (exceptions.ResponseError, ValueError):
        # Hosted servers hide it, and so may the rules of a user.
        return "a crash may lose acknowledged writes: its appendfsync cannot be read"
    if policy == "always":
        return None
    return f"a crash loses the acknowledged writes of about the last second: appendfsync is {policy}"


def _settings(url: str | None, client: Any, overrides: dict[str, Any]) -> RedisSettings:
    settings = load_settings()
    if client is not None:
        check_client(client)
        return settings.db.redis.with_overrides(**overrides)
    return settings.backend("redis", url=url, **overrides)
