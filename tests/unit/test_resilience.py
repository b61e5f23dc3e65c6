from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sessions import ConfigurationError, RetryConfig, RetryStrategy, async_retry, retry
from sessions.core.calls import Calls
from sessions.resilience import (
    MONGODB_RETRY_CONFIG,
    POSTGRES_RETRY_CONFIG,
    SQLITE_RETRY_CONFIG,
    time_left,
)
from tests.support.timing import within

SECRET = "what the user said"
AT_ONCE = {"base_delay": 0.0, "jitter": False}


class Flaky(Exception):
    """Transient."""


class Worse(Flaky):
    """A subclass."""


class Fatal(Exception):
    """Not transient."""


class Work:
    """Fails with the given errors, one per call, then returns its argument."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, value: str = "done") -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return value


Run = Callable[..., Awaitable[str]]


async def run_async(work: Work, config: RetryConfig, on: Any, value: str = "done") -> str:
    @async_retry(config, on=on)
    async def operation(value: str) -> str:
        return work(value)

    return await operation(value)


async def run_sync(work: Work, config: RetryConfig, on: Any, value: str = "done") -> str:
    @retry(config, on=on)
    def operation(value: str) -> str:
        return work(value)

    return operation(value)


async def run_call(work: Work, config: RetryConfig, on: Any, value: str = "done") -> str:
    async def operation() -> str:
        return work(value)

    return await call(operation, config, on)


async def call(operation: Callable[[], Awaitable[Any]], config: RetryConfig, on: Any) -> Any:
    """Call an operation of a backend as repositories do."""

    class Manager:
        preparations = 0
        outcome_is_unknown = translate = staticmethod(lambda error: None)
        driver_error = staticmethod(lambda error: error)
        run_step = staticmethod(lambda attempt: attempt())
        target = staticmethod(lambda: SimpleNamespace(system="tests"))

        def is_transient(self, error: BaseException) -> bool:
            return on(error) if callable(on) and not isinstance(on, type) else isinstance(error, on)

        async def prepare_again(self, error: BaseException, *, seen: int) -> bool:
            return False

    class OnlyBackend:
        manager = Manager()
        perform = staticmethod(lambda work, arguments: work(*arguments))

    return await Calls(cast("Any", OnlyBackend()), lambda: config).run("operation", operation)


@pytest.fixture(params=[run_async, run_sync, run_call], ids=["async_retry", "retry", "calls"])
def run(request: pytest.FixtureRequest) -> Run:
    """Each way to retry."""
    found: Run = request.param
    return found


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Records the delays in order, instead of sleeping."""
    delays: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        delays.append(seconds)
        await sleep(0)

    monkeypatch.setattr("asyncio.sleep", note)
    monkeypatch.setattr("time.sleep", delays.append)
    return delays


def config(**values: Any) -> RetryConfig:
    return RetryConfig(**{**AT_ONCE, **values})


# --- configuration ---------------------------------------------------------------------------------


def test_the_defaults_are_those_that_services_know() -> None:
    defaults = RetryConfig()

    assert (defaults.max_attempts, defaults.base_delay, defaults.max_delay) == (3, 0.5, 5.0)
    assert defaults.strategy is RetryStrategy.EXPONENTIAL
    assert defaults.jitter is True
    assert defaults.max_elapsed == 25.0
    assert POSTGRES_RETRY_CONFIG == MONGODB_RETRY_CONFIG == defaults
    assert SQLITE_RETRY_CONFIG.max_attempts >= 1


@pytest.mark.parametrize(
    "values",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"base_delay": -0.1},
        {"max_delay": -1.0},
        {"base_delay": float("nan")},
        {"max_delay": float("nan")},
        {"base_delay": float("inf")},
        {"strategy": "fibonacci"},
        {"max_elapsed": 0.0},
        {"max_elapsed": float("inf")},
        {"max_elapsed": float("nan")},
    ],
)
def test_a_configuration_that_cannot_work_is_refused_when_it_is_made(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"retry.{next(iter(values))}"):
        RetryConfig(**values)


def test_a_strategy_may_be_given_by_its_name(slept: list[float]) -> None:
    assert RetryConfig(strategy="constant") == RetryConfig(strategy=RetryStrategy.CONSTANT)  # type: ignore[arg-type]


# --- attempts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
async def test_max_attempts_counts_all_attempts(run: Run, attempts: int) -> None:
    work = Work(*(Flaky() for _ in range(10)))

    with pytest.raises(Flaky):
        await run(work, config(max_attempts=attempts), Flaky)

    assert work.calls == attempts


async def test_the_result_of_the_first_attempt_that_succeeds_is_returned(run: Run) -> None:
    work = Work(Flaky(), Worse())

    assert await run(work, config(max_attempts=5), Flaky, "the result") == "the result"
    assert work.calls == 3


async def test_the_last_error_is_raised_as_it_is(run: Run) -> None:
    errors = [Flaky("first"), Flaky("second"), Worse("third")]

    with pytest.raises(Worse) as caught:
        await run(Work(*errors), config(max_attempts=3), Flaky)

    assert caught.value is errors[-1]


@pytest.mark.parametrize("on", [Flaky, (KeyError, Flaky), lambda error: isinstance(error, Flaky)])
async def test_only_errors_that_on_matches_are_retried(run: Run, on: Any) -> None:
    work = Work(Flaky(), Fatal(), Flaky())

    with pytest.raises(Fatal):
        await run(work, config(max_attempts=5), on)

    assert work.calls == 2


async def test_an_error_that_on_does_not_match_is_raised_after_one_attempt(run: Run) -> None:
    work = Work(Fatal())

    with pytest.raises(Fatal):
        await run(work, config(max_attempts=5), Flaky)

    assert work.calls == 1


def test_what_to_retry_for_has_no_default() -> None:
    with pytest.raises(TypeError, match="on"):
        async_retry(RetryConfig())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="on"):
        retry(RetryConfig())  # type: ignore[call-arg]


@pytest.mark.parametrize("on", [BaseException, (asyncio.CancelledError, Flaky), lambda _: True])
@pytest.mark.parametrize("stop", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_cancellation_and_exit_are_never_retried(run: Run, on: Any, stop: type[BaseException]) -> None:
    for earlier in ([], [Flaky()]):
        work = Work(*earlier, stop(), Flaky())

        with pytest.raises(stop):
            # In a thread of its own: asyncio ends the loop for the latter two.
            await asyncio.to_thread(_drive, run(work, config(max_attempts=5), on))

        assert work.calls == len(earlier) + 1


def _drive(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


async def test_a_task_that_is_cancelled_while_it_waits_ends_at_once() -> None:
    work = Work(*(Flaky() for _ in range(10)))
    task = asyncio.create_task(
        run_async(work, config(base_delay=60.0, max_delay=60.0, max_elapsed=600.0), Flaky)
    )
    await asyncio.sleep(0.01)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)

    assert work.calls == 1


# --- the time limit of a call -----------------------------------------------------------------------


async def test_no_attempt_begins_after_max_elapsed(run: Run) -> None:
    work = Work(*(Flaky() for _ in range(1000)))
    with within(0.35), pytest.raises(Flaky):
        await run(work, config(max_attempts=1000, base_delay=0.1, jitter=False, max_elapsed=0.35), Flaky)

    assert work.calls < 5


async def test_an_attempt_knows_how_much_of_the_call_is_left() -> None:
    left: list[float] = []

    async def work() -> None:
        left.append(time_left(1000.0))
        assert time_left(0.1) <= 0.1
        await asyncio.sleep(0.2)
        raise Flaky

    with pytest.raises(Flaky):
        await call(work, config(max_attempts=3, max_elapsed=600.0, **AT_ONCE), Flaky)

    assert 500 < left[0] <= 600
    assert left[1] <= left[0] - 0.19
    assert left[2] <= left[1] - 0.19
    assert time_left(60.0) == 60.0


async def test_no_time_left_never_means_no_limit() -> None:
    async def work() -> float:
        await asyncio.sleep(0.05)
        return time_left(60.0)

    assert 0 < await call(work, config(max_elapsed=0.01), Flaky) < 0.1


# --- delays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (RetryStrategy.EXPONENTIAL, [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]),
        (RetryStrategy.LINEAR, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]),
        (RetryStrategy.CONSTANT, [0.5] * 6),
    ],
)
async def test_without_jitter_the_delays_are_exactly_those_of_the_strategy(
    run: Run, slept: list[float], strategy: RetryStrategy, expected: list[float]
) -> None:
    with pytest.raises(Flaky):
        await run(
            Work(*(Flaky() for _ in range(10))),
            RetryConfig(max_attempts=7, base_delay=0.5, max_delay=5.0, strategy=strategy, jitter=False),
            Flaky,
        )

    assert slept == expected


@pytest.mark.parametrize("strategy", RetryStrategy)
async def test_no_delay_exceeds_max_delay(run: Run, slept: list[float], strategy: RetryStrategy) -> None:
    with pytest.raises(Flaky):
        await run(
            Work(*(Flaky() for _ in range(60))),
            RetryConfig(max_attempts=50, base_delay=2.0, max_delay=1.5, strategy=strategy, jitter=False),
            Flaky,
        )

    assert slept == [1.5] * 49


async def test_thousands_of_attempts_do_not_overflow_the_delay(run: Run, slept: list[float]) -> None:
    with pytest.raises(Flaky):
        await run(Work(*(Flaky() for _ in range(2001))), config(max_attempts=2000, base_delay=0.1), Flaky)

    assert max(slept) == 5.0


@pytest.mark.parametrize("strategy", RetryStrategy)
async def test_jitter_spreads_each_delay_between_zero_and_its_full_value(
    run: Run, slept: list[float], strategy: RetryStrategy
) -> None:
    random.seed(20260101)
    values: dict[str, Any] = {"max_attempts": 4, "base_delay": 1.0, "max_delay": 3.0, "strategy": strategy}
    with pytest.raises(Flaky):
        await run(Work(*(Flaky() for _ in range(4))), RetryConfig(**values, jitter=False), Flaky)
    full = slept.copy()
    slept.clear()

    for _ in range(100):
        with pytest.raises(Flaky):
            await run(Work(*(Flaky() for _ in range(4))), RetryConfig(**values, jitter=True), Flaky)

    for place, most in enumerate(full):
        drawn = slept[place::3]
        assert len(drawn) == 100
        assert all(0 <= delay <= most for delay in drawn)
        assert min(drawn) < 0.2 * most
        assert max(drawn) > 0.8 * most


async def test_no_delay_and_no_log_line_follow_a_success(
    run: Run, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "sessions"):
        await run(Work(), RetryConfig(), Flaky)

    assert slept == []
    # With DEBUG, `sessions.operations` has a line for each call.
    assert [record for record in caplog.records if record.name == "sessions.resilience"] == []


# --- log -------------------------------------------------------------------------------------------


async def test_each_retry_logs_operation_attempt_delay_and_error_class_but_no_text(
    run: Run, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "sessions"), pytest.raises(Worse):
        await run(
            Work(Flaky(SECRET), Worse(SECRET), Worse(SECRET)),
            RetryConfig(max_attempts=3, base_delay=0.25, jitter=False),
            Flaky,
            SECRET,
        )

    first, second = [record for record in caplog.records if record.name == "sessions.resilience"]
    assert first.levelno == second.levelno == logging.WARNING
    assert first.getMessage().endswith("operation: attempt 1 of 3 failed with Flaky, next in 0.25 s")
    assert second.getMessage().endswith("operation: attempt 2 of 3 failed with Worse, next in 0.50 s")
    assert SECRET not in caplog.text
    assert first.exc_info is second.exc_info is None


# --- decorated functions ---------------------------------------------------------------------------


async def test_a_decorated_function_keeps_its_name_docstring_and_arguments() -> None:
    @async_retry(RetryConfig(), on=Flaky)
    async def load(key: str, *, times: int = 1) -> str:
        """Load it."""
        return key * times

    @retry(RetryConfig(), on=Flaky)
    def store(key: str, *, times: int = 1) -> str:
        """Store it."""
        return key * times

    assert asyncio.iscoroutinefunction(load)
    assert (load.__name__, load.__doc__, await load("a", times=2)) == ("load", "Load it.", "aa")
    assert (store.__name__, store.__doc__, store("a", times=2)) == ("store", "Store it.", "aa")


async def test_tasks_that_share_a_decorated_function_each_have_their_own_attempts() -> None:
    calls = dict.fromkeys(range(50), 0)

    @async_retry(config(max_attempts=4, base_delay=0.001), on=Flaky)
    async def operation(task: int) -> int:
        calls[task] += 1
        attempts = calls[task]
        await asyncio.sleep(0.001 * (task % 3))
        # Every third one fails; the others succeed at different attempts.
        if task % 3 == 0 or attempts <= task % 4:
            raise Flaky(task)
        return task

    results = await asyncio.gather(*map(operation, calls), return_exceptions=True)

    for task, result in enumerate(results):
        if task % 3 == 0:
            assert isinstance(result, Flaky)
            assert result.args == (task,)
            assert calls[task] == 4
        else:
            assert result == task
            assert calls[task] == task % 4 + 1


def test_threads_that_share_a_decorated_function_each_have_their_own_attempts() -> None:
    calls = dict.fromkeys(range(20), 0)
    start = threading.Barrier(20)
    results: dict[int, Any] = {}

    @retry(config(max_attempts=4, base_delay=0.001), on=Flaky)
    def operation(number: int) -> int:
        calls[number] += 1
        if number % 2 == 0 or calls[number] <= 2:
            raise Flaky(number)
        return number

    def run_one(number: int) -> None:
        start.wait()
        try:
            results[number] = operation(number)
        except Flaky as error:
            results[number] = error.args[0], "gave up"

    threads = [threading.Thread(target=run_one, args=(number,)) for number in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number, made in calls.items():
        assert (made, results[number]) == ((4, (number, "gave up")) if number % 2 == 0 else (3, number))


def test_a_decorated_function_may_call_itself() -> None:
    attempts: list[int] = []

    @retry(config(max_attempts=2), on=Flaky)
    def countdown(number: int) -> int:
        attempts.append(number)
        if attempts.count(number) == 1:
            raise Flaky
        return 0 if number == 0 else countdown(number - 1)

    assert countdown(3) == 0
    assert attempts == [3, 3, 2, 2, 1, 1, 0, 0]
