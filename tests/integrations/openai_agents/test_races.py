"""Sessions of the OpenAI Agents SDK that two processes use at the same time."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

from sessions.integrations.openai_agents import AgentSession
from tests.integrations.racing import ROUNDS, Race, keeps_batches_together
from tests.support.databases import Backend

ITEMS = 6


def opened(repository: Any, number: int) -> AgentSession:
    return AgentSession(f"trip {number}", repository=repository, user_id="alice")


def said(*texts: str) -> list[Any]:
    return [{"role": "user", "content": text} for text in texts]


async def append(repository: Any, *, number: int, name: str) -> None:
    for batch in range(2):
        await opened(repository, number).add_items(said(*(f"{name} {batch} {part}" for part in range(3))))


async def pop(repository: Any, *, number: int) -> list[str]:
    session = opened(repository, number)
    found = []
    while (item := await session.pop_item()) is not None:
        found.append(str(item.get("content")))
    return found


async def replace(repository: Any, *, number: int, name: str) -> list[list[str]]:
    session, seen = opened(repository, number), []
    for part in range(2):
        await session._atomic_replace_items(said(*(f"{name} {part}" for _ in range(3))))
        seen.append([str(item.get("content")) for item in await session.get_items()])
    return seen


async def compact_or_append(repository: Any, *, number: int, name: str) -> list[str]:
    """Replace what a snapshot has seen, and return it; or append."""
    session = opened(repository, number)
    if name == "appends":
        for part in range(3):
            await session.add_items(said(f"new {part}"))
        return []
    snapshot = await session._get_compaction_snapshot(1000)
    assert snapshot is not None
    is_replaced = await snapshot.replace_suffix(0, said("summary"))
    return [str(item.get("content")) for item in snapshot.items] if is_replaced else []


@ROUNDS
async def test_a_compaction_loses_nothing_that_is_appended_meanwhile(
    backend: Backend, repository: Any, race: Race, rounds: int
) -> None:
    for number in range(rounds):
        await opened(repository, number).add_items(said("old"))
    jobs = [{"name": "compacts"}, {"name": "appends"}]
    results = race.run(backend, f"{__name__}:compact_or_append", *jobs, times=rounds)
    for number, (compacted, _) in enumerate(results):
        everything = ["old", *(f"new {part}" for part in range(3))]
        assert compacted == everything[: len(compacted)]
        expected = ["summary", *everything[len(compacted) :]] if compacted else everything
        found = [item.get("content") for item in await opened(repository, number).get_items()]
        assert found == expected


@ROUNDS
async def test_appends_of_two_processes_to_a_new_session_are_all_kept(
    backend: Backend, repository: Any, race: Race, rounds: int
) -> None:
    race.run(backend, f"{__name__}:append", {"name": "one"}, {"name": "two"}, times=rounds)
    for number in range(rounds):
        contents = [str(item.get("content")) for item in await opened(repository, number).get_items()]
        for name in ("one", "two"):
            mine = [f"{name} {batch} {part}" for batch in range(2) for part in range(3)]
            assert [content for content in contents if content.startswith(name)] == mine
        assert len(contents) == 12
        if keeps_batches_together(backend):
            for start in range(0, 12, 3):
                assert len({content[:5] for content in contents[start : start + 3]}) == 1
    assert await repository.count_sessions("alice") == rounds


@ROUNDS
async def test_no_item_is_popped_by_two_processes(
    backend: Backend, repository: Any, race: Race, rounds: int
) -> None:
    texts = list(map(str, range(ITEMS)))
    for number in range(rounds):
        await opened(repository, number).add_items(said(*texts))
    for popped in race.run(backend, f"{__name__}:pop", {}, {}, times=rounds):
        assert Counter(chain.from_iterable(popped)) == Counter(texts)
        for each in popped:
            assert each == sorted(each, key=int, reverse=True)


@ROUNDS
async def test_replacements_of_two_processes_are_whole(
    backend: Backend, repository: Any, race: Race, rounds: int
) -> None:
    for results in race.run(backend, f"{__name__}:replace", {"name": "one"}, {"name": "two"}, times=rounds):
        for seen in chain.from_iterable(results):
            assert len(seen) == 3
            assert len(set(seen)) == 1
    for number in range(rounds):
        assert len(await opened(repository, number).get_items()) == 3
