"""The connections of one event loop to one server."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis import exceptions

from sessions.backends.redis.commands import (
    Command,
    Connections,
    NoAnswerError,
    NotReplicatedError,
    NotSentError,
    PoolTimeoutError,
    Waits,
)
from sessions.core.telemetry import PoolMeter
from sessions.resilience import time_left, wait_left

__all__ = ["RedisConnection"]

Parts = tuple[str | int, ...] | tuple[str | bytes | int, ...]

# For the replicas to receive a write; one that takes longer is not acknowledged.
REPLICATION_SECONDS = 1.0


@dataclass(eq=False)
class RedisConnection(Connections):
    """The connections of one event loop to one server.

    Attributes:
        pool: ``redis.asyncio.ConnectionPool``, of this package or of a service's own client.
        prefix: The first part of all keys.
        kept: As in `Connections`.
        size: Connections at most.
        waits: The time limits.
        replicas: How many replicas have to receive a write before it is acknowledged.
        meter: Measures the waits for a connection, and its use.
        in_use_here: How many connections are in use.
    """

    pool: Any
    prefix: str
    kept: str
    size: int
    waits: Waits
    replicas: int
    meter: PoolMeter
    in_use_here: int = 0
    _turns: asyncio.Semaphore = field(init=False)
    _has_other_encoding: bool = field(init=False)
    _decodes: bool = field(init=False)
    _is_closed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        super().__init__(self.prefix, self.kept)
        self._turns = asyncio.Semaphore(self.size)
        options = getattr(self.pool, "connection_kwargs", {})
        self._has_other_encoding = codecs.lookup(options.get("encoding", "utf-8")).name != "utf-8"
        # Otherwise replies are decoded here, which takes longer.
        self._decodes = options.get("decode_responses", False) and not self._has_other_encoding

    def scope(self, tag: str) -> str:
        return self.prefix

    def scopes(self) -> Sequence[str]:
        return (self.prefix,)

    def one_for_each_server(self, scopes: Sequence[str]) -> Sequence[str]:
        return scopes[:1]

    async def servers(self) -> list[RedisConnection]:
        return [self]

    def opened(self) -> list[RedisConnection]:
        return [self]

    async def close_pool(self) -> None:
        """Close the connections of the pool, and those in use when they are returned."""
        self._is_closed = True
        await self.pool.aclose()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a free connection."""
        with self.meter.checkout(PoolTimeoutError) as checkout:
            if self._turns.locked():
                try:
                    async with asyncio.timeout(wait_left(self.waits.pool)):
                        await self._turns.acquire()
                except TimeoutError as error:
                    raise PoolTimeoutError from error
            else:
                await self._turns.acquire()  # At once.
            checkout.got()
            self.in_use_here += 1
            try:
                yield
            finally:
                self.in_use_here -= 1
                self._turns.release()

    async def send(self, commands: Sequence[Command], *, writes: bool = False) -> list[Any]:
        return await self.exchange([parts for _, parts in commands], writes=writes)

    async def exchange(self, commands: Sequence[Parts], *, writes: bool = False) -> list[Any]:
        """Send commands in one round trip, and return their replies, among them errors of the server.

        Args:
            commands: The parts of each.
            writes: Whether one of them may write, so that it waits for the replicas.

        Raises:
            NotSentError: No connection could be opened.
            NoAnswerError: The server did not respond.
            NotReplicatedError: The replicas did not receive what was written.
            PoolTimeoutError: No connection was free.
            RedisError: The connection was lost.
        """
        if self._has_other_encoding:  # Of a service's own client.
            commands = [
                tuple(part.encode() if isinstance(part, str) else part for part in parts)
                for parts in commands
            ]
        waits = bool(writes and self.replicas)
        if waits:
            seconds = min(REPLICATION_SECONDS, time_left(self.waits.answer) / 2)
            commands = [*commands, ("WAIT", self.replicas, max(int(seconds * 1000), 1))]
        async with self._turn():
            pool = self.pool
            try:
                async with asyncio.timeout(time_left(self.waits.connect)):
                    connection = await pool.get_connection()
            except (exceptions.RedisError, OSError) as error:
                raise NotSentError from error
            try:
                async with asyncio.timeout(time_left(self.waits.answer)):
                    if len(commands) == 1:
                        await connection.send_command(*commands[0])
                    else:
                        await connection.send_packed_command(connection.pack_commands(commands))
                    replies = [await self._reply(connection) for _ in commands]
            except TimeoutError as error:
                raise NoAnswerError from error
            finally:
                await pool.release(connection)
                if self._is_closed:
                    # It was opened after the others were closed: nobody else would close it.
                    await connection.disconnect()
        if waits:
            received = replies.pop()
            took_effect = any(not isinstance(reply, Exception) for reply in replies)
            if took_effect and isinstance(received, int) and received < self.replicas:
                raise NotReplicatedError
        return replies

    async def _reply(self, connection: Any) -> Any:
        try:
            if not self._decodes:
                return _as_text(await connection.read_response(disable_decoding=True))
            reply = await connection.read_response()
        except exceptions.ResponseError as error:
            return error
        return _as_text(reply) if isinstance(reply, dict) else reply


def _as_text(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        return [item.decode() if type(item) is bytes else _as_text(item) for item in reply]
    if isinstance(reply, dict):  # RESP3, of a service's own client.
        return [_as_text(item) for pair in reply.items() for item in pair]
    return reply
