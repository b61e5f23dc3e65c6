"""Runs callers of a cache one step at a time, in an order that is chosen outside, and checks their reads.

The steps are between a look-up, the read or the write of the database, and the fill. Nothing here depends on
time: whoever is not chosen does not go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from sessions import CachedSessionRepository, SessionsError
from sessions.cache import SessionCache
from sessions.cache.base import Filling, LookUp, Write
from sessions.core.calls import Calls
from sessions.core.operations import Operations
from sessions.resilience import RetryConfig
from tests.contract.reference_backend import ReferenceBackend, ReferenceRepository

__all__ = ["Event", "Run", "SteppingCache"]

# Turns of the event loop after which a task that does not wait for a step waits for another task.
TURNS = 6
POLL_SECONDS = 0.0002
READS = frozenset({"get", "history", "list_after", "list_page", "list_previews"})

# The number of the caller that runs.
current: ContextVar[int] = ContextVar("current", default=-1)


class Scheduler:
    """Lets one waiting caller continue at a time.

    Attributes:
        waiting: The step that each caller waits for, by its number.
        callers: How many callers have not ended, nor were killed.
    """

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[None]] = {}
        self.callers = 0
        self._under_way = 0  # Calls of a server that have not returned.

    async def step(self) -> None:
        """Wait to be chosen."""
        future = self.waiting[current.get()] = asyncio.get_running_loop().create_future()
        await future

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Count a call that the scheduler waits for."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def settle(self) -> None:
        """Wait until no caller goes on by itself: each waits for a step, or for another one's read."""
        turns = 0
        while turns < TURNS and (self._under_way or len(self.waiting) < self.callers):
            if self._under_way:
                await asyncio.sleep(POLL_SECONDS)
                turns = 0
            else:
                await asyncio.sleep(0)
                turns += 1


class SteppingCache(SessionCache):
    """The cache of one process, on a cache that several share, with a step before and after each call."""

    def __init__(self, shared: SessionCache, scheduler: Scheduler) -> None:
        super().__init__(
            ttl=shared.ttl, max_value_bytes=shared.max_value_bytes, name="stepping", clock=shared.clock
        )
        self.shared, self.scheduler = shared, scheduler

    async def _stepped(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        await self.scheduler.step()
        with self.scheduler.calling():
            result = await call()
        await self.scheduler.step()
        return result

    async def look_up(self, key: str, tags: Sequence[str], wanted: int | None) -> LookUp | None:
        found: LookUp | None = await self._stepped(lambda: self.shared.look_up(key, tags, wanted))  # type: ignore[arg-type]
        return found

    async def fill(self, filling: Filling) -> None:
        await self._stepped(lambda: self.shared.fill(filling))  # type: ignore[arg-type]

    async def begin(self, writer: str, write: Write) -> tuple[str, ...]:
        marked: tuple[str, ...] = await self._stepped(lambda: self.shared.begin(writer, write))  # type: ignore[arg-type]
        return marked

    async def end(self, writer: str, write: Write, marked: tuple[str, ...], *, changed: bool) -> None:
        await self._stepped(lambda: self.shared.end(writer, write, marked, changed=changed))  # type: ignore[arg-type]


@dataclass(frozen=True)
class State:
    """What the database held, and when."""

    sessions: dict[str, Any]
    messages: dict[str, Any]
    since: float


@dataclass(frozen=True)
class Event:
    """One call of one caller.

    Attributes:
        name: Name of the operation of `Operations`.
        arguments: Its arguments.
        options: Its keyword arguments.
        past_the_cache: Whether the caller does not use the cache.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    past_the_cache: bool = False


class SteppingBackend(ReferenceBackend):
    """A database with a step before and after each statement, which remembers all of its states."""

    def __init__(self, manager: Any, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        super().__init__(manager)
        self.scheduler, self.clock = scheduler, clock
        self.reads = 0
        self.states: list[State] = []
        # The state that the last write of each task has led to.
        self.written: dict[Any, int] = {}
        self.remember()

    def remember(self) -> None:
        state = copy.deepcopy(self.sessions), copy.deepcopy(self.messages)
        if not self.states or state != (self.states[-1].sessions, self.states[-1].messages):
            self.states.append(State(*state, self.clock()))

    async def perform(self, work: Any, arguments: Sequence[Any]) -> Any:
        await self.scheduler.step()
        self.reads += work.__name__ in READS
        try:
            result = await work(*arguments)
        finally:
            if work.__name__ not in READS:
                self.remember()
                self.written[asyncio.current_task()] = len(self.states) - 1
        await self.scheduler.step()
        return result


class Run:
    """Processes that share a database and a cache, and what they read.

    Args:
        cache: The cache.
        processes: How many there are; each has a part of the callers.
    """

    def __init__(self, cache: SessionCache, processes: int = 2) -> None:
        self.cache, self.scheduler = cache, Scheduler()
        behind = ReferenceRepository()
        self.backend = SteppingBackend(behind._connection_manager, self.scheduler, cache.clock)
        behind._calls = Calls(self.backend, lambda: RetryConfig(max_attempts=1))
        behind._operations = Operations(behind._calls)
        self.behind = behind
        self.processes = [
            CachedSessionRepository(behind, cache=SteppingCache(cache, self.scheduler))
            for _ in range(processes)
        ]
        # The last state of each write that has returned.
        self.returned = 0
        self.past_the_cache: list[tuple[float, int]] = []
        self.checked = 0

    async def start(self, *events: Event) -> None:
        """Make the calls of a caller that nobody delays, past the cache."""
        await self.run(
            [[replace(event, past_the_cache=True) for event in events]], lambda waiting: waiting[0]
        )
        self.returned, self.past_the_cache = len(self.backend.states) - 1, []

    async def _called(self, repository: Any, event: Event) -> Any:
        with contextlib.suppress(SessionsError):
            return await getattr(repository._operations, event.name)(*event.arguments, **event.options)
        return None

    async def caller(self, number: int, process: int, events: Sequence[Event]) -> None:
        """Make calls one after another, and check what they read."""
        current.set(number)
        try:
            await self._calls(process, events)
        finally:
            self.scheduler.callers -= 1

    async def _calls(self, process: int, events: Sequence[Event]) -> None:
        for event in events:
            repository = self.behind if event.past_the_cache else self.processes[process]
            floor = self._floor()
            found = await self._called(repository, event)
            if event.name.startswith(("get_", "list_")):
                await self._check(event, found, floor)
            elif event.past_the_cache:
                state = self.backend.written.get(asyncio.current_task(), 0)
                self.past_the_cache.append((self.cache.clock(), state))
            else:
                self.returned = max(self.returned, self.backend.written.get(asyncio.current_task(), 0))

    def _floor(self) -> int:
        seen = [state for when, state in self.past_the_cache if when + self.cache.ttl <= self.cache.clock()]
        return max([self.returned, *seen])

    async def _check(self, event: Event, found: Any, floor: int) -> None:
        possible = self.backend.states[floor:]
        self.checked += 1
        for state in possible:
            if await self._in(state, event) == found:
                return
        raise AssertionError(f"{event} read what was there before state {floor}: {found}")

    async def _in(self, state: State, event: Event) -> Any:
        repository = ReferenceRepository()
        repository.backend.sessions = copy.deepcopy(state.sessions)
        repository.backend.messages = copy.deepcopy(state.messages)
        return await self._called(repository, event)

    async def run(
        self, callers: Sequence[Sequence[Event]], choose: Callable[[list[int]], int | None]
    ) -> None:
        """Run callers to their end.

        Args:
            callers: The calls of each.
            choose: Returns which of the waiting callers goes on, of their numbers in order; None to kill the
                first of them: it does not go on any more.
        """
        scheduler = self.scheduler
        scheduler.callers = len(callers)
        tasks = [
            asyncio.ensure_future(self.caller(number, number % len(self.processes), events))
            for number, events in enumerate(callers)
        ]
        killed: list[asyncio.Future[None]] = []
        try:
            while True:
                await scheduler.settle()
                for task in tasks:
                    if task.done():
                        task.result()
                if not scheduler.waiting:
                    break
                waiting = sorted(scheduler.waiting)
                chosen = choose(waiting)
                future = scheduler.waiting.pop(waiting[0] if chosen is None else chosen)
                if chosen is None:
                    killed.append(future)
                    scheduler.callers -= 1
                else:
                    future.set_result(None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
