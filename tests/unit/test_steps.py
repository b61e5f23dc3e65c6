from __future__ import annotations

import asyncio
import textwrap

import anyio
import pytest

from sessions.core.steps import Steps, hidden_task
from tests.support.programs import Programs


async def test_a_step_returns_or_raises_what_its_work_does() -> None:
    steps = Steps()

    async def returns() -> int:
        await asyncio.sleep(0)
        return 3

    async def raises() -> None:
        raise LookupError

    assert await steps.run(returns) == 3
    with pytest.raises(LookupError):
        await steps.run(raises)
    assert len(steps) == 0


async def test_a_cancelled_caller_returns_while_the_step_continues() -> None:
    steps, goes_on, ended = Steps(), asyncio.Event(), []

    async def work() -> None:
        await goes_on.wait()
        ended.append(True)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(steps.run(work), 0.01)
    assert len(steps) == 1
    goes_on.set()
    await steps.finish()
    assert (ended, len(steps)) == ([True], 0)


async def test_a_level_cancellation_is_delivered_once() -> None:
    steps, goes_on, turns = Steps(), asyncio.Event(), 0

    async def work() -> None:
        nonlocal turns
        while not goes_on.is_set():
            turns += 1
            await asyncio.sleep(0.05)

    with anyio.move_on_after(0.01) as scope:
        await steps.run(work)
    assert scope.cancelled_caught
    await asyncio.sleep(0.2)
    goes_on.set()
    await steps.finish()
    assert turns < 20


async def test_an_interrupted_step_cleans_up_in_the_background() -> None:
    steps, told, goes_on = Steps(), [], asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await goes_on.wait()
            told.append("cleaned up")
            raise

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(steps.run(work, interrupt=True), 0.01)
    assert told == []
    goes_on.set()
    await steps.finish()
    assert (told, len(steps)) == (["cleaned up"], 0)


async def test_finishing_is_bounded_and_then_cancels(caplog: pytest.LogCaptureFixture) -> None:
    steps, told = Steps(), []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(steps.run(work), 0.01)
    await steps.finish(0.05)
    assert (told, len(steps)) == (["cancelled"], 0)
    assert "1 cancelled calls did not end within 0.05 s" in caplog.text


async def test_an_error_after_the_caller_was_cancelled_is_discarded() -> None:
    steps, problems, goes_on = Steps(), [], asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))

    async def work() -> None:
        await goes_on.wait()
        raise LookupError("a text that may quote a message")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(steps.run(work), 0.01)
    goes_on.set()
    await steps.finish()
    assert problems == []


async def test_a_hidden_task_is_none_of_the_tasks_that_a_run_cancels() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    task = hidden_task(work())
    assert task not in asyncio.all_tasks()
    assert await task == 3


END_OF_RUN = """
import asyncio, sys, time
from sessions.core.loops import LoopBound

events = []

async def close(resource):
    events.append("closed")

async def work():
    await asyncio.sleep({seconds})
    events.append("finished")

async def main():
    bound = LoopBound(object, close)
    try:
        await asyncio.wait_for(bound.run(work), 0.01)
    except TimeoutError:
        pass
    return bound

started = time.monotonic()
if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
assert events == {expected}, events
assert time.monotonic() - started < 30
"""


@pytest.mark.parametrize("run", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("seconds", "expected"), [(0.2, ["finished", "closed"]), (60, ["closed"])])
def test_the_end_of_a_run_waits_for_steps_and_closes_after_them(
    run: str, seconds: float, expected: list[str], programs: Programs
) -> None:
    program = textwrap.dedent(END_OF_RUN).format(seconds=seconds, expected=expected)
    ended = programs.run("-W", "error", "-c", program, run)
    warned = "1 cancelled calls did not end within 3 s, and were given up\n" if seconds == 60 else ""
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", warned)


GENERATORS_AT_THE_END = """
import asyncio, contextlib, sys
from sessions.core.loops import LoopBound

events = []

@contextlib.asynccontextmanager
async def lent():
    try:
        yield
        events.append("given back")
    except BaseException as error:
        events.append(type(error).__name__)
        raise

async def close(resource):
    events.append("closed")

async def work():
    async with lent():
        await asyncio.sleep(0.2)

async def main():
    bound = LoopBound(object, close)
    task = asyncio.ensure_future(bound.run(work))
    await asyncio.sleep(0.05)

asyncio.run(main())
assert events == ["given back", "closed"], events
"""


def test_the_end_of_a_run_takes_no_generator_away_from_a_step(programs: Programs) -> None:
    ended = programs.run("-W", "error", "-c", GENERATORS_AT_THE_END)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
