"""Work that concurrent callers on one event loop share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["SharedWork"]


class SharedWork:
    """Runs one piece of work at a time; concurrent callers get the result of the one in progress.

    Under a lock the callers would detect one after the other that a server refuses connections or does not
    respond: the last of them after the sum of all waits.
    """

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: asyncio.Future[Exception | None] | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Await ``work()``, or the result of another caller's work in progress.

        If that caller is cancelled, a waiting one takes over.

        Raises:
            Exception: The error of the work, the same one for all callers.
        """
        while (under_way := self._under_way) is not None:
            # Not `await under_way`, which would cancel it with the first cancelled waiter.
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
