"""The cost of a lost, silent or cancelled connection for a call, with default settings."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import BackendUnavailableError, RetryConfig, SessionRepositoryFactory
from tests.support.servers import free_port
from tests.support.timing import within

USER = "alice"
# Classic BPF: accept no byte of any packet. Arriving packets are dropped before TCP acknowledges them.
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
SO_ATTACH_FILTER = 26


class Network:
    """A network path to the server that can be interrupted silently."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        self._target = (parse_qs(split.query).get("host", [split.hostname or ""])[0], split.port or 5432)
        self._path, self._user = split.path, split.username
        self.port = 0
        self.frozen = False
        self.connections: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"postgresql://{self._user}@127.0.0.1:{self.port}{self._path}"

    def drop(self) -> None:
        """Drop all packets on the existing connections from now on; new ones work."""
        program = ctypes.create_string_buffer(DROP_ALL)
        for connection in self.connections:
            described = struct.pack("HxxxxxxP", 1, ctypes.addressof(program))
            connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        self.connections.append(socket.socket(fileno=socket.dup(raw.fileno())))
        host, port = self._target
        opening = (
            asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            if host.startswith("/")
            else asyncio.open_connection(host, port)
        )
        from_server, to_server = await opening
        try:
            await asyncio.gather(self._pass_on(reader, to_server), self._pass_on(from_server, writer))
        finally:
            to_server.close()
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                while self.frozen:
                    await asyncio.sleep(0.05)
                writer.write(data)
        except OSError:
            pass
        writer.close()


async def nobody_waits_for_a_lock(connection: Any) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with asyncio.timeout(60):
        while await connection.fetchval(waiting + " AND datname = current_database()"):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def network(url: str) -> AsyncIterator[Network]:
    way = Network(url)
    server = await asyncio.start_server(way.serve, "127.0.0.1", 0)
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        for connection in way.connections:
            connection.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has a user timeout of TCP")
async def test_idle_connections_that_the_network_dropped_cost_a_call_about_a_second(
    postgres_url: str,
) -> None:
    async with (
        network(postgres_url) as way,
        SessionRepositoryFactory.create_repository("postgres", url=way.url) as repository,
    ):
        session_id = await repository.create_session_async(USER)
        await asyncio.gather(*(repository.get_session(USER, session_id) for _ in range(8)))
        way.drop()
        with within(2):
            message_id = await repository.add_message(session_id, "user", "Hello")
        [message] = await repository.get_session_history(USER, session_id)
    assert message.message_id == message_id


async def test_a_server_that_refuses_is_unavailable_within_seconds() -> None:
    repository = SessionRepositoryFactory.create_repository(
        "postgres", url=f"postgresql://u@127.0.0.1:{free_port()}/d"
    )
    with within(5), pytest.raises(BackendUnavailableError):
        await repository.count_sessions(USER)


@pytest.mark.slow
async def test_a_server_that_does_not_respond_is_unavailable_after_all_attempts_together() -> None:
    async with silent_server() as port:
        repository = SessionRepositoryFactory.create_repository(
            "postgres", url=f"postgresql://u@127.0.0.1:{port}/d"
        )
        with within(30), pytest.raises(BackendUnavailableError):
            await repository.count_sessions(USER)


@pytest.mark.parametrize("whose", ["ours", "ours behind a proxy", "a service's"])
async def test_a_timed_out_statement_is_cancelled_and_stores_nothing(postgres_url: str, whose: str) -> None:
    options: dict[str, Any] = {"url": postgres_url, "pgbouncer": whose == "ours behind a proxy"}
    engine = None
    if whose == "a service's":
        engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://", 1))
        options = {"engine": engine}
    repository = SessionRepositoryFactory.create_repository("postgres", statement_timeout=1, **options)
    await repository.count_sessions(USER)
    blocker = await asyncpg.connect(postgres_url)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE chat_sessions IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(BackendUnavailableError):
            await repository.create_session_async(USER, {"title": "Rome"})
        await nobody_waits_for_a_lock(blocker)
    assert await repository.count_sessions(USER) == 0
    await blocker.close()
    await repository.aclose()
    if engine is not None:
        await engine.dispose()


async def test_a_cancelled_caller_does_not_wait_for_the_server(postgres_url: str) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        session_id = await repository.create_session_async(USER)
        blocker = await asyncpg.connect(postgres_url)
        async with blocker.transaction():
            await blocker.execute("SELECT FROM chat_sessions FOR UPDATE")
            adding = asyncio.create_task(repository.add_message(session_id, "user", "Hello"))
            await asyncio.sleep(0.3)
            adding.cancel()
            with within(1), pytest.raises(asyncio.CancelledError):
                await adding
            await nobody_waits_for_a_lock(blocker)
        await blocker.close()
        assert await repository.get_session_history(USER, session_id) == []


async def test_each_connection_of_a_services_engine_survives_a_changed_column(postgres_url: str) -> None:
    engine = create_async_engine(
        postgres_url.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=4, max_overflow=0
    )
    repository = SessionRepositoryFactory.create_repository("postgres", engine=engine, retry=None)
    session_id = await repository.create_session_async(USER)
    for number in range(3):
        found = await asyncio.gather(*(repository.get_session(USER, session_id) for _ in range(12)))
        assert all(found), number
        async with engine.begin() as connection:
            kind = ("text", "varchar(200)")[number % 2]
            await connection.execute(text(f"ALTER TABLE chat_sessions ALTER COLUMN title TYPE {kind}"))
    assert all(await asyncio.gather(*(repository.get_session(USER, session_id) for _ in range(12))))
    await engine.dispose()


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Accept connections on a port, and never respond."""
    held: list[asyncio.StreamWriter] = []

    async def keep_silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(keep_silent, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in held:
            writer.close()


@pytest.mark.parametrize("attributes", ["any", "read-write", "primary", "prefer-standby"])
async def test_the_second_host_is_reached_while_the_first_one_does_not_respond(
    postgres_url: str, attributes: str
) -> None:
    async with silent_server() as silent, network(postgres_url) as way:
        split = urlsplit(way.url)
        hosts = f"127.0.0.1:{silent},127.0.0.1:{way.port}"
        url = f"postgresql://{split.username}@{hosts}{split.path}?target_session_attrs={attributes}"
        repository = SessionRepositoryFactory.create_repository(
            "postgres", url=url, connect_timeout=4, retry=RetryConfig(max_attempts=1)
        )
        async with repository:
            with within(4):
                assert await repository.count_sessions(USER) == 0


@pytest.mark.slow
async def test_a_call_on_pooled_connections_to_a_frozen_server_is_bounded(
    postgres_url: str,
) -> None:
    async with network(postgres_url) as way:
        repository = SessionRepositoryFactory.create_repository("postgres", url=way.url)
        await asyncio.gather(*(repository.count_sessions(USER) for _ in range(12)))
        way.frozen = True
        with within(30):
            results = await asyncio.gather(
                *(repository.count_sessions(USER) for _ in range(12)), return_exceptions=True
            )
        way.frozen = False
        assert {type(result) for result in results} == {BackendUnavailableError}
        assert await repository.count_sessions(USER) == 0
        await repository.aclose()
