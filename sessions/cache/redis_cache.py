"""A cache on a Redis or Valkey server, which several processes share."""

from __future__ import annotations

import asyncio
import functools
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sessions.cache.base import Filling, LookUp, SessionCache, Write
from sessions.cache.breaker import Breaker
from sessions.cache.owed import Owed
from sessions.cache.script import digest_of, script_for
from sessions.core.loops import LoopBound
from sessions.errors import ConfigurationError, MissingDependencyError

__all__ = ["RedisCache"]

SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
DEFAULT_VALUE_BYTES = 2**20
# How soon a process tells a server that works again what was written meanwhile.
SETTLE_SECONDS = 0.25
POOL_SIZE = 10
FULL = (b"full", "full")


@dataclass(slots=True, eq=False)
class _OnLoop:
    client: Any
    settling: asyncio.Task[None] | None = None


class RedisCache(SessionCache):
    """A cache on a Redis or Valkey server, for the repositories of all processes that use it.

    The server may evict its keys, and need not keep them: give it a ``maxmemory`` with the policy
    ``allkeys-lru``. It holds conversations as the database does, so protect it alike. A cluster is not
    supported.

    While the server cannot be used, reads go to the database. A read waits for it for ``timeout`` seconds at
    most, and a write for three times as long. After a failure no read does for half a second, and after half
    a second of failures no write. What this process writes meanwhile it tells the server as soon as it can,
    and until then other processes may read the state before it, for ``ttl`` seconds at most.

    Args:
        url: ``redis://``, ``rediss://``, ``valkey://`` or ``unix://``.
        client: A service's own ``redis.asyncio.Redis``, used and never closed here; it belongs to one event
            loop.
        ttl: Seconds for which a value is valid.
        prefix: The first part of all keys.
        timeout: Seconds that a read waits for the server.
        max_value_bytes: Larger values, such as very long histories, are not stored.

    Raises:
        ConfigurationError: The URL is invalid, or a number is not positive. The text does not show the URL.
        MissingDependencyError: The extra ``[redis]`` is not installed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        ttl: float = 60.0,
        prefix: str = "sessions-cache",
        timeout: float = 0.25,
        max_value_bytes: int = DEFAULT_VALUE_BYTES,
    ) -> None:
        for name, value in (("ttl", ttl), ("timeout", timeout), ("max_value_bytes", max_value_bytes)):
            if not value > 0:
                raise ConfigurationError(f"{name}: must be more than 0")
        if (url is None) is (client is None):
            raise ConfigurationError("url: must be given, or client")
        super().__init__(ttl=ttl, max_value_bytes=max_value_bytes, name="redis")
        _import_driver()
        self._url = url
        self._client = client
        self._prefix = f"{prefix}:"
        self._timeout = timeout
        self._breaker = Breaker()
        self._owed = Owed()
        # A wrong URL is found here.
        pool = (client if url is None else _new_client(url)).connection_pool
        # A server keeps a script as long as it runs: see `_run`.
        self._script = script_for(f"{self._prefix} {pool.connection_kwargs.get('db', 0)}")
        self._digest = digest_of(self._script)
        self._on_loops = LoopBound(self._open, self._close, parts=lambda on_loop: on_loop.client)

    def __reduce__(self) -> Any:
        if self._url is None:
            raise TypeError("a RedisCache on a client of a service's own cannot be copied or pickled")
        options: dict[str, Any] = {
            "ttl": self.ttl,
            "prefix": self._prefix.removesuffix(":"),
            "timeout": self._timeout,
            "max_value_bytes": self.max_value_bytes,
        }
        return functools.partial(RedisCache, **options), (self._url,)

    # -- Connections -------------------------------------------------------------------------------

    def _open(self) -> _OnLoop:
        return _OnLoop(self._client if self._url is None else _new_client(self._url, self._connected))

    async def _connected(self, connection: Any) -> None:
        """Prepare a new connection, and see to it that the server shows nothing that another one had lost."""
        await connection.on_connect()

        async def send(*command: str | int | bytes) -> Any:
            await connection.send_command(*command)
            return await connection.read_response()

        try:
            await self._run(send, "connected")
        except BaseException:
            # A reply that is still to come would be that of the next command.
            await connection.disconnect(nowait=True)
            raise

    async def _close(self, on_loop: _OnLoop) -> None:
        if on_loop.settling is not None:
            on_loop.settling.cancel()
            await asyncio.wait([on_loop.settling])
        if self._url is not None:
            await on_loop.client.aclose()

    async def aclose(self) -> None:
        """Release all connections; a later call opens new ones. A service's own client is not closed."""
        await self._on_loops.aclose()

    async def _call(self, operation: str, *arguments: str | int | bytes, insists: int = 0) -> Any:
        """Run an operation of the script; None if the server cannot be used.

        Args:
            operation: Its name.
            *arguments: Its arguments.
            insists: How many times the time limit it is worth, also shortly after a failure; 0 for once, and
                not then.
        """
        if not self._breaker.lets_through(insists=insists > 0):
            return None
        try:
            async with asyncio.timeout(self._timeout * max(1, insists)):
                send = (await self._on_loops.get()).client.execute_command
                if self._owed:
                    # Before anything else: no value of before may be found.
                    writes, number = self._owed.list()
                    await self._run(send, "settle", *itertools.chain(*writes))
                    self._owed.paid(number)
                reply = await self._run(send, operation, *arguments)
        except Exception as error:  # Whatever it is: the database has the answer.
            self._breaker.failed(type(error).__name__)
            return None
        if reply in FULL:
            self._breaker.warn("it has reached its maxmemory, and evicts nothing")
            return None
        self._breaker.worked()
        return reply

    async def _run(
        self, send: Callable[..., Awaitable[Any]], operation: str, *arguments: str | int | bytes
    ) -> Any:
        from redis.exceptions import NoScriptError

        fresh = secrets.token_hex(8)
        life = int((self.ttl + self.mark_seconds) * 1000)
        sent = (operation, self._prefix, fresh, life, *arguments)
        try:
            return await send("EVALSHA", self._digest, 0, *sent)
        except NoScriptError:
            # The server was restarted, or a replica was promoted: it may have lost what writers told it, and
            # have kept the values. It knows no script then; whoever sends it drops all values with it.
            await send("EVAL", self._script, 0, "restarted", self._prefix, fresh, life)
        return await send("EVALSHA", self._digest, 0, *sent)

    # ----------------------------------------------------------------------------------------------

    async def look_up(self, key: str, tags: Sequence[str], wanted: int | None) -> LookUp | None:
        """Return what is known of a key; None if the server cannot be used."""
        reply = await self._call("look_up", key, "" if wanted is None else wanted, *tags)
        if reply is None:
            return None
        payload, generation, may_fill = reply
        return LookUp(_bytes(payload), _bytes(generation) or b"", bool(may_fill))

    async def fill(self, filling: Filling) -> None:
        """Store a value, unless its tags have changed, or have a mark, or there is one that is not older."""
        owner = filling.owner
        await self._call(
            "fill",
            filling.key,
            filling.generation,
            filling.payload,
            "" if filling.covers is None else filling.covers,
            filling.version,
            max(1, int(filling.seconds * 1000)),
            "" if owner is None else owner.session,
            "" if owner is None else owner.lists,
            *filling.tags,
        )

    async def begin(self, writer: str, write: Write) -> tuple[str, ...]:
        """Set the mark of a writer on the tags of a write; return them all."""
        until = int(self.mark_seconds * 1000)
        anybody = (write.of_anybody or "", write.otherwise)
        reply = await self._call("begin", writer, until, *anybody, *write.tags, insists=1)
        return write.tags if reply is None else tuple((_bytes(tag) or b"").decode() for tag in reply)

    async def end(self, writer: str, write: Write, marked: tuple[str, ...], *, changed: bool) -> None:
        """Remove the mark of a writer, and give the tags of its write a new generation."""
        owner = write.owner
        noted = ("", "") if owner is None else owner
        anybody = (write.of_anybody or "", write.otherwise)
        # Nothing old is shown if one of both arrives, the mark of `begin` or this: so it waits for longer.
        flags = int(changed), int(write.forgets_owners)
        reply = await self._call("end", writer, *anybody, *flags, *noted, *marked, insists=2 * changed)
        if reply is None and changed:
            self._owed.add(writer, {*marked, write.otherwise} - {""})
            await self._settle_soon()

    async def _settle_soon(self) -> None:
        """Tell the server of a write as soon as it works again, also if nobody calls."""
        on_loop = await self._on_loops.get()
        if on_loop.settling is None or on_loop.settling.done():
            on_loop.settling = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        while self._owed:
            await asyncio.sleep(SETTLE_SECONDS)
            await self._call("ping")


def _bytes(reply: Any) -> bytes | None:
    # A service's own client may decode replies.
    return reply.encode() if isinstance(reply, str) else reply


def _import_driver() -> None:
    try:
        import redis.asyncio  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "a cache on Redis needs redis; install it with: pip install 'agenthub-sessions[redis]'"
        ) from error


def _new_client(url: str, connected: Callable[[Any], Awaitable[None]] | None = None) -> Any:
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ConfigurationError(
            "sessions.cache.url: must be memory:// or start with redis://, rediss://, valkey:// or unix://"
        )
    try:
        pool = BlockingConnectionPool.from_url(
            f"{SCHEMES[scheme.lower()]}://{rest}",
            max_connections=POOL_SIZE,
            # Each call has its own time limit.
            timeout=None,
            socket_keepalive=True,
            protocol=2,
            redis_connect_func=connected,
            # Once more at once: the server may have closed an idle connection.
            retry=Retry(NoBackoff(), 1),
        )
    except (ValueError, TypeError):
        # Without the cause, which may quote the password.
        raise ConfigurationError("sessions.cache.url: is not a URL of a server") from None
    return Redis.from_pool(pool)
