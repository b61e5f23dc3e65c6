"""No read that begins after a write has returned shows the state before it, in any order of the steps."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions import MemoryCache, RedisCache
from sessions.cache import SessionCache
from sessions.cache.base import Filling, Write
from tests.cache.schedules import Event, Run

ALICE, BOB = "alice", "bob"
ONE, OTHER = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2))
START = [
    Event("create_session", (ALICE, {"title": "old"}), {"session_id": ONE, "messages": [("user", "a")] * 3}),
    Event("create_session", (ALICE,), {"session_id": OTHER}),
]
READS = [
    Event("get_session", (ALICE, ONE)),
    Event("get_session_history", (ALICE, ONE)),
    Event("get_session_history", (ALICE, ONE), {"limit": 2}),
    Event("list_sessions", (ALICE,)),
    Event("list_session_previews", (ALICE,), {"limit": 1}),
    Event("get_session", (BOB, ONE)),
    Event("list_sessions", (BOB,)),
]
WRITES = [
    Event("update_session", (ALICE, ONE, {"title": "new"})),
    Event("update_session", (ALICE, OTHER), {"merge_metadata": {"a": 1}}),
    Event("add_message", (ALICE, ONE, "user", "b")),
    Event("pop_message", (ALICE, ONE)),
    Event("clear_messages", (ALICE, ONE)),
    Event("delete_session", (ALICE, ONE)),
    Event("ensure_session_exists", (ALICE, ONE)),
    Event("ensure_session_exists", (BOB, ONE)),
    Event("delete_user", (ALICE,)),
    Event("keep_latest_sessions", (ALICE, 1)),
    Event("fork_session", (ALICE, ONE)),
]
PAST = [Event(each.name, each.arguments, each.options, past_the_cache=True) for each in WRITES[:6]]

budget = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def callers_of(events: st.SearchStrategy[Event]) -> st.SearchStrategy[list[list[Event]]]:
    return st.lists(st.lists(events, min_size=1, max_size=3), min_size=2, max_size=4)


# Any of them, or those who do the same: a fault shows to who repeats a read.
callers = callers_of(st.sampled_from([*READS, *WRITES])) | st.tuples(
    st.sampled_from(READS[:5]), st.sampled_from(WRITES)
).flatmap(lambda pair: callers_of(st.sampled_from(pair)))
past_events = st.sampled_from([*READS * 2, *PAST])
KILL, EVICT, WAIT = "kill", "evict", "wait"
# A caller goes on until it has ended, unless something happens at one of the steps: another one comes first
# from then on, or a process is killed, or the cache drops something, or time passes. Few such moments find
# more than many: it takes one long delay, and not many short ones, to put an old value over a newer one.
happenings = st.one_of(st.integers(0, 3), st.sampled_from([KILL, EVICT, WAIT]))
# Each after how many steps since the one before.
decisions = st.lists(st.tuples(st.integers(1, 6), happenings), min_size=1, max_size=5)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def choosing(
    decided: list[tuple[int, int | str]], evict: Callable[[int], None], wait: Callable[[], None]
) -> Callable[[list[int]], int | None]:
    """Return a function that chooses callers by what is decided for each step."""
    moments = itertools.accumulate(steps for steps, _ in decided)
    at = dict(zip(moments, (what for _, what in decided), strict=True))
    steps = itertools.count(1)
    order = list(range(4))

    def choose(waiting: list[int]) -> int | None:
        step = next(steps)
        decision = at.get(step)
        if decision == KILL:
            return None
        if decision == EVICT:
            evict(step)
        elif decision == WAIT:
            wait()
        elif isinstance(decision, int):
            order.remove(decision)
            order.insert(0, decision)
        return min(waiting, key=order.index)

    return choose


async def checked(
    cache: SessionCache, callers: Sequence[Sequence[Event]], choose: Callable[[list[int]], int | None]
) -> Run:
    run = Run(cache)
    await run.start(*START)
    await run.run(callers, choose)
    return run


def memory_run(
    cache: MemoryCache, clock: Clock, callers: Sequence[Sequence[Event]], decided: list[tuple[int, int | str]]
) -> None:
    def evict(number: int) -> None:
        if entries := sorted(cache._entries, key=str):
            del cache._entries[entries[number % len(entries)]]

    def wait() -> None:
        clock.now += 11.0

    asyncio.run(checked(cache, callers, choosing(decided, evict, wait)))


STEPS_OF_A_READ = 8


@pytest.mark.parametrize("write", WRITES, ids=lambda event: event.name)
def test_a_write_comes_between_any_two_steps_of_a_reader(write: Event) -> None:
    for read in (READS[0], READS[1], READS[3]):
        for step in range(1, STEPS_OF_A_READ):
            clock = Clock()
            memory_run(MemoryCache(ttl=30, clock=clock), clock, [[read, read], [write]], [(step, 1)])


@budget
@given(callers, decisions)
def test_a_read_never_shows_what_was_before_a_write_that_has_returned(
    callers: list[list[Event]], decided: list[tuple[int, int | str]]
) -> None:
    clock = Clock()
    memory_run(MemoryCache(ttl=30, clock=clock), clock, callers, decided)


@budget
@given(st.lists(st.lists(past_events, min_size=1, max_size=4), min_size=2, max_size=4), decisions)
def test_what_is_written_past_the_cache_is_seen_after_ttl(
    callers: list[list[Event]], decided: list[tuple[int, int | str]]
) -> None:
    clock = Clock()
    memory_run(MemoryCache(ttl=10, clock=clock), clock, callers, decided)


@pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.full_size)])
def test_a_read_through_redis_never_shows_what_was_before_a_write_that_has_returned(
    redis_url: str, examples: int
) -> None:
    numbers = itertools.count()
    with redis.Redis.from_url(redis_url) as client:

        @settings(budget, max_examples=examples)
        @given(callers, decisions)
        def run(callers: list[list[Event]], decided: list[tuple[int, int | str]]) -> None:
            prefix = f"example-{next(numbers)}"

            def evict(number: int) -> None:
                if keys := sorted(client.keys(f"{prefix}:*")):
                    client.delete(keys[number % len(keys)])

            async def on_loop() -> None:
                cache = RedisCache(redis_url, ttl=30, timeout=20, prefix=prefix)
                try:
                    await checked(cache, callers, choosing(decided, evict, lambda: None))
                finally:
                    await cache.aclose()

            asyncio.run(on_loop())

        run()


# -- The checker finds what is wrong ---------------------------------------------------------------


class NoCondition(MemoryCache):
    """Stores what a slow reader has read, whatever happened since."""

    async def fill(self, filling: Filling) -> None:
        with self._lock:
            generation, _ = self._state(filling.tags)
        await super().fill(Filling(**{**_fields(filling), "generation": generation}))


class NoEnd(MemoryCache):
    """Keeps what it has after a write."""

    async def end(self, writer: str, write: Write, marked: tuple[str, ...], *, changed: bool) -> None:
        await super().end(writer, write, marked, changed=False)


class NoWindow(MemoryCache):
    """Takes a part of a history for all of it."""

    async def fill(self, filling: Filling) -> None:
        await super().fill(Filling(**{**_fields(filling), "covers": None}))


def _fields(filling: Filling) -> dict[str, Any]:
    return {name: getattr(filling, name) for name in Filling.__slots__}


@pytest.mark.parametrize("faulty", [NoCondition, NoEnd, NoWindow])
def test_the_checker_finds_a_cache_that_breaks_the_promise(faulty: type[MemoryCache]) -> None:
    def run() -> None:
        for reads in itertools.product(READS[:4], READS[:4]):
            for step in range(1, STEPS_OF_A_READ):
                clock = Clock()
                decided: list[tuple[int, int | str]] = [(step, 1)]
                memory_run(faulty(ttl=30, clock=clock), clock, [reads, WRITES[:1]], decided)

    with pytest.raises(AssertionError, match="what was there before"):
        run()
