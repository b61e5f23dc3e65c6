"""A stream for callers without an event loop: one task runs all of it, as an agent may require."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Generic, TypeVar

from sessions.core.blocking import run_blocking

__all__ = ["iterate_stream"]

R = TypeVar("R")


class _Pump(Generic[R]):
    """Passes the items of an async generator on, each when it is asked for."""

    def __init__(self, generator: AsyncGenerator[R, None]) -> None:
        self._generator = generator
        self._items: asyncio.Queue[R] = asyncio.Queue(1)
        self._asked = asyncio.Semaphore(0)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        async with contextlib.aclosing(self._generator) as items:
            await self._asked.acquire()
            async for item in items:
                self._items.put_nowait(item)
                await self._asked.acquire()

    async def next(self) -> tuple[R] | None:
        """Return the next item in a tuple, or None at the end."""
        self._asked.release()
        getting = asyncio.ensure_future(self._items.get())
        try:
            await asyncio.wait((getting, self._task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not getting.done():
                getting.cancel()
        if getting.done() and not getting.cancelled():
            return (getting.result(),)
        await self._task  # Raises what the generator raised.
        return None

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.exception()


def iterate_stream(generator: AsyncGenerator[R, None]) -> Iterator[R]:
    """Yield the items of an async generator from the background loop, and close it at the end."""

    async def start() -> _Pump[R]:
        return _Pump(generator)

    pump = run_blocking(start)
    try:
        while (item := run_blocking(pump.next)) is not None:
            yield item[0]
    finally:
        run_blocking(pump.aclose)
