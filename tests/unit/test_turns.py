"""A turn is granted in the order of requests, across threads, event loops and processes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import weakref
from collections.abc import Callable

import pytest

from sessions.core.turns import Turns, TurnTimeoutError, turns_for
from tests.support.forks import exit_status, in_child

LONG = 60.0


def queue_length(turns: Turns) -> int:
    return len(turns._waiting)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_turn_is_granted_in_the_order_of_requests() -> None:
    turns, served = Turns(), []

    async def take(number: int) -> None:
        async with turns.turn(LONG):
            served.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*map(take, range(50)))
    assert served == list(range(50))


async def test_a_holder_that_requests_the_turn_again_waits_behind_all_waiters() -> None:
    turns, served = Turns(), []

    async def take_often(name: int) -> None:
        for _ in range(30):
            async with turns.turn(LONG):
                served.append(name)
                await asyncio.sleep(0)

    await asyncio.gather(*map(take_often, range(20)))
    for name in range(20):
        places = [place for place, who in enumerate(served) if who == name]
        assert max(after - before for before, after in itertools.pairwise(places)) <= 20


async def test_loops_of_other_threads_share_one_queue() -> None:
    turns, served = Turns(), []
    holders = 0

    async def take(number: int) -> None:
        nonlocal holders
        async with turns.turn(LONG):
            holders += 1
            assert holders == 1
            served.append(number)
            await asyncio.sleep(0)
            holders -= 1

    async with turns.turn(LONG):
        threads, tasks = [], []
        for number in range(0, 12, 2):
            thread = threading.Thread(target=asyncio.run, args=(take(number),))
            thread.start()
            threads.append(thread)
            await until(lambda expected=number + 1: queue_length(turns) == expected)  # type: ignore[misc]
            tasks.append(asyncio.create_task(take(number + 1)))
            await until(lambda expected=number + 2: queue_length(turns) == expected)  # type: ignore[misc]
    await asyncio.gather(*tasks)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert served == list(range(12))


async def test_a_waiter_that_times_out_leaves_the_queue() -> None:
    turns = Turns()
    async with turns.turn(LONG):
        with pytest.raises(TurnTimeoutError):
            async with turns.turn(0.01):
                pytest.fail("two hold the turn")
        assert queue_length(turns) == 0
    async with turns.turn(0.01):
        pass


async def test_a_cancelled_waiter_leaves_the_queue_and_keeps_nothing() -> None:
    turns = Turns()

    async def take() -> None:
        async with turns.turn(LONG):
            pytest.fail("was cancelled")

    async with turns.turn(LONG):
        waiting = [asyncio.create_task(take()) for _ in range(3)]
        await until(lambda: queue_length(turns) == 3)
        waiting[1].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting[1]
        assert queue_length(turns) == 2
        for task in waiting:
            task.cancel()
    # Two of them are cancelled, and the first gets the turn at the same time.
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in ended] == [asyncio.CancelledError] * 3
    async with turns.turn(0.01):
        pass


async def test_a_waiter_that_is_cancelled_once_the_turn_is_its_own_passes_it_on() -> None:
    turns = Turns()

    async def take() -> None:
        async with turns.turn(LONG):
            pytest.fail("was cancelled")

    async with turns.turn(LONG):
        waiting = asyncio.create_task(take())
        await until(lambda: queue_length(turns) == 1)
    waiting.cancel()  # The turn is granted, but the waiter is not resumed yet.
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with turns.turn(0.01):
        pass


async def test_a_stopped_or_closed_loop_blocks_no_waiter() -> None:
    turns, served = Turns(), []

    async def take() -> None:
        async with turns.turn(LONG):
            served.append("stopped")

    stopped, closed = asyncio.new_event_loop(), asyncio.new_event_loop()
    tasks = []

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(take()))
        await asyncio.sleep(0.01)

    async with turns.turn(LONG):
        for loop in (stopped, closed):
            await asyncio.to_thread(loop.run_until_complete, begin())
        assert queue_length(turns) == 2
        closed.call_exception_handler = lambda _: None  # type: ignore[method-assign]
        closed.close()
    for _ in range(2):
        async with turns.turn(LONG):
            assert served == []
    await asyncio.to_thread(stopped.run_until_complete, tasks[0])
    assert served == ["stopped"]
    stopped.close()
    async with turns.turn(0.01):
        assert queue_length(turns) == 0


def test_turns_are_shared_by_key_and_collected_with_the_last_reference() -> None:
    first = turns_for("a key")
    assert turns_for("a key") is first
    assert turns_for("another") is not first
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def test_a_forked_child_has_its_own_turn() -> None:
    turns, taken = turns_for("forked"), []

    async def take() -> None:
        async with turns.turn(0.01):
            taken.append(True)

    def take_in_a_thread() -> None:
        # The parent's loop counts as running in this thread.
        thread = threading.Thread(target=asyncio.run, args=(take(),))
        thread.start()
        thread.join()
        assert taken == [True]

    async def fork_while_held() -> int:
        async with turns.turn(LONG):
            return exit_status(in_child(take_in_a_thread))

    assert asyncio.run(fork_while_held()) == 0
