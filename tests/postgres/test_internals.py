"""The private parts of asyncpg that `sessions.backends.postgres` uses behave as it expects."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import asyncpg
import pytest
import uvloop

from sessions.backends.postgres.internals import socket_of
from sessions.backends.postgres.pool import _Connection


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_socket_of_a_connection_is_the_one_to_the_server(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], postgres_url: str
) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(postgres_url)
        try:
            raw = socket_of(connection)
            assert raw is not None
            port = await connection.fetchval("SELECT current_setting('port')::int")
            if raw.family == socket.AF_UNIX:
                assert str(raw.getpeername()).endswith(str(port))
            else:
                # As the server sees it.
                assert raw.getsockname()[1] == await connection.fetchval("SELECT inet_client_port()")
        finally:
            await connection.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


async def test_the_proxy_of_a_pool_passes_on_what_it_does_not_know(postgres_url: str) -> None:
    async with asyncpg.create_pool(
        postgres_url, min_size=0, max_size=1, connection_class=_Connection
    ) as pool:
        proxy = await pool.acquire()
        connection = proxy.itself()
        assert type(connection) is _Connection
        assert await connection.fetchval("SELECT 1") == 1
        assert connection.get_server_pid() == proxy.get_server_pid()
        await pool.release(proxy)
