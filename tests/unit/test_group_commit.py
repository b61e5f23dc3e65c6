"""The queue of appends: what leaves together, what each caller gets, and what bounds it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sessions.core import group_commit
from sessions.core.batches import GroupLimits
from sessions.core.group_commit import GroupCommit
from sessions.core.steps import Steps
from sessions.resilience import RetryConfig, begin_call, end_call

LIMITS = GroupLimits(
    count=100,
    size=1000,
    sends=2,
    # A busy machine makes sends slow.
    slow_sends=0,
    seconds=30.0,
    queue_timeout=lambda: TimeoutError("queue"),
    no_answer=lambda: TimeoutError("answer"),
)


@dataclass(eq=False)
class Item:
    session_id: str
    count: int = 1
    size: int = 1
    key: str | None = None
    is_sent: bool = False
    is_cancelled: bool = False


class LostError(Exception):
    """Concerns all items of a batch."""


@dataclass(eq=False)
class FakeSender:
    """Records what is sent. A send ends when the test ends it.

    Attributes:
        sends: The items of each send, in order.
        together: Outcome of the next batches, or an error; None stores every item.
        alone: Outcome of an item that is sent alone.
    """

    sends: list[list[Item]] = field(default_factory=list)
    ends: list[asyncio.Future[None]] = field(default_factory=list)
    together: Callable[[Sequence[Item]], list[bool]] | Exception | None = None
    alone: Callable[[Item], bool] = lambda _: True

    async def _send(self, items: list[Item]) -> None:
        self.sends.append(items)
        self.ends.append(asyncio.get_running_loop().create_future())
        await self.ends[-1]

    async def send_alone(self, item: Item) -> bool:
        await self._send([item])
        return self.alone(item)

    async def send_together(self, items: Sequence[Item]) -> list[bool]:
        await self._send([*items])
        if isinstance(self.together, Exception):
            raise self.together
        return self.together(items) if self.together else [True] * len(items)

    def concerns_all(self, error: BaseException) -> bool:
        return isinstance(error, LostError)

    def ids(self) -> list[list[str]]:
        return [[item.session_id for item in items] for items in self.sends]

    async def end(self, *numbers: int) -> None:
        """End sends, and let everything run that can."""
        for number in numbers:
            self.ends[number].set_result(None)
        await settle()

    async def end_all(self) -> None:
        while any(not end.done() for end in self.ends):
            await self.end(*(number for number, end in enumerate(self.ends) if not end.done()))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Queue:
    """A `GroupCommit` and its callers."""

    def __init__(self, **limits: Any) -> None:
        self.sender = FakeSender()
        self.steps = Steps()
        self.group = GroupCommit(replace(LIMITS, **limits), self.steps.start)
        self.calls: list[asyncio.Task[bool]] = []

    async def submit(self, *items: Item | str) -> list[asyncio.Task[bool]]:
        calls = [
            asyncio.create_task(self.group.submit(Item(item) if isinstance(item, str) else item, self.sender))
            for item in items
        ]
        self.calls += calls
        await settle()
        return calls


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    queue = Queue()
    yield queue
    await queue.sender.end_all()
    await asyncio.gather(*queue.calls, return_exceptions=True)
    await queue.steps.finish()


async def test_one_caller_sends_by_itself(queue: Queue) -> None:
    [call] = await queue.submit("a")
    assert queue.sender.ids() == [["a"]]
    await queue.sender.end(0)
    assert await call is True


async def test_what_arrives_while_sends_are_under_way_leaves_as_one_batch(queue: Queue) -> None:
    await queue.submit("a", "b", "c", "d", "e")
    assert queue.sender.ids() == [["a"], ["b"]]
    await queue.sender.end(1)
    assert queue.sender.ids()[2:] == [["c", "d", "e"]]
    await queue.submit("f")
    assert len(queue.sender.sends) == 3
    await queue.sender.end(0, 2)
    assert queue.sender.ids()[3:] == [["f"]]
    await queue.sender.end(3)
    assert [await call for call in queue.calls] == [True] * 6


async def test_callers_of_a_batch_that_append_again_leave_together_again(queue: Queue) -> None:
    async def caller(name: str) -> None:
        for _ in range(3):
            await queue.group.submit(Item(name), queue.sender)

    callers = [asyncio.create_task(caller(name)) for name in "abcdef"]
    await settle()
    while not all(task.done() for task in callers):
        await queue.sender.end_all()
    assert sum(map(len, queue.sender.sends)) == 18
    # Two alone, then batches.
    assert len(queue.sender.sends) <= 2 + 6


async def test_a_long_queue_leaves_in_equal_parts_so_that_no_send_is_for_almost_all(queue: Queue) -> None:
    names = [f"session {number}" for number in range(40)]
    await queue.submit(*names)
    await queue.sender.end(0)
    await queue.sender.end(1)
    assert queue.sender.ids()[:2] == [[names[0]], [names[1]]]
    assert queue.sender.ids()[2:] == [names[2:22], names[22:]]


async def test_appends_to_a_session_leave_together_however_many_they_are(queue: Queue) -> None:
    await queue.submit("a", "b", *["a"] * 60)
    await queue.sender.end(0)
    assert queue.sender.ids()[2:] == [["a"] * 60]


async def test_a_session_is_never_part_of_two_sends_at_a_time(queue: Queue) -> None:
    await queue.submit("a", "a", "b", "a", "a")
    assert queue.sender.ids() == [["a"], ["b"]]
    await queue.submit("c")
    await queue.sender.end(1)
    assert queue.sender.ids()[2:] == [["c"]]
    await queue.sender.end(0)
    assert queue.sender.ids()[3:] == [["a", "a", "a"]]


async def test_a_cancelled_call_that_waits_is_never_sent(queue: Queue) -> None:
    calls = await queue.submit("a", "b", "c", "d", "e")
    calls[3].cancel()
    await queue.sender.end(0)
    assert queue.sender.ids()[2:] == [["c", "e"]]


async def test_a_call_that_is_cancelled_as_its_batch_begins_is_not_sent(queue: Queue) -> None:
    calls = await queue.submit("a", "b", "c", "d", "e")
    queue.sender.ends[0].set_result(None)
    while queue.group._waiting:
        await asyncio.sleep(0)
    assert len(queue.sender.sends) == 2
    calls[3].cancel()
    await settle()
    assert queue.sender.ids()[2:] == [["c", "e"]]
    with pytest.raises(asyncio.CancelledError):
        await calls[3]


async def test_a_cancelled_call_that_is_part_of_a_batch_does_not_disturb_the_others(queue: Queue) -> None:
    calls = await queue.submit("a", "b", "c", "d")
    await queue.sender.end(0)
    calls[2].cancel()
    await settle()
    assert calls[2].cancelled()
    await queue.sender.end(1, 2)
    assert await calls[3] is True


async def test_a_call_that_is_cancelled_before_its_batch_is_sent_is_left_to_the_sender(queue: Queue) -> None:
    items = [Item(name) for name in "abcd"]
    calls = await queue.submit(*items)
    await queue.sender.end(0)
    assert queue.sender.sends[2:] == [items[2:]]
    calls[2].cancel()
    await settle()
    # The batch waits for a connection, say.
    assert [(item.is_sent, item.is_cancelled) for item in items[2:]] == [(False, True), (False, False)]


async def test_what_is_appended_again_is_not_cancelled_in_its_new_batch(queue: Queue) -> None:
    await queue.submit("a", "b")
    item = Item("c")
    first, _ = await queue.submit(item, "d")
    await queue.sender.end(0)
    first.cancel()
    await settle()
    [again] = await queue.submit(item)
    # A session is part of one send at a time.
    await queue.sender.end(1, 2)
    [earlier, _], [later] = queue.sender.sends[2:]
    assert (earlier.session_id, later.session_id) == ("c", "c")
    assert (earlier.is_cancelled, later.is_cancelled, later.is_sent) == (True, False, False)
    await queue.sender.end_all()
    assert await again is True


async def test_a_call_that_is_cancelled_as_its_turn_comes_leaves_its_place_to_the_next(queue: Queue) -> None:
    calls = await queue.submit("a", "b", "c")
    queue.sender.ends[0].set_result(None)
    while queue.group._waiting:
        await asyncio.sleep(0)
    calls[2].cancel()
    await queue.submit("d")
    assert queue.sender.ids()[2:] == [["d"]]


async def test_what_a_batch_does_not_store_is_sent_alone_with_its_own_result(queue: Queue) -> None:
    queue.sender.together = lambda items: [item.session_id != "d" for item in items]
    queue.sender.alone = lambda item: item.session_id != "d"
    calls = await queue.submit("a", "b", "c", "d", "e")
    await queue.sender.end_all()
    assert [await call for call in calls] == [True, True, True, False, True]
    assert queue.sender.ids() == [["a"], ["b"], ["c", "d", "e"], ["d"]]


async def test_the_items_of_a_rejected_batch_are_sent_alone(queue: Queue) -> None:
    queue.sender.together = ValueError("of one of them")

    def alone(item: Item) -> bool:
        if item.session_id == "d":
            raise ValueError("of d")
        return True

    queue.sender.alone = alone
    calls = await queue.submit("a", "b", "c", "d", "e")
    await queue.sender.end_all()
    with pytest.raises(ValueError, match="of d"):
        await calls[3]
    assert [await calls[number] for number in (0, 1, 2, 4)] == [True] * 4
    assert sorted(queue.sender.ids()[3:]) == [["c"], ["d"], ["e"]]


def same() -> Item:
    return Item("a", key="of the same message")


async def test_what_waits_and_is_the_same_is_sent_once(queue: Queue) -> None:
    calls = await queue.submit("x", "y", same(), "b", same(), Item("a", key="another"), same(), Item("a"))
    await queue.sender.end(0)
    assert queue.sender.ids()[2:] == [["a", "b", "a", "a"]]
    await queue.sender.end_all()
    assert [await call for call in calls] == [True] * 8
    assert len(queue.sender.sends) == 3


async def test_what_is_under_way_is_no_answer_to_a_call_that_came_later(queue: Queue) -> None:
    # Between its commit and its answer another call may have deleted the message.
    await queue.submit(same())
    await queue.submit(same(), same())
    assert len(queue.sender.sends) == 1
    await queue.sender.end(0)
    assert queue.sender.ids() == [["a"], ["a"]]
    await queue.sender.end(1)
    assert [await call for call in queue.calls] == [True] * 3
    assert len(queue.sender.sends) == 2


async def test_what_is_the_same_and_rejected_in_a_batch_is_sent_alone_once(queue: Queue) -> None:
    queue.sender.together = ValueError("of one of them")
    calls = await queue.submit("x", "y", *(same() for _ in range(10)), "b")
    await queue.sender.end_all()
    assert [await call for call in calls] == [True] * 13
    assert sorted(queue.sender.ids()[3:]) == [["a"], ["b"]]


@pytest.mark.parametrize("ending", ["cancelled", "failed", "absent"])
async def test_those_that_wait_for_the_result_of_another_go_on_without_it(queue: Queue, ending: str) -> None:
    outcomes = iter([ending])

    def alone(_: Item) -> bool:
        if (outcome := next(outcomes, "stored")) == "failed":
            raise ValueError("of the first one")
        return outcome != "absent"

    queue.sender.together = ValueError("of one of them")
    calls = await queue.submit("x", "y", *(same() for _ in range(4)), "b")
    await queue.sender.end(0, 1)
    queue.sender.alone = alone
    # Both are sent alone now, the same one for all that are the same.
    await queue.sender.end(2)
    assert sorted(queue.sender.ids()[3:]) == [["a"], ["b"]]
    first = 3 + queue.sender.ids()[3:].index(["a"])
    if ending == "cancelled":
        calls[2].cancel()
        await settle()
        next(outcomes)
    else:
        await queue.sender.end(first)
    await queue.sender.end_all()
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert found[3:] == [True] * 4
    expected = {"cancelled": asyncio.CancelledError, "failed": ValueError, "absent": bool}[ending]
    assert isinstance(found[2], expected)
    assert found[2] is not True
    assert queue.sender.ids().count(["a"]) == 2


async def test_an_error_that_concerns_all_is_raised_for_each_as_an_error_of_its_own(queue: Queue) -> None:
    queue.sender.together = LostError("connection")
    try:
        raise OSError(104, "reset")
    except OSError as error:
        queue.sender.together.__cause__ = error
    calls = await queue.submit("a", "b", "c", "d")
    await queue.sender.end_all()
    errors = await asyncio.gather(*calls[2:], return_exceptions=True)
    assert [str(error) for error in errors] == ["connection"] * 2
    causes = [error.__cause__ for error in errors if isinstance(error, LostError)]
    assert [repr(cause) for cause in causes] == ["ConnectionResetError(104, 'reset')"] * 2
    # Its frames would keep all calls of the batch alive.
    assert [cause.__traceback__ for cause in causes if cause is not None] == [None] * 2
    assert errors[0] is not errors[1]
    assert len(queue.sender.sends) == 3


@pytest.mark.parametrize(("limits", "first"), [({"count": 3}, 3), ({"size": 250}, 2)])
async def test_a_batch_is_bounded(queue: Queue, limits: dict[str, int], first: int) -> None:
    bounded = Queue(**limits)
    await bounded.submit("a", "b", *(Item(str(number), size=100) for number in range(5)))
    await bounded.sender.end(0)
    assert bounded.sender.ids()[2] == [str(number) for number in range(first)]
    await bounded.sender.end_all()
    assert [await call for call in bounded.calls] == [True] * 7


async def test_an_item_beyond_the_bounds_goes_by_itself(queue: Queue) -> None:
    await queue.submit("a", "b", "c", Item("huge", size=5000), "d", "e")
    await queue.sender.end(0)
    await queue.sender.end(1)
    assert queue.sender.ids()[2:] == [["c"], ["huge"]]
    await queue.sender.end(2)
    # The small ones do not wait for the end of the huge one.
    assert queue.sender.ids()[4:] == [["d", "e"]]


async def test_a_call_waits_in_the_queue_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.01)
    queue = Queue(seconds=0.05, slow_sends=0)
    calls = await queue.submit("a", "b", "c")
    with pytest.raises(TimeoutError, match="queue"):
        await calls[2]
    assert len(queue.sender.sends) == 2
    await queue.sender.end_all()


async def test_a_call_does_not_wait_longer_until_its_batch_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.01)
    queue = Queue(seconds=0.5)
    first, second, *items = [Item("a"), Item("b"), *(Item("c", key="same") for _ in range(3)), Item("d")]
    calls = await queue.submit(first, second, *items)
    await queue.sender.end(0)
    assert queue.sender.ids()[2:] == [["c", "d"]]
    # One of the two is sent, and is the answer to its equals.
    items[0].is_sent = True
    with pytest.raises(TimeoutError, match="queue"):
        await calls[5]
    assert items[3].is_cancelled
    assert not items[0].is_cancelled
    await queue.sender.end_all()
    assert [await call for call in calls[:5]] == [True] * 5


async def test_an_error_keeps_no_other_call_alive(queue: Queue) -> None:
    queue.sender.together = LostError("connection")
    calls = await queue.submit(*"abcdefgh")
    await queue.sender.end(0)
    items = [weakref.ref(item) for item in queue.sender.sends[2]]
    gc.collect()
    gc.disable()
    try:
        await queue.sender.end(1, 2)
        errors = await asyncio.gather(*calls[2:], return_exceptions=True)
        kept = errors[0]
        assert isinstance(kept, LostError)
        queue.sender.together = None
        for each in (calls, queue.calls, queue.sender.sends, errors):
            each.clear()
        del each
        await settle()
        assert len(items) == 6
        assert sum(item() is not None for item in items) <= 1
        # Without the garbage collector.
        del kept
        assert sum(item() is not None for item in items) == 0
    finally:
        gc.enable()


async def test_a_call_ends_at_its_own_time_limit_while_its_batch_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.01)
    queue = Queue()
    await queue.submit("a", "b")

    async def impatient() -> bool:
        token = begin_call(RetryConfig(max_attempts=1, max_elapsed=0.1))
        try:
            return await queue.group.submit(Item("c"), queue.sender)
        finally:
            end_call(token)

    call = asyncio.create_task(impatient())
    [patient] = await queue.submit("d")
    await queue.sender.end(0)
    assert queue.sender.ids()[2:] == [["c", "d"]]
    with pytest.raises(TimeoutError, match="answer"):
        await call
    assert not patient.done()
    await queue.sender.end(2)
    assert await patient is True
    await queue.sender.end_all()


async def test_sends_that_take_long_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.01)
    queue = Queue(slow_sends=1)
    await queue.submit("locked", "also locked", "c", "d")
    while len(queue.sender.sends) < 3:
        await asyncio.sleep(0.01)
    assert queue.sender.ids()[2:] == [["c", "d"]]
    # At most one more: the connections of the pool are for others, too.
    await queue.submit("e")
    await asyncio.sleep(0.05)
    assert len(queue.sender.sends) == 3
    await queue.sender.end_all()
    assert [await call for call in queue.calls] == [True] * 5


async def test_nothing_is_left_when_all_callers_are_gone(queue: Queue) -> None:
    calls = await queue.submit("a", "b", "c", "d", "d")
    for call in calls:
        call.cancel()
    await settle()
    group = queue.group
    left = [group._waiting, group._alone, group._under_way, group._session_ids]
    assert not any(left)
    assert len(queue.sender.sends) == 2
    [call] = await queue.submit("a")
    await queue.sender.end(2)
    assert await call is True
