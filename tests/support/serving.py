"""Servers of the tests' own, in this process, which leave no connection behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """Serve each connection to a port of this host, which is yielded, and cut all of them in the end.

    Args:
        serve: May raise what a connection raises that is cut off.
    """
    tasks: set[asyncio.Task[Any]] = set()

    async def serve_and_cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, EOFError):
            pass  # The other side is gone.
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve_and_cut, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0)  # Who was accepted last begins now, and can be told to end.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
