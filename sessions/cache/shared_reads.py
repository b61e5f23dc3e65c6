"""One read of the database for many callers that want the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["SharedReads"]

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Read(Generic[R]):
    """A read under way.

    Attributes:
        done: Set with the error of the read, or None; cancelled if the reader was.
        followers: How many callers wait for it.
        copy: Makes a result for a follower; set if there are any.
    """

    done: asyncio.Future[Exception | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    followers: int = 0
    copy: Callable[[], R] | None = None


class SharedReads:
    """The reads under way on one event loop.

    Callers that want what another one reads already wait for it, and get a copy: nobody changes another
    one's result.
    """

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _Read[object]] = {}

    async def run(
        self, key: Hashable, read: Callable[[], Awaitable[R]], copier: Callable[[R], Callable[[], R]]
    ) -> R:
        """Await ``read()``, or the read under way of another caller with the same key.

        If that caller is cancelled, a waiting one takes over.

        Args:
            key: What is read, in which state.
            read: Reads it.
            copier: Returns, for a result that another caller may change from then on, a function that makes
                copies of it.

        Raises:
            Exception: The error of the read, the same one for all callers.
        """
        while (under_way := self._under_way.get(key)) is not None:
            under_way.followers += 1
            # Not `await done`, which would cancel it with the first cancelled follower.
            await asyncio.wait((under_way.done,))
            if under_way.done.cancelled():
                continue
            if (error := under_way.done.result()) is not None:
                raise error
            assert under_way.copy is not None
            return under_way.copy()  # type: ignore[return-value]
        mine: _Read[R] = _Read()
        self._under_way[key] = mine  # type: ignore[assignment]
        try:
            result = await read()
            if mine.followers:
                mine.copy = copier(result)
        except Exception as error:
            mine.done.set_result(error)
            raise
        else:
            mine.done.set_result(None)
            return result
        finally:
            del self._under_way[key]
            mine.done.cancel()  # Does nothing unless the caller was cancelled.
