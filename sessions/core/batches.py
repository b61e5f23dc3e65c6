"""What the queue of appends takes, what sends it, and what bounds a batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["GroupLimits", "Item", "Sender", "sends_within", "without_repeats"]

# Sends under way at a time; what arrives meanwhile leaves together.
SENDS = 2


class Item(Protocol):
    """What is appended.

    Attributes:
        session_id: No two sends under way have items of the same session.
        count: Number of messages.
        size: About how many bytes.
        key: Equal for items that append the same, of which one is enough; None for an item like no other.
        is_sent: Whether a sender has begun to send it. Before that it may be cancelled.
        is_cancelled: Whether its caller is cancelled, or has waited for too long.
    """

    session_id: str
    count: int
    size: int
    key: Hashable | None
    is_sent: bool
    is_cancelled: bool


ItemT = TypeVar("ItemT", bound=Item)
SentT = TypeVar("SentT", bound=Item, contravariant=True)


class Sender(Protocol[SentT]):
    """Appends items."""

    def send_alone(self, item: SentT) -> Awaitable[bool]:
        """Append one item; return whether its session exists."""
        ...

    def send_together(self, items: Sequence[SentT]) -> Awaitable[Sequence[bool]]:
        """Append items as if one after another; return of each whether it is stored.

        Those that are cancelled before they are sent are left out, also while the batch waits for a
        connection.
        """
        ...

    def concerns_all(self, error: BaseException) -> bool:
        """Return whether the error of a batch is the error of each of its items, as of a lost connection.

        With any other error the batch has stored nothing.
        """
        ...


@dataclass(slots=True, frozen=True)
class GroupLimits:
    """The bounds of a queue.

    Attributes:
        count: Messages of a batch, unless one item has more.
        size: Bytes of a batch, unless one item has more.
        sends: Sends under way at a time.
        slow_sends: Further ones at most, one for each that takes long.
        seconds: How long an item may wait until it is sent.
        queue_timeout: Returns the error after that.
        no_answer: Returns the error of a call whose own time limit ends while its item is under way.
    """

    count: int
    size: int
    sends: int
    slow_sends: int
    seconds: float
    queue_timeout: Callable[[], Exception]
    no_answer: Callable[[], Exception]


def sends_within(size: int, most: int | None = None) -> tuple[int, int]:
    """Return ``sends`` and ``slow_sends`` for a pool, of which one connection is left to other operations.

    Args:
        size: Connections of the pool.
        most: Connections with those beyond ``size``, of which appends may take a half; None if it opens none.
    """
    sends = min(SENDS, max(size - 1, 1))
    slow = size // 3 if most is None else max(most // 2 - sends, size // 3)
    return sends, max(min(slow, (most or size) - 1 - sends), 0)


def without_repeats(items: Sequence[ItemT]) -> tuple[list[ItemT], list[int]]:
    """Return the items that differ from all before them, and of each item the place of its equal there."""
    different: list[ItemT] = []
    places: list[int] = []
    known: dict[Hashable, int] = {}
    for item in items:
        place = len(different)
        if (key := item.key) is not None:
            place = known.setdefault(key, place)
        if place == len(different):
            different.append(item)
        places.append(place)
    return different, places
