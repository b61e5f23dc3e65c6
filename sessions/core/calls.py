"""The path of every operation: attempts with retries, cancellation, and this package's errors."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, ClassVar, TypeVar

from sessions import validation
from sessions.core import telemetry
from sessions.core.group_commit import GroupCommit
from sessions.core.identifiers import new_session_id, utc_now
from sessions.core.loops import LoopBound
from sessions.core.port import Backend, ConnectionManager
from sessions.core.values import Append, EarlierAttempts, NewSession
from sessions.correlation import begin_operation, end_operation
from sessions.errors import SessionNotFoundError, SessionsError
from sessions.resilience import RetryConfig, begin_call, end_call, repeat_call

__all__ = ["Calls", "must_exist"]

# How often one attempt makes the schema ready again: the first check, inside the call, may find it ready, and
# then it is dropped; and another process may downgrade it step by step.
PREPARATIONS = 4

R = TypeVar("R")
Check = Callable[[Any], None]


class Calls:
    """Calls the operations of one backend, with retries.

    Args:
        backend: The backend, on the connections of a database or in a caller's transaction.
        retry: Returns attempts and delays; called by the first operation, because many repositories are
            created without one.
    """

    # Sessions deleted, or messages exported, by one statement: bounds locks and memory.
    batch_size: ClassVar[int] = 1000

    __slots__ = ("_retry", "backend", "manager", "read_retry")

    def __init__(self, backend: Backend, retry: Callable[[], RetryConfig]) -> None:
        self.backend = backend
        self.manager: ConnectionManager = backend.manager
        self.read_retry = retry
        self._retry: RetryConfig | None = None

    async def aclose(self) -> None:
        """Release all connections."""
        await self.manager.aclose()

    def check_id(self, argument: str, value: object) -> str:
        """Return a session or message id in the form that the backend stores."""
        return self.backend.check_id(argument, value)

    def check_key(self, session_id: object, user_id: object) -> tuple[str, str]:
        """Return the checked id of a session, and of its owner."""
        return self.backend.check_id("session_id", session_id), validation.check_user_id(user_id)

    def new_session(self, session_id: str | None, user_id: str, session_data: object) -> NewSession:
        """Return a session to store, of checked values; without an id it gets a new one."""
        title, metadata = validation.check_session_data(session_data)
        self.backend.check_size("metadata", metadata)
        has_new_id, session_id = session_id is None, session_id or new_session_id()
        return NewSession(session_id, user_id, title, metadata, utc_now(), self.backend.new_key(), has_new_id)

    def run(
        self,
        operation: str,
        work: Callable[..., Awaitable[R]],
        *arguments: Any,
        repeats_unknown: bool = True,
        check: Check | None = None,
    ) -> Awaitable[R]:
        """Call an operation of the backend until it succeeds or may not be retried.

        Args:
            operation: Its public name, for the log.
            work: A method of the backend.
            *arguments: Checked arguments, the same for each attempt.
            repeats_unknown: Whether to retry also if an attempt may have taken effect.
            check: Raises the error of the operation for a result that is none.
        """
        on = self.manager.is_transient if repeats_unknown else self._had_no_effect
        attempt = self._step(work, arguments)
        return self._run(operation, attempt, on, work, arguments, check=check)

    def _step(
        self, work: Callable[..., Awaitable[R]], arguments: Sequence[Any]
    ) -> Callable[[], Awaitable[R]]:
        # A background step is one attempt: after a cancellation there is no retry.
        perform = functools.partial(self.backend.perform, work, arguments)
        return functools.partial(self.manager.run_step, functools.partial(self._attempt, perform))

    def _run(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[R]],
        on: Callable[[BaseException], bool],
        work: Callable[..., Any],
        arguments: Sequence[Any],
        *,
        check: Check | None = None,
    ) -> Coroutine[Any, Any, R]:
        """Call every operation: what is observed of all of them is observed here."""
        if telemetry.observer is None and not telemetry.operations_log.isEnabledFor(logging.DEBUG):
            return self._run_attempts(operation, attempt, on, check)
        call = telemetry.Call(operation, self.manager, work, arguments)
        return self._run_observed(call, attempt, on, check)

    async def _run_observed(
        self,
        call: telemetry.Call,
        attempt: Callable[[], Awaitable[R]],
        on: Callable[[BaseException], bool],
        check: Check | None,
    ) -> R:
        token = begin_operation(call.operation)
        try:
            run = functools.partial(self._run_attempts, call.operation, attempt, on, check, has_begun=True)
            return await self._observed(call, run)
        finally:
            end_operation(token)

    async def _observed(self, call: telemetry.Call, run: Callable[[], Awaitable[R]]) -> R:
        if telemetry.operations_log.isEnabledFor(logging.DEBUG):
            run = functools.partial(telemetry.run_logged, call, run)
        if (observer := telemetry.observer) is None:
            return await run()
        return await observer.observe(call, run)

    async def _run_attempts(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[R]],
        on: Callable[[BaseException], bool],
        check: Check | None,
        *,
        has_begun: bool = False,
    ) -> R:
        manager = self.manager
        if (retry := self._retry) is None:
            retry = self._retry = self.read_retry()
        # Here, not in a function of its own, which would be the frame of one more coroutine.
        operation_token = None if has_begun else begin_operation(operation)
        token = begin_call(retry)
        try:
            try:
                result = await attempt()
            except Exception as error:
                failed = [error]
            else:
                return result if check is None else _checked(result, check)
            unwrap, note = manager.driver_error, self._note_retry
            result = await repeat_call(failed, operation, attempt, retry, on=on, unwrap=unwrap, note=note)
            return result if check is None else _checked(result, check)
        except SessionsError:
            raise
        except Exception as error:
            failure = manager.translate(error)
            if failure is None:
                raise
            cause = failure.__cause__ or error
        finally:
            end_call(token)
            if operation_token is not None:
                end_operation(operation_token)
        # Outside of `except`, so that the driver's error, which may quote the row, is not its context.
        raise failure from cause

    def _note_retry(self, operation: str, error: BaseException) -> None:
        if (observer := telemetry.observer) is not None:
            observer.retried(operation, self.manager, error)

    def read_payloads(
        self, operation: str, session_id: str, user_id: str, limit: int | None
    ) -> Awaitable[list[Any]]:
        """Return the payloads of the newest messages of a session; see `Backend.payloads`."""
        return self.run(operation, self.backend.payloads, session_id, user_id, limit)

    async def is_healthy(self) -> bool:
        """Return whether a write would work now."""
        token = begin_operation("is_healthy")
        try:
            return await self._observed(telemetry.Call("is_healthy", self.manager), self.manager.is_healthy)
        finally:
            end_operation(token)

    def _had_no_effect(self, error: BaseException) -> bool:
        return self.manager.is_transient(error) and not self.manager.outcome_is_unknown(error)

    async def _attempt(self, perform: Callable[[], Awaitable[R]]) -> R:
        for _ in range(PREPARATIONS):
            seen = self.manager.preparations
            try:
                return await perform()
            except Exception as error:
                if not await self.manager.prepare_again(error, seen=seen):
                    raise
        return await perform()

    async def run_in_transaction(self, work: Callable[[Any], Awaitable[R]]) -> R:
        """Await ``work(manager)`` in one transaction, which is repeated if it had no effect."""
        attempt = functools.partial(self._attempt, functools.partial(self.manager.in_transaction, work))
        step = functools.partial(self.manager.run_step, attempt)
        return await self._run(
            "run_in_transaction", step, self._had_no_effect, self.manager.in_transaction, ()
        )

    # -- Appends, which leave together: the `Sender` of `GroupCommit` ------------------------------

    def append(self, operation: str, append: Append) -> Awaitable[bool]:
        """Append messages, together with what other callers append; return True.

        Args:
            operation: Its public name, for the log.
            append: The messages.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        queues = self.manager.queues
        attempt: Callable[[], Awaitable[bool]]
        if queues is None:
            attempt = functools.partial(self.send_alone, append)
        elif (queue := queues.peek()) is None:
            attempt = functools.partial(self._append_first, queues, append)
        else:
            attempt = functools.partial(queue.submit, append, self)
        on = self.manager.is_transient
        return self._run(operation, attempt, on, self.backend.append, (append,), check=must_exist)

    async def _append_first(self, queues: LoopBound[GroupCommit], append: Append) -> bool:
        """Append messages, the first ones in this event loop."""
        return await (await queues.get()).submit(append, self)

    def send_alone(self, item: Append) -> Awaitable[bool]:
        """Append the messages of one call, in one attempt; return whether the session exists."""
        arguments = item.session_id, item.user_id, item.rows, None, None
        return self._step(self.backend.append, arguments)()

    def send_together(self, items: Sequence[Append]) -> Awaitable[Sequence[bool]]:
        """Append the messages of several calls, in one attempt; return of each whether they are stored."""
        send = self._step(self.backend.append_many, (items,))
        if (observer := telemetry.observer) is None:
            return send()
        return observer.observe_batch(self.manager, items, send)

    def concerns_all(self, error: BaseException) -> bool:
        """Return whether the error of several calls is the error of each of them."""
        manager = self.manager
        if manager.took_its_timeout(error):
            return True
        return manager.is_transient(error) and not manager.is_conflict(error)

    # ----------------------------------------------------------------------------------------------

    async def run_counting_attempts(
        self, operation: str, work: Callable[..., Awaitable[R]], *args: Any, check: Check | None = None
    ) -> R:
        """Call an operation as `run` does, and pass the earlier attempts as its last argument."""
        earlier = EarlierAttempts()
        perform = functools.partial(self.backend.perform, work, (*args, earlier))

        async def perform_counted() -> R:
            try:
                return await perform()
            except Exception as error:
                earlier.failed += 1
                earlier.may_have_worked |= self.manager.outcome_is_unknown(error)
                raise

        attempt = functools.partial(self.manager.run_step, functools.partial(self._attempt, perform_counted))
        return await self._run(operation, attempt, self.manager.is_transient, work, args, check=check)

    async def run_batches(self, operation: str, delete: Callable[..., Awaitable[int]], *args: Any) -> int:
        """Delete batches, each with retries, until one deletes nothing; return the number of deleted rows."""
        total = 0
        while deleted := await self.run(operation, delete, *args, self.batch_size):
            total += deleted
        return total


def _checked(result: R, check: Check) -> R:
    check(result)
    return result


def must_exist(is_there: object) -> None:
    """Raise the error for an absent or a foreign session, unless the result is true.

    Raises:
        SessionNotFoundError: It is not.
    """
    if not is_there:
        # The same text for both, and no id, which would confirm a guess.
        raise SessionNotFoundError("there is no such session")
