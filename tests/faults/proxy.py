"""A TCP proxy between a client and its server that injects faults."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from tests.support.serving import serving

READ_BYTES = 1 << 16
MONGODB_HEADER_BYTES = 16
OP_MSG = 2013
# Commands that MongoDB's driver sends on its own, to monitor its servers and to end its sessions.
OF_THE_DRIVER = ("hello", "ismaster", "isMaster", "endSessions")


class Fault(StrEnum):
    """A fault of a request.

    A delay holds the reply back; the cuts let the server do its work and close the connection before its
    reply, or after half of it; the black hole takes the request, and all that follows, and stays silent.
    """

    DELAY = "delay"
    CUT_BEFORE_REPLY = "cut before the reply"
    CUT_AMID_REPLY = "cut after half a reply"
    BLACK_HOLE = "black hole"


@dataclass
class Plan:
    """A fault, and the requests that it applies to.

    Attributes:
        fault: What happens.
        request: To which request, counted from 0 over all connections; None for all, also those of the
            driver itself.
        delay: Seconds.
        requests: How many there were since the plan was made.
    """

    fault: Fault
    request: int | None = None
    delay: float = 0.0
    requests: int = 0

    @property
    def has_happened(self) -> bool:
        return self.request is not None and self.requests > self.request

    def next_fault(self, of_the_driver: bool) -> Fault | None:
        """Count a request and return what happens to it."""
        if self.request is None:
            return self.fault
        if of_the_driver:
            return None
        self.requests += 1
        return self.fault if self.requests == self.request + 1 else None


@dataclass
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    fault: Fault | None = None
    plan: Plan | None = None
    is_answered: bool = True
    swallows: bool = False

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


@dataclass
class Proxy:
    """Forwards all bytes, except for the fault of its plan.

    Attributes:
        target: The server's port on this host.
        backend: ``"postgres"``, ``"mongodb"`` or ``"redis"``: how to tell one request from the next.
        plan: What to break from now on; None for nothing.
        port: Where clients connect.
    """

    target: int
    backend: str
    plan: Plan | None = None
    port: int = 0
    _connections: list[_Connection] = field(default_factory=list)

    def silence(self) -> None:
        """Make the existing connections drop everything from now on, as after a lost route; new ones work."""
        for connection in self._connections:
            connection.swallows = True

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then cut all connections."""
        async with serving(self._accept) as self.port:
            started.set()
            await stop.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        connection = _Connection(writer, to_server)
        self._connections.append(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(connection, reader))
                group.create_task(self._replies(connection, from_server))
        except* (OSError, EOFError, asyncio.CancelledError):
            pass  # One side closed the connection, or was cut off.
        finally:
            connection.cut()

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while True:
            data, of_the_driver = await self._next_request(reader)
            plan = self.plan
            if plan is not None and (connection.is_answered or self.backend == "mongodb"):
                connection.fault, connection.plan = plan.next_fault(of_the_driver), plan
            connection.is_answered = False
            connection.swallows |= connection.fault is Fault.BLACK_HOLE
            if not connection.swallows:
                connection.server.write(data)
                await connection.server.drain()

    async def _next_request(self, reader: asyncio.StreamReader) -> tuple[bytes, bool]:
        """Return the next request, and whether the driver sends it on its own."""
        if self.backend == "mongodb":
            header = await reader.readexactly(MONGODB_HEADER_BYTES)
            size, _, _, code = struct.unpack("<iiii", header)
            body = await reader.readexactly(size - MONGODB_HEADER_BYTES)
            # Flags, the kind of the section, then a document whose first key is the command.
            name = body[10 : body.index(0, 10)].decode() if code == OP_MSG else "hello"
            return header + body, name in OF_THE_DRIVER
        data = await reader.read(READ_BYTES)
        if not data:
            raise ConnectionResetError
        if self.backend == "redis":
            # The number of parts, the length of the first, and that one: the command.
            return data, data.split(b"\r\n", 3)[2:3] in ([b"CLIENT"], [b"SELECT"])
        # Only messages before the authentication have no type byte; "X" terminates the session.
        return data, data[:1] in (b"\0", b"X")

    async def _replies(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(READ_BYTES):
            fault, connection.fault = connection.fault, None
            connection.is_answered = True
            if self.plan is not None and self.plan is connection.plan and self.plan.request is None:
                fault = self.plan.fault
            if fault is Fault.DELAY:
                assert connection.plan is not None
                await asyncio.sleep(connection.plan.delay)
            if fault is Fault.CUT_AMID_REPLY:
                connection.client.write(data[: len(data) // 2])
                # Not aborted, which may discard sent bytes.
                connection.client.close()
                await connection.client.wait_closed()
            if fault in (Fault.CUT_AMID_REPLY, Fault.CUT_BEFORE_REPLY):
                raise ConnectionResetError
            if fault is not Fault.BLACK_HOLE:
                connection.client.write(data)
                await connection.client.drain()
        raise ConnectionResetError


@contextmanager
def proxy(target: int, backend: str) -> Iterator[Proxy]:
    """Run a proxy in a separate thread."""
    made = Proxy(target, backend)
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(made.serve(started, stop))

    thread = threading.Thread(target=run, name="proxy")
    thread.start()
    try:
        assert started.wait(10)
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
