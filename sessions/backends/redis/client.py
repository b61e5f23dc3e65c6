"""The connections of one event loop, and a command on one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis import exceptions

from sessions.backends.redis.script import script, script_digest
from sessions.core.shared_work import SharedWork
from sessions.core.telemetry import PoolMeter
from sessions.resilience import time_left

__all__ = ["NoAnswerError", "NotSentError", "PoolTimeoutError", "RedisConnection"]


class NotSentError(Exception):
    """No connection could be opened; the cause is the driver's error. No command was sent."""


class PoolTimeoutError(Exception):
    """All connections are in use, for ``pool_timeout``."""


class NoAnswerError(Exception):
    """The server did not respond within ``timeout``; the command may have taken effect."""


@dataclass(slots=True, eq=False)
class RedisConnection:
    """The connections of one event loop.

    Attributes:
        pool: ``redis.asyncio.ConnectionPool``, of this package or of a service's own client.
        prefix: The first part of all keys.
        size: Connections at most.
        pool_timeout: Seconds to wait for a free connection.
        connect_timeout: Seconds to wait for a new connection.
        timeout: Seconds to wait for a response.
        meter: Measures the waits for a connection, and its use.
        in_use: How many connections are in use.
    """

    pool: Any
    prefix: str
    size: int
    pool_timeout: float
    connect_timeout: float
    timeout: float
    meter: PoolMeter
    in_use: int = 0
    preparing: SharedWork = field(default_factory=SharedWork)
    _turns: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.size)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Wait for a free connection."""
        with self.meter.checkout(PoolTimeoutError) as checkout:
            try:
                async with asyncio.timeout(time_left(self.pool_timeout)):
                    await self._turns.acquire()
            except TimeoutError as error:
                raise PoolTimeoutError from error
            checkout.got()
            self.in_use += 1
            try:
                yield
            finally:
                self.in_use -= 1
                self._turns.release()

    async def run(self, operation: str, *arguments: str) -> Any:
        """Run an operation of the script, atomically; return its reply as text, integers and lists."""
        try:
            return await self.command("EVALSHA", script_digest(), 0, operation, self.prefix, *arguments)
        except exceptions.NoScriptError:
            # The server was restarted, or a replica was promoted. The command did nothing.
            await self.load()
        return await self.command("EVALSHA", script_digest(), 0, operation, self.prefix, *arguments)

    async def run_many(self, calls: Sequence[Sequence[str]]) -> list[Any]:
        """Run operations one after another, each atomically, in one round trip; return their replies.

        Raises:
            Exception: The first error of one of them; all the others have run.
        """
        replies = await self._run_many(calls)
        if forgotten := [
            place for place, reply in enumerate(replies) if isinstance(reply, exceptions.NoScriptError)
        ]:
            await self.load()
            again = await self._run_many([calls[place] for place in forgotten])
            for place, reply in zip(forgotten, again, strict=True):
                replies[place] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _run_many(self, calls: Sequence[Sequence[str]]) -> list[Any]:
        digest = script_digest()
        return await self._send(
            [("EVALSHA", digest, 0, operation, self.prefix, *rest) for operation, *rest in calls]
        )

    async def load(self) -> None:
        """Send the script to the server, which keeps it until it restarts."""
        await self.command("SCRIPT LOAD", script())

    async def check(self) -> None:
        """Raise the error of a write; the server checks this one as any other, and it writes nothing."""
        await self.command("SETRANGE", f"{self.prefix}:check", 0, "")

    async def command(self, *parts: str | int) -> Any:
        """Send a command, and return the reply, as text."""
        [reply] = await self._send([parts])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def commands(self, commands: Sequence[Sequence[str | int]]) -> list[Any]:
        """Send commands in one round trip, and return their replies, as text.

        Raises:
            Exception: The first error of one of them; all the others have run.
        """
        replies = await self._send(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _send(self, commands: Sequence[Sequence[str | int]]) -> list[Any]:
        """Send commands in one round trip, and return their replies, among them errors of the server."""
        async with self._turn():
            pool = self.pool
            try:
                async with asyncio.timeout(time_left(self.connect_timeout)):
                    connection = await pool.get_connection()
            except (exceptions.RedisError, OSError) as error:
                raise NotSentError from error
            try:
                async with asyncio.timeout(time_left(self.timeout)):
                    if len(commands) == 1:
                        await connection.send_command(*commands[0])
                    else:
                        await connection.send_packed_command(connection.pack_commands(commands))
                    replies = [await _reply(connection) for _ in commands]
            except TimeoutError as error:
                raise NoAnswerError from error
            finally:
                await pool.release(connection)
        return replies


async def _reply(connection: Any) -> Any:
    try:
        return _as_text(await connection.read_response(disable_decoding=True))
    except exceptions.ResponseError as error:
        return error


def _as_text(reply: Any) -> Any:
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        return [_as_text(item) for item in reply]
    if isinstance(reply, dict):  # RESP3, of a service's own client.
        return [_as_text(item) for pair in reply.items() for item in pair]
    return reply
