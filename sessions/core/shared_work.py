"""Work that is done once for all who need it at the same time, on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["SharedWork"]


class SharedWork:
    """Does one piece of work at a time; whoever asks meanwhile gets the outcome of the one under way.

    Under a lock each caller would find out by itself, and one after the other, that a server refuses
    connections or keeps silent: the last of them after the sum of all waits.
    """

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: asyncio.Future[Exception | None] | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Await ``work()``, or the end of what another caller has under way.

        If that one is cancelled, one of those who wait for it takes over.

        Raises:
            Exception: What the work raised, the same one for all.
        """
        while (under_way := self._under_way) is not None:
            # Not by `await`, which would cancel it with the first of those who wait.
            await asyncio.wait((under_way,))
            if under_way.cancelled():
                continue
            if (error := under_way.result()) is not None:
                raise error
            return
        under_way = self._under_way = asyncio.get_running_loop().create_future()
        try:
            await work()
        except Exception as error:
            under_way.set_result(error)
            raise
        else:
            under_way.set_result(None)
        finally:
            self._under_way = None
            under_way.cancel()  # Does nothing unless the caller was cancelled.
