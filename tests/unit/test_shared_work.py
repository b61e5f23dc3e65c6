"""Work that is done once for all concurrent callers."""

from __future__ import annotations

import asyncio

import pytest

from sessions.core.shared_work import SharedWork


class Work:
    """Counts how often it was started, and ends on request."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        self._error = error

    async def __call__(self) -> None:
        self.begun += 1
        await self.may_end.wait()
        if self._error is not None:
            raise self._error


async def test_concurrent_callers_share_the_work() -> None:
    shared, work = SharedWork(), Work()
    callers = [asyncio.create_task(shared.run(work)) for _ in range(5)]
    await asyncio.sleep(0)
    work.may_end.set()
    await asyncio.gather(*callers)

    assert work.begun == 1


async def test_concurrent_callers_share_its_error_which_the_next_one_does_not_get() -> None:
    shared, failing, working = SharedWork(), Work(OSError("refused")), Work()
    callers = [asyncio.create_task(shared.run(failing)) for _ in range(5)]
    await asyncio.sleep(0)
    failing.may_end.set()
    found = await asyncio.gather(*callers, return_exceptions=True)
    working.may_end.set()
    await shared.run(working)

    assert [str(error) for error in found] == ["refused"] * 5
    assert (failing.begun, working.begun) == (1, 1)


async def test_if_the_first_caller_is_cancelled_another_one_takes_over() -> None:
    shared, work = SharedWork(), Work()
    first, *others = (asyncio.create_task(shared.run(work)) for _ in range(5))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    while work.begun < 2:
        await asyncio.sleep(0)
    work.may_end.set()
    await asyncio.gather(*others)

    assert work.begun == 2


async def test_a_cancelled_caller_does_not_cancel_the_work_of_others() -> None:
    shared, work = SharedWork(), Work()
    first, second, third = (asyncio.create_task(shared.run(work)) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    work.may_end.set()
    await asyncio.gather(first, third)

    assert work.begun == 1
