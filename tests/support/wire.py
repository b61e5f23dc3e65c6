"""Counts what the package asks of each kind of database, where it leaves the driver."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis.asyncio
from pymongo import monitoring
from sqlalchemy import event

from sessions import SessionRepositoryFactory
from sessions.backends.mongodb.options import client_class
from sessions.backends.sqlite.connection import SqliteConnectionManager
from sessions.repositories.sqlite_session_repository import SqliteSessionRepository
from tests.support.databases import Backend
from tests.support.serving import serving

SSL_REQUEST = 80877103


@dataclass
class Wire:
    """What was asked since this was last cleared.

    Attributes:
        connections: How many were opened.
        statements: The SQL, or the names of MongoDB's or Redis' commands, one entry for each execution.
        round_trips: How often a PostgreSQL or a Redis server was asked to answer.
    """

    connections: int = 0
    statements: list[str] = field(default_factory=list)
    round_trips: int = 0

    def clear(self) -> None:
        self.connections = self.round_trips = 0
        self.statements.clear()


@contextlib.asynccontextmanager
async def counted(backend: Backend) -> AsyncIterator[tuple[Any, Wire]]:
    """Yield a new repository on a backend, and what it asks."""
    on = {"postgres": _on_postgres, "sqlite": _on_sqlite, "mongodb": _on_mongodb, "redis": _on_redis}[
        backend.repository_type
    ]
    wire = Wire()
    async with on(backend.url, wire) as repository, repository:
        yield repository, wire


# --- SQLite -----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _on_sqlite(url: str, wire: Wire) -> AsyncIterator[Any]:
    manager = SqliteConnectionManager(url=url)  # Not the shared one, which may know the schema.
    engine = (await manager.engine()).sync_engine

    def execute(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        wire.statements.append(statement)

    def connect(*_: object) -> None:
        wire.connections += 1

    event.listen(engine, "before_cursor_execute", execute)
    event.listen(engine, "connect", connect)
    yield SqliteSessionRepository(connection_manager=manager)


# --- MongoDB ----------------------------------------------------------------------------------------


class _Commands(monitoring.CommandListener):
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name != "endSessions":  # Of the client's end.
            self.wire.statements.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


class _Connections(monitoring.ConnectionPoolListener):
    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:
        self.wire.connections += 1

    def _ignore(self, event: Any) -> None: ...

    connection_ready = connection_closed = connection_check_out_started = _ignore
    connection_check_out_failed = connection_checked_out = connection_checked_in = _ignore
    pool_created = pool_ready = pool_cleared = pool_closed = _ignore


@contextlib.asynccontextmanager
async def _on_mongodb(url: str, wire: Wire) -> AsyncIterator[Any]:
    client = client_class()(url, event_listeners=[_Commands(wire), _Connections(wire)])
    try:
        yield SessionRepositoryFactory.create_repository("mongodb", client=client)
    finally:
        closed = client.close()
        if closed is not None:  # Motor's close is a plain call.
            await closed


# --- Redis ------------------------------------------------------------------------------------------

HANDSHAKE = {"AUTH", "CLIENT", "HELLO", "SELECT"}


@contextlib.asynccontextmanager
async def _on_redis(url: str, wire: Wire) -> AsyncIterator[Any]:
    class Connection(redis.asyncio.Connection):
        async def send_command(self, *args: Any, **options: Any) -> None:
            self._note(args)
            await super().send_command(*args, **options)

        def pack_commands(self, commands: Any) -> Any:
            for command in commands:
                self._note(command)
            return super().pack_commands(commands)

        def _note(self, command: Any) -> None:
            name, *arguments = command
            if name.split()[0] not in HANDSHAKE:
                # Of a script the operation that it is asked for.
                wire.statements.append(arguments[2] if name == "EVALSHA" else name)

        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            # One command, or all of a pipeline.
            wire.round_trips += 1
            await super().send_packed_command(*args, **options)

    async def connected(connection: Any) -> None:
        wire.connections += 1
        await connection.on_connect()

    pool = redis.asyncio.ConnectionPool.from_url(
        url, connection_class=Connection, redis_connect_func=connected
    )
    async with redis.asyncio.Redis.from_pool(pool) as client:
        yield SessionRepositoryFactory.create_repository("redis", client=client)


# --- PostgreSQL: a proxy, because SQLAlchemy and asyncpg ask questions of their own ---------------


@contextlib.asynccontextmanager
async def _on_postgres(url: str, wire: Wire) -> AsyncIterator[Any]:
    split = urlsplit(url)
    host = parse_qs(split.query).get("host", [split.hostname or "localhost"])[0]
    port = split.port or 5432

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await (
            asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            if host.startswith("/")
            else asyncio.open_connection(host, port)
        )
        answers = asyncio.create_task(_pass_on(upstream_reader, writer))
        try:
            await _listen(wire, reader, upstream_writer, writer)
        finally:
            upstream_writer.close()
            await answers

    login, _, _ = split.netloc.rpartition("@")
    async with serving(serve) as proxy_port:
        yield SessionRepositoryFactory.create_repository(
            "postgres",
            url=f"postgresql://{login}@127.0.0.1:{proxy_port}{split.path}",
            pool_size=1,
            max_overflow=0,
        )


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _listen(
    wire: Wire, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, client: asyncio.StreamWriter
) -> None:
    """Pass on what the client sends, and take down what of it the server executes.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    while True:
        length, code = struct.unpack("!II", await reader.readexactly(8))
        if code != SSL_REQUEST:
            break
        client.write(b"N")
    upstream.write(struct.pack("!II", length, code) + await reader.readexactly(length - 8))
    wire.connections += 1
    prepared: dict[bytes, str] = {}
    portals: dict[bytes, str] = {}
    while True:
        head = await reader.readexactly(5)
        kind, length = struct.unpack("!cI", head)
        body = await reader.readexactly(length - 4)
        upstream.write(head + body)
        if kind == b"Q":
            wire.statements.append(body[:-1].decode())
        elif kind == b"P":
            name, query, _ = body.split(b"\0", 2)
            prepared[name] = query.decode()
        elif kind == b"B":
            portal, name, _ = body.split(b"\0", 2)
            portals[portal] = prepared[name]
        elif kind == b"E":
            wire.statements.append(portals[body.split(b"\0", 1)[0]])
        wire.round_trips += kind in (b"Q", b"S", b"H")
