"""Two processes that change one conversation of LlamaIndex at the same time."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store.base_db import MessageStatus

from sessions.integrations.llama_index import ChatStore
from tests.integrations.racing import ROUNDS, Race, keeps_batches_together
from tests.support.databases import Backend

COUNT = 4


def messages_of(name: str, count: int = COUNT) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=f"{name} {number}") for number in range(count)]


def texts(messages: list[ChatMessage]) -> list[str]:
    return [str(each.content) for each in messages]


async def add(repository: Any, number: int, name: str) -> None:
    store = ChatStore(repository, user_id="alice")
    await store.add_messages(str(number), messages_of(name, 2))
    await store.add_message(str(number), ChatMessage(role="user", content=f"{name} 2"))


async def add_and_archive(repository: Any, number: int, name: str) -> list[str]:
    store, archived = ChatStore(repository, user_id="alice"), []
    for message in messages_of(name):
        await store.add_message(str(number), message)
        archived += await store.archive_oldest_messages(str(number), 2 * COUNT)
    return texts(archived)


async def replace(repository: Any, number: int, name: str) -> None:
    await ChatStore(repository, user_id="alice").set_messages(str(number), messages_of(name))


async def replace_or_add(repository: Any, number: int, name: str) -> None:
    if name == "replaces":
        await replace(repository, number, "new")
    else:
        for each in messages_of("added"):
            await ChatStore(repository, user_id="alice").add_message(str(number), each)


async def take(repository: Any, number: int, operation: str) -> list[str]:
    store = ChatStore(repository, user_id="alice")
    taken: list[str] = []
    while True:
        if operation == "delete_message":
            one = await store.delete_message(str(number), 0)
            found = [] if one is None else [one]
        else:
            found = await getattr(store, operation)(str(number), 2)
        if not found:
            return taken
        taken += texts(found)


@ROUNDS
async def test_both_create_the_conversation_and_no_message_is_lost(
    backend: Backend, race: Race, rounds: int
) -> None:
    race.run(backend, f"{__name__}:add", {"name": "a"}, {"name": "b"}, times=rounds)
    async with backend.repository() as repository:
        store = ChatStore(repository, user_id="alice")
        assert sorted(await store.get_keys()) == sorted(map(str, range(rounds)))
        for number in range(rounds):
            found = texts(await store.get_messages(str(number)))
            for name in "ab":
                assert [each for each in found if each.startswith(name)] == texts(messages_of(name, 3))
                if keeps_batches_together(backend):
                    assert found[found.index(f"{name} 0") + 1] == f"{name} 1"


@pytest.mark.parametrize("rounds", [3, pytest.param(20, marks=pytest.mark.full_size)])
async def test_no_message_is_archived_unless_it_is_returned(
    backend: Backend, race: Race, rounds: int
) -> None:
    results = race.run(backend, f"{__name__}:add_and_archive", {"name": "a"}, {"name": "b"}, times=rounds)
    async with backend.repository() as repository:
        store = ChatStore(repository, user_id="alice")
        for number, archived in enumerate(results):
            found = texts(await store.get_messages(str(number), MessageStatus.ARCHIVED))
            assert sorted(found) == sorted(chain(*archived))
            found += texts(await store.get_messages(str(number)))
            assert sorted(found) == sorted(texts(messages_of("a") + messages_of("b")))


@ROUNDS
async def test_of_two_that_set_all_messages_one_wins(backend: Backend, race: Race, rounds: int) -> None:
    race.run(backend, f"{__name__}:replace", {"name": "a"}, {"name": "b"}, times=rounds)
    async with backend.repository() as repository:
        store = ChatStore(repository, user_id="alice")
        for number in range(rounds):
            found = texts(await store.get_messages(str(number)))
            assert found in (texts(messages_of("a")), texts(messages_of("b")))


@ROUNDS
async def test_what_is_added_meanwhile_follows_the_messages_that_are_set(
    backend: Backend, race: Race, rounds: int
) -> None:
    new, added = texts(messages_of("new")), texts(messages_of("added"))
    async with backend.repository() as repository:
        store = ChatStore(repository, user_id="alice")
        for number in range(rounds):
            await store.add_messages(str(number), messages_of("old"))
        jobs = [{"name": "replaces"}, {"name": "adds"}]
        race.run(backend, f"{__name__}:replace_or_add", *jobs, times=rounds)
        for number in range(rounds):
            found = texts(await store.get_messages(str(number)))
            assert found in [new + added[count:] for count in range(len(added) + 1)]


@ROUNDS
@pytest.mark.parametrize("operations", ["archive", "delete", "both", "one"])
async def test_no_two_get_the_same_message(
    backend: Backend, race: Race, rounds: int, operations: str
) -> None:
    archive, delete = "archive_oldest_messages", "delete_oldest_messages"
    names = {
        "archive": (archive, archive),
        "delete": (delete, delete),
        "both": (archive, delete),
        "one": ("delete_message", "delete_message"),
    }[operations]
    async with backend.repository() as repository:
        store = ChatStore(repository, user_id="alice")
        for number in range(rounds):
            await store.add_messages(str(number), messages_of("a"))
        jobs = [{"operation": name} for name in names]
        results = race.run(backend, f"{__name__}:take", *jobs, times=rounds)
        for number, taken in enumerate(results):
            assert sorted(chain(*taken)) == texts(messages_of("a"))
            for each in taken:
                assert each == sorted(each)
            assert await store.get_messages(str(number)) == []
            archived = texts(await store.get_messages(str(number), MessageStatus.ARCHIVED))
            assert archived == sorted(chain(*(taken[i] for i in (0, 1) if names[i] == archive)))
