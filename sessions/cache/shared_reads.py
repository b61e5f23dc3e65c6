"""One read of the database for many callers that want the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = ["SharedReads"]

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Read:
    """A read under way.

    Attributes:
        wanted: How many of the newest it reads; None for all.
        began: When it began.
        done: Set with the error of the read, or None; cancelled if the reader was.
        followers: How many callers wait for it.
        frozen: The result, as followers get it; set if there are any.
    """

    wanted: int | None
    began: float
    done: asyncio.Future[Exception | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    followers: int = 0
    frozen: Any = None

    def serves(self, wanted: int | None, oldest: float) -> bool:
        """Return whether it reads all that is wanted, and began after a point in time."""
        return self.began > oldest and (self.wanted is None or (wanted is not None and wanted <= self.wanted))


class SharedReads:
    """The reads under way on one event loop.

    Callers that want what another one reads already wait for it, and get a copy: nobody changes another
    one's result. Those on another event loop do not wait: the thread of this one may be in a blocking call,
    which runs on another loop, and the read could not continue before the call returns.
    """

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[Hashable, _Read] = {}

    async def run(
        self,
        key: Hashable,
        read: Callable[[], Awaitable[R]],
        freeze: Callable[[R], Any],
        thaw: Callable[[Any], R],
        *,
        wanted: int | None,
        now: float,
        oldest: float,
    ) -> R:
        """Await ``read()``, or the read under way of another caller with the same key.

        If that caller is cancelled, a waiting one takes over.

        Args:
            key: What is read, in which state.
            read: Reads it.
            freeze: Returns a result, which its own reader may change from then on, in a form for others.
            thaw: Makes a result of that form.
            wanted: How many of the newest are read; None for all. A read of more serves, too.
            now: The present time.
            oldest: A read that began before is too old.

        Raises:
            Exception: The error of the read; each caller gets an object of its own.
        """
        while (under_way := self._under_way.get(key)) is not None and under_way.serves(wanted, oldest):
            under_way.followers += 1
            # Not `await done`, which would cancel it with the first cancelled follower.
            await asyncio.wait((under_way.done,))
            if under_way.done.cancelled():
                continue
            if (error := under_way.done.result()) is not None:
                raise _own(error)
            return thaw(under_way.frozen)
        mine = self._under_way[key] = _Read(wanted, now)
        try:
            result = await read()
            if mine.followers:
                mine.frozen = freeze(result)
        except Exception as error:
            mine.done.set_result(error if mine.followers else None)
            raise
        else:
            mine.done.set_result(None)
            return result
        finally:
            # One that reads more may have taken its place.
            if self._under_way.get(key) is mine:
                del self._under_way[key]
            mine.done.cancel()  # Does nothing unless the caller was cancelled.
            del mine  # The traceback of an error holds this frame.


def _own(error: Exception) -> Exception:
    """Return a copy of an error: each task that raises it adds to its traceback, and may add notes."""
    own = type(error).__new__(type(error), *error.args)
    own.__dict__.update(error.__dict__)
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    if notes := getattr(error, "__notes__", None):
        own.__notes__ = list(notes)
    return own.with_traceback(error.__traceback__)
