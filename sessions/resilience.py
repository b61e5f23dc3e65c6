"""Retry with backoff, on tenacity, for calls that are safe to repeat."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from enum import StrEnum
from typing import ParamSpec, TypeVar

import tenacity

from sessions.correlation import logger_of
from sessions.errors import ConfigurationError

__all__ = [
    "MONGODB_RETRY_CONFIG",
    "POSTGRES_RETRY_CONFIG",
    "REDIS_RETRY_CONFIG",
    "SQLITE_RETRY_CONFIG",
    "RetryConfig",
    "RetryStrategy",
    "async_retry",
    "begin_call",
    "begin_wait",
    "call_deadline",
    "end_call",
    "end_wait",
    "extend_call",
    "repeat_call",
    "retry",
    "time_left",
    "wait_left",
]

P = ParamSpec("P")
R = TypeVar("R")
Unwrap = Callable[[BaseException], BaseException]
NoteRetry = Callable[[str, BaseException], None]
RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]

logger = logger_of(__name__)


class RetryStrategy(StrEnum):
    """How the delay grows from one attempt to the next."""

    EXPONENTIAL = "exponential"
    LINEAR = "linear"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How often and how fast to retry.

    Attributes:
        max_attempts: All attempts, the first one included; at least 1.
        base_delay: Seconds before the second attempt.
        max_delay: Seconds that no delay exceeds.
        strategy: Growth of the delay: exponential, linear, or none.
        jitter: Full jitter: each delay is drawn uniformly from 0 to its computed value.
        max_elapsed: Seconds that a call may take with all its attempts and delays, if the database does not
            respond. No attempt begins after them, and the rest of them limits every wait of an attempt: see
            ``time_left``.
    """

    max_attempts: int = 3
    base_delay: float = 0.5
    max_delay: float = 5.0
    strategy: RetryStrategy = RetryStrategy.EXPONENTIAL
    jitter: bool = True
    max_elapsed: float = 25.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError("retry.max_attempts: must be at least 1")
        for name in ("base_delay", "max_delay"):
            if not 0 <= getattr(self, name) < math.inf:  # False for NaN, too.
                raise ConfigurationError(f"retry.{name}: must be finite and not negative")
        if not 0 < self.max_elapsed < math.inf:
            raise ConfigurationError("retry.max_elapsed: must be finite and more than 0")
        if self.strategy not in tuple(RetryStrategy):
            raise ConfigurationError(f"retry.strategy: must be one of {', '.join(RetryStrategy)}")

    def wait(self) -> tenacity.wait.wait_base:
        """Return the tenacity wait of this configuration."""
        strategy = RetryStrategy(self.strategy)
        wait: tenacity.wait.wait_base
        if strategy is RetryStrategy.EXPONENTIAL:
            wait = tenacity.wait_exponential(multiplier=self.base_delay, max=self.max_delay)
        elif strategy is RetryStrategy.LINEAR:
            wait = tenacity.wait_incrementing(
                start=self.base_delay, increment=self.base_delay, max=self.max_delay
            )
        else:
            wait = tenacity.wait_fixed(min(self.base_delay, self.max_delay))
        return _FullJitter(wait) if self.jitter else wait


# Defaults, unless the settings (``sessions.retry``) or the caller (``retry=``) override them.
MONGODB_RETRY_CONFIG = RetryConfig(
    max_attempts=3, base_delay=0.5, max_delay=5.0, strategy=RetryStrategy.EXPONENTIAL, jitter=True
)
POSTGRES_RETRY_CONFIG = RetryConfig(
    max_attempts=3, base_delay=0.5, max_delay=5.0, strategy=RetryStrategy.EXPONENTIAL, jitter=True
)
REDIS_RETRY_CONFIG = RetryConfig(
    max_attempts=3, base_delay=0.5, max_delay=5.0, strategy=RetryStrategy.EXPONENTIAL, jitter=True
)
# A busy file has already waited for its busy timeout.
SQLITE_RETRY_CONFIG = RetryConfig(max_attempts=2, base_delay=0.1)


# Deadline of the current call, on the monotonic clock.
_deadline: ContextVar[float | None] = ContextVar("sessions_deadline", default=None)
# Until when it may wait for a connection, on the same clock.
_wait_ends: ContextVar[float | None] = ContextVar("sessions_wait_ends", default=None)
# For a driver, 0 means no timeout.
_MIN_SECONDS = 0.001


def time_left(at_most: float) -> float:
    """Return how many seconds a wait of the current call may take.

    Args:
        at_most: The wait's own time limit, in seconds.

    Returns:
        The minimum of ``at_most`` and the rest of the call's ``max_elapsed``, never 0; ``at_most`` outside of
        a call that `begin_call` began.
    """
    deadline = _deadline.get()
    return at_most if deadline is None else max(_MIN_SECONDS, min(at_most, deadline - time.monotonic()))


def wait_left(at_most: float) -> float:
    """Return how many seconds the current call may wait for a connection.

    Args:
        at_most: As for `time_left`.

    Returns:
        What `time_left` returns, or less after a wait in a queue: see `begin_wait`.
    """
    left, ends = time_left(at_most), _wait_ends.get()
    return left if ends is None else max(_MIN_SECONDS, min(left, ends - time.monotonic()))


def begin_wait(ends: float) -> Token[float | None]:
    """Limit the waits for a connection until `end_wait`.

    Args:
        ends: When they end, on the monotonic clock.
    """
    return _wait_ends.set(ends)


def end_wait(token: Token[float | None]) -> None:
    """End what `begin_wait` began."""
    _wait_ends.reset(token)


def call_deadline() -> float:
    """Return when the ``max_elapsed`` of the current call ends, on the monotonic clock; else infinity."""
    deadline = _deadline.get()
    return math.inf if deadline is None else deadline


def extend_call(seconds: float) -> None:
    """Extend the ``max_elapsed`` of the current call by so many seconds.

    For a migration, during which the database responds, however long it takes.
    """
    deadline = _deadline.get()
    if deadline is not None:
        _deadline.set(deadline + seconds)


class _FullJitter(tenacity.wait.wait_base):
    """Full jitter for any wait: uniform between 0 and its value."""

    def __init__(self, wait: tenacity.wait.wait_base) -> None:
        self._wait = wait

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        return tenacity.wait_random(0, self._wait(retry_state))(retry_state)


def _itself(error: BaseException) -> BaseException:
    return error


def _condition(on: RetryOn) -> tenacity.retry_base:
    matches = (lambda error: isinstance(error, on)) if isinstance(on, type | tuple) else on
    # Cancellation, Ctrl-C and exit are not an Exception: they end the call, whatever ``on`` matches.
    return tenacity.retry_if_exception(lambda error: isinstance(error, Exception) and matches(error))


def _stop(config: RetryConfig, seconds: float) -> tenacity.stop.stop_base:
    return tenacity.stop_any(
        tenacity.stop_after_attempt(config.max_attempts),
        tenacity.stop_before_delay(seconds),
    )


def _log_retry(
    operation: str, config: RetryConfig, unwrap: Unwrap, note: NoteRetry | None = None
) -> Callable[[tenacity.RetryCallState], None]:
    def log(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if note is not None and error is not None:
            note(operation, unwrap(error))
        delay = state.next_action.sleep if state.next_action else 0.0
        # Only the class: a driver's text may quote the row, and so the conversation.
        logger.warning(
            "%s: attempt %d of %d failed with %s, next in %.2f s",
            operation,
            state.attempt_number,
            config.max_attempts,
            type(error and unwrap(error)).__name__,
            delay,
            extra={"attempt": state.attempt_number},
        )

    return log


def async_retry(
    config: RetryConfig, *, on: RetryOn, unwrap: Unwrap = _itself
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Retry a coroutine function while it raises an error that ``on`` matches.

    Args:
        config: Attempts and delays.
        on: Exception class, tuple of classes, or predicate. There is no default: a retry is only
            correct if the work is idempotent and the error transient.
        unwrap: Returns the error to log, without a library's wrapper.

    Returns:
        A decorator. The last error is raised as it is when the attempts are used up;
        ``asyncio.CancelledError``, ``KeyboardInterrupt`` and ``SystemExit`` are never retried.
    """

    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        retrying = tenacity.AsyncRetrying(
            stop=_stop(config, config.max_elapsed),
            wait=config.wait(),
            retry=_condition(on),
            before_sleep=_log_retry(function.__qualname__, config, unwrap),
            reraise=True,
        )

        @functools.wraps(function)
        async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            return await retrying(function, *args, **kwargs)

        return wrapper

    return decorate


def retry(
    config: RetryConfig, *, on: RetryOn, unwrap: Unwrap = _itself
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Retry a plain function while it raises an error that ``on`` matches; see `async_retry`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        retrying = tenacity.Retrying(
            stop=_stop(config, config.max_elapsed),
            wait=config.wait(),
            retry=_condition(on),
            before_sleep=_log_retry(function.__qualname__, config, unwrap),
            reraise=True,
        )

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            return retrying(function, *args, **kwargs)

        return wrapper

    return decorate


def begin_call(config: RetryConfig) -> Token[float | None]:
    """Begin a call of which `repeat_call` may repeat the work; ``max_elapsed`` begins."""
    return _deadline.set(time.monotonic() + config.max_elapsed)


def end_call(token: Token[float | None]) -> None:
    """End what `begin_call` began."""
    _deadline.reset(token)


async def repeat_call(
    failed: list[Exception],
    operation: str,
    work: Callable[[], Awaitable[R]],
    config: RetryConfig,
    *,
    on: RetryOn,
    unwrap: Unwrap = _itself,
    note: NoteRetry | None = None,
) -> R:
    """Await ``work()`` again after a first attempt that failed, as `async_retry` would.

    A call whose first attempt succeeds does not pay for a retry: the caller awaits that attempt itself,
    between `begin_call` and `end_call`.

    Args:
        failed: The error of the first attempt. It is removed: a frame that holds it would be a cycle.
        operation: Its name in the log.
        work: Called once for each further attempt; must be safe to repeat.
        config: Attempts and delays.
        on: Errors to retry; see `async_retry`.
        unwrap: Returns the error to log.
        note: Called with the operation and the error before each further attempt.
    """

    async def replay_then_work() -> R:
        if failed:
            raise failed.pop()
        return await work()

    retrying = tenacity.AsyncRetrying(
        stop=_stop(config, call_deadline() - time.monotonic()),
        wait=config.wait(),
        retry=_condition(on),
        before_sleep=_log_retry(operation, config, unwrap, note),
        reraise=True,
    )
    return await retrying(replay_then_work)
