"""The code of the benchmarks runs; its measurements are not tested."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks import cache, crowd, footprint, observability, ratios, search, turns, writes
from benchmarks.tables import table
from benchmarks.timing import Effort, one_caller, timed_together

TINY = Effort(rounds=2, calls=2, callers=2)


@pytest.mark.parametrize("backend", ratios.BACKENDS)
async def test_every_operation_is_measured_beside_the_raw_driver(
    backend: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{backend}_url")

    text = await ratios.against_raw(backend, url, TINY)

    operations = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines()[2:]]
    reads = ("history of 100", "history of 1,000", "page of 20 sessions")
    other_ways = [f"{read}, raw: `execute_fetchall`" for read in reads] if backend == "sqlite" else []
    assert [name for name in operations if "raw: " not in name] == list(ratios.TARGETS)
    assert [name for name in operations if "raw: " in name] == other_ways


async def test_blocking_calls_are_measured_beside_awaited_ones(postgres_url: str) -> None:
    text = await ratios.sync_twins("postgres", postgres_url, TINY)

    operations = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines()[2:]]
    assert operations == [
        "add_message",
        "add_messages of 10",
        "history of 100",
        "page of 20 sessions",
        "create_session",
        "get_session",
    ]
    assert text.count("≤ 1.35") == len(operations)


async def test_a_turn_is_measured_beside_the_calls_that_it_needs(sqlite_url: str) -> None:
    text = await turns.overhead("sqlite", sqlite_url, TINY)

    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == ["| `chat`", "| `stream`"]


async def test_a_cache_is_measured_beside_the_database(postgres_url: str, redis_url: str) -> None:
    text = await cache.compared(postgres_url, redis_url, TINY, target=None)

    operations = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines()[2:]]
    assert operations == ["history of 100", "get_session", "page of 20 sessions", "add_message"]


async def test_each_index_is_listed_with_its_size_and_a_read(postgres_url: str) -> None:
    text = await writes.write_amplification(postgres_url, 10)

    assert all(f"`{name}`" in text for name in writes.READS)


@pytest.mark.parametrize("backend", ["postgres", "mongodb"])
async def test_every_query_is_measured_for_every_kind_of_user(
    backend: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{backend}_url")

    text = await search.of_backend(backend, url, search.Size({backend: 2000}, messages=100, calls=1))

    headings, _, *lines = text.splitlines()
    assert headings.split(" | ")[1:] == [*list(search.QUERIES)[:-1], f"{list(search.QUERIES)[-1]} |"]
    assert len(lines) == {"postgres": len(search.SEARCHERS), "mongodb": 2}[backend]


async def test_each_contender_has_as_many_calls_and_goes_first_as_often() -> None:
    calls: list[str] = []

    async def call(name: str) -> None:
        calls.append(name)

    medians = await one_caller({name: lambda name=name: call(name) for name in "ab"}, TINY)  # type: ignore[misc]

    assert "".join(calls) == "aabbaabbbbaa"
    assert set(medians) == {"a", "b"}


async def test_callers_at_once_have_the_time_of_all_divided_by_their_number() -> None:
    appended: list[str] = []

    class Contender:
        async def append(self, session_id: str) -> None:
            appended.append(session_id)
            await asyncio.sleep(0.1)

        def append_blocking(self, session_id: str) -> None:
            appended.append(session_id)
            time.sleep(0.1)

    for blocking in (False, True):
        [seconds] = await timed_together(Contender(), ["a", "b"], blocking=blocking)(2)
        assert seconds >= 0.04
        assert sorted(appended) == ["a", "a", "b", "b"]
        appended.clear()


@pytest.mark.parametrize(
    "backend",
    [
        "sqlite",
        *(pytest.param(name, marks=pytest.mark.full_size) for name in ("postgres", "mongodb", "redis")),
    ],
)
def test_every_crowd_is_measured_beside_the_raw_driver(backend: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{backend}_url")

    # Each crowd starts processes of its own; the others differ in their numbers alone.
    names = (
        "32 callers, one session",
        "two processes of 32 callers, the same sessions",
        "blocking calls from 32 threads",
    )
    if backend == "postgres":
        names += ("blocking calls from 32 threads, raw: 32 connections",)
    few = [one for one in crowd.CROWDS if one.name in names]
    text = crowd.measure(backend, url, rounds=1, seconds=0.05, crowds=few, warm_up=0)

    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [
        f"| `add_message`, {name}" for name in names
    ]


def test_the_cost_of_the_instrumentation_is_measured_off_and_on() -> None:
    rows = observability.measure(quick=True).splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "none: the attempts alone",
        "turned off",
        "turned on, with the SDK",
    ]


@pytest.mark.full_size
def test_the_memory_of_a_message_is_measured_beside_its_json() -> None:
    rows = footprint.measure(quick=True).splitlines()[2:]
    assert [row.count(" bytes") for row in rows] == [2, 2]


def test_a_missed_target_is_shown_in_bold() -> None:
    assert ratios.Target(1.5).judge(1.2) == ("1.20", "≤ 1.5")
    assert ratios.Target(1.5).judge(1.6) == ("**1.60**", "≤ 1.5")
    assert ratios.Target(0.9, at_least=True).judge(0.8) == ("**0.80**", "≥ 0.9")


def test_a_table_is_markdown() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
