"""Edits of messages: whole for concurrent readers, one after the other, and of documents of any writer."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure

from sessions import (
    ChatMessage,
    InvalidInputError,
    MessageConflictError,
    NewMessage,
    SessionRepositoryFactory,
    VersionConflictError,
)
from sessions.backends.mongodb import edits
from sessions.core.identifiers import new_message_id
from tests.mongodb.test_former_release import message_of_release, session_of_release
from tests.support.databases import mongodb_client

USER = "alice"


@pytest.fixture
async def repository(url: str) -> AsyncIterator[Any]:
    async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repository:
        await repository.ensure_ready()
        yield repository


@pytest.fixture
async def other(url: str) -> AsyncIterator[Any]:
    """A repository with a client and a cache of its own, as in another process."""
    other_url = f"{url}{'&' if '?' in url else '?'}appName=other"
    async with SessionRepositoryFactory.create_repository("mongodb", url=other_url) as repository:
        yield repository


def version_of(raw: Any, session_id: str) -> int:
    return int(raw.chat_sessions.find_one({"session_id": session_id}).get("version") or 0)


async def contents_of(repository: Any, session_id: str) -> list[str]:
    history: list[ChatMessage] = await repository.get_session_history(USER, session_id)
    assert await repository.count_messages(USER, session_id) == len(history)
    return [message.content for message in history]


def assert_no_marks(raw: Any) -> None:
    marked = {"$or": [{name: {"$exists": True}} for name in ("batch", "dropped_by", "revises")]}
    assert raw.chat_messages.count_documents(marked) == 0
    assert raw.chat_sessions.count_documents({"edit.open": True}) == 0
    assert raw.chat_unfinished.count_documents({}) == 0


# -- Appends that are under way --------------------------------------------------------------------


@pytest.mark.parametrize("clears", [False, True], ids=["replace", "clear"])
async def test_a_change_of_a_version_drops_no_message_whose_append_is_under_way(
    repository: Any, raw: Any, clears: bool
) -> None:
    async def change(version: int) -> None:
        if clears:
            await repository.clear_messages(USER, session_id, expected_version=version)
        else:
            new = [("user", "summary")]
            await repository.replace_messages(USER, session_id, new, expected_version=version)

    session_id = await repository.create_session_async(USER, messages=[("user", "old")])
    await asyncio.sleep(0.002)
    # The message is stored, its session is not updated yet.
    old, new_id = raw.chat_messages.find_one({"session_id": session_id}), new_message_id()
    new = {"_id": new_id, "message_id": new_id, "content": "new", "write_order": time.time_ns() // 1000}
    raw.chat_messages.insert_one(old | new)
    with pytest.raises(VersionConflictError):
        await change(0)
    assert await contents_of(repository, session_id) == ["old", "new"]
    # Also if its process was killed: nobody has to wait for it.
    assert version_of(raw, session_id) == 1
    await change(1)
    assert await contents_of(repository, session_id) == ([] if clears else ["summary"])


# -- Readers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [False, True], ids=["new ids", "the same ids"])
async def test_readers_see_a_replacement_whole(repository: Any, other: Any, raw: Any, reuse: bool) -> None:
    session_id = await repository.create_session_async(USER)
    ids = [new_message_id() for _ in range(150)]

    def generation(number: int) -> list[NewMessage]:
        return [
            NewMessage("user", f"{number} {place}", message_id=ids[place] if reuse else None)
            for place in range(150)
        ]

    await repository.replace_messages(USER, session_id, generation(0))
    ended = asyncio.Event()

    async def replace() -> None:
        for number in range(1, 8):
            await repository.replace_messages(USER, session_id, generation(number))
        ended.set()

    async def read(reader: Any) -> int:
        last = 0
        for part in itertools.cycle([{}, {"limit": 150}, {"limit": 40}]):
            is_last = ended.is_set()
            found = await reader.get_session_history(USER, session_id, **part)
            number = int(found[0].content.split()[0])
            places = range(150)[-len(found) :]
            assert [message.content for message in found] == [f"{number} {place}" for place in places]
            assert len(found) == part.get("limit", 150)
            assert number >= last
            last = number
            if is_last:
                break
        return last

    _, *seen = await asyncio.gather(replace(), read(repository), read(other), read(other))
    assert seen == [7, 7, 7]
    assert await repository.count_messages(USER, session_id) == 150
    assert_no_marks(raw)


async def test_readers_see_all_of_the_deleted_messages_or_none(repository: Any, other: Any, raw: Any) -> None:
    for _ in range(3):
        session_id = await repository.create_session_async(USER)
        ids = await repository.add_messages(session_id, [("user", str(place)) for place in range(400)])
        sizes: list[int] = []

        async def read(session_id: str = session_id, sizes: list[int] = sizes) -> None:
            while not sizes or sizes[-1] == 400:
                sizes.append(len(await other.get_session_history(USER, session_id)))

        deleted, _ = await asyncio.gather(repository.delete_messages_from(USER, session_id, ids[100]), read())
        assert deleted == 300
        assert set(sizes) <= {100, 400}
    assert_no_marks(raw)


async def test_a_cache_of_before_an_edit_of_another_process_is_noticed(repository: Any, other: Any) -> None:
    session_id = await repository.create_session_async(USER)
    await repository.add_messages(session_id, [("user", "1"), ("user", "2")])
    assert await contents_of(other, session_id) == ["1", "2"]
    await repository.clear_messages(USER, session_id)
    assert await contents_of(other, session_id) == []
    await other.add_message(session_id, "user", "3")
    assert await contents_of(repository, session_id) == ["3"]


# -- Concurrent edits ------------------------------------------------------------------------------


async def test_each_message_is_popped_once_by_two_processes(repository: Any, other: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    ids = await repository.add_messages(session_id, [("user", str(place)) for place in range(24)])

    async def pop_all(popper: Any) -> list[str]:
        found = []
        while (message := await popper.pop_message(USER, session_id)) is not None:
            found.append(message.message_id)
        return found

    popped = await asyncio.gather(*(pop_all(popper) for popper in (repository, other) * 3))
    assert sorted(itertools.chain(*popped)) == sorted(ids)
    for part in popped:
        assert part == sorted(part, reverse=True)
    assert version_of(raw, session_id) >= 24
    assert_no_marks(raw)


async def test_concurrent_merges_of_one_message_keep_all_keys(repository: Any, other: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    message_id = await repository.add_message(session_id, "user", "Hello")
    before = version_of(raw, session_id)
    await asyncio.gather(
        *(
            writer.update_message(USER, session_id, message_id, merge_metadata={f"key.{key}": {"$k": key}})
            for key, writer in enumerate([repository, other] * 5)
        )
    )
    stored = raw.chat_messages.find_one({"message_id": message_id})
    assert stored["metadata"] == {f"key.{key}": {"$k": key} for key in range(10)}
    assert version_of(raw, session_id) == before + 10
    assert_no_marks(raw)


async def test_of_concurrent_writers_that_expect_a_version_one_succeeds(
    repository: Any, other: Any, raw: Any
) -> None:
    session_id = await repository.create_session_async(USER)
    await repository.add_messages(session_id, [("user", "1"), ("user", "2")])
    version = version_of(raw, session_id)
    done = await asyncio.gather(
        *(
            writer.replace_messages(USER, session_id, [("user", str(number))], expected_version=version)
            for number, writer in enumerate([repository, other] * 4)
        ),
        return_exceptions=True,
    )
    winners = [number for number, result in enumerate(done) if isinstance(result, list)]
    assert len(winners) == 1
    assert all(isinstance(result, list | VersionConflictError) for result in done)
    assert await contents_of(repository, session_id) == [str(winners[0])]
    assert version_of(raw, session_id) == version + 1
    with pytest.raises(VersionConflictError):
        await repository.clear_messages(USER, session_id, expected_version=version)
    assert await repository.clear_messages(USER, session_id, expected_version=version + 1) == 1
    assert_no_marks(raw)


async def test_a_message_appended_during_a_clear_is_lost_only_before_it_returns(
    repository: Any, other: Any
) -> None:
    """An append that returns after the clear is in the history; the number of deleted ones is exact."""
    session_id = await repository.create_session_async(USER)
    await repository.add_messages(session_id, [("user", str(place)) for place in range(100)])

    async def append() -> int:
        for number in range(40):
            await other.add_message(session_id, "user", f"late {number}")
        return 40

    cleared, late = await asyncio.gather(repository.clear_messages(USER, session_id), append())
    left = await contents_of(repository, session_id)
    assert left == [f"late {number}" for number in range(late)][-len(left) :]
    assert cleared + len(left) == 100 + late


async def test_an_edit_whose_transactions_all_conflict_is_made_in_steps(
    repository: Any, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await repository.create_session_async(USER)
    ids = await repository.add_messages(session_id, [("user", str(place)) for place in range(5)])

    async def conflict(*_: Any) -> Any:
        raise OperationFailure("conflict", 112, {"errorLabels": ["TransientTransactionError"]})

    monkeypatch.setattr(edits, "in_transaction", conflict)
    assert await repository.delete_messages(USER, session_id, ids[:2]) == 2
    monkeypatch.undo()
    assert await repository.update_message(USER, session_id, ids[2], content="two")
    assert await contents_of(repository, session_id) == ["two", "3", "4"]
    assert_no_marks(raw)


# -- Nothing changes -------------------------------------------------------------------------------


async def test_what_changes_nothing_writes_nothing(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    message_id = await repository.add_message(session_id, "user", "Hello")
    metadata = {"flag": True, "ref": {"$ref": "a", "$id": 1}, "list": [1, 2.5, None], "key.$": "x"}
    assert await repository.update_message(USER, session_id, message_id, metadata=metadata)
    before = raw.chat_sessions.find_one({"session_id": session_id})

    same = {"content": "Hello", "metadata": metadata, "payload": None}
    assert await repository.update_message(USER, session_id, message_id, **same)
    assert await repository.update_message(USER, session_id, message_id, merge_metadata={"flag": True})
    assert await repository.delete_messages(USER, session_id, ["absent"]) == 0
    assert await repository.delete_messages_from(USER, session_id, message_id, inclusive=False) == 0
    assert not await repository.update_message(USER, session_id, "absent", content="x")
    assert not await repository.update_message("bob", session_id, message_id, content="x")
    assert await repository.clear_messages("bob", session_id) == 0
    assert await repository.pop_message("bob", session_id) is None
    with pytest.raises(InvalidInputError, match="message_id"):
        await repository.delete_messages_from(USER, session_id, "absent")
    assert await repository.delete_messages_from("bob", session_id, "absent") == 0
    assert raw.chat_sessions.find_one({"session_id": session_id}) == before

    # True is not 1.
    assert await repository.update_message(USER, session_id, message_id, merge_metadata={"flag": 1})
    assert version_of(raw, session_id) == (before.get("version") or 0) + 1


async def test_an_id_of_another_session_changes_nothing(repository: Any, raw: Any) -> None:
    session_id, another = [await repository.create_session_async(USER) for _ in range(2)]
    taken = await repository.add_message(another, "user", "of another")
    await repository.add_messages(session_id, [("user", "1"), ("user", "2")])
    before = raw.chat_sessions.find_one({"session_id": session_id})
    with pytest.raises(MessageConflictError):
        await repository.replace_messages(
            USER, session_id, [("user", "new"), NewMessage("user", "mine", message_id=taken)]
        )
    assert await contents_of(repository, session_id) == ["1", "2"]
    assert await contents_of(repository, another) == ["of another"]
    assert raw.chat_sessions.find_one({"session_id": session_id}) == before
    assert_no_marks(raw)


# -- Documents of other writers --------------------------------------------------------------------


async def test_messages_of_any_writer_are_edited(repository: Any, raw: Any) -> None:
    """Of release 0.1, of other programs, and of the end of a large batch."""
    session = session_of_release(str(uuid.uuid4()), USER)
    session_id = session["session_id"]
    raw.chat_sessions.insert_one(session)
    ids = [new_message_id() for _ in range(4)]
    documents = [message_of_release(session, one, f"old {place}") for place, one in enumerate(ids)]
    documents[1]["_id"] = ObjectId()
    raw.chat_messages.insert_many(documents)

    assert await repository.count_messages(USER, session_id) == 4
    assert (await repository.get_message(USER, session_id, ids[1])).content == "old 1"
    assert await repository.update_message(USER, session_id, ids[0], content="new 0")
    assert await repository.update_message(USER, session_id, ids[1], content="new 1")
    assert await repository.delete_messages(USER, session_id, [ids[2]]) == 1
    assert await contents_of(repository, session_id) == ["new 0", "new 1", "old 3"]
    assert [one["_id"] for one in raw.chat_messages.find(sort=[("message_id", 1)])][1] == documents[1]["_id"]
    assert version_of(raw, session_id) == 3

    rows = [NewMessage("user", f"again {at}", message_id=ids[at]) for at in (0, 1)]
    await repository.replace_messages(USER, session_id, rows)
    assert sorted(await contents_of(repository, session_id)) == ["again 0", "again 1"]
    assert raw.chat_messages.count_documents({}) == 2
    assert_no_marks(raw)


async def test_a_large_batch_stays_visible_when_its_last_message_goes(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    ids = await repository.add_messages(session_id, [("user", str(place)) for place in range(100)])
    # As a server without transactions stores it.
    raw.chat_messages.update_many({"session_id": session_id}, {"$set": {"batch": ids[-1]}})
    assert (await repository.pop_message(USER, session_id)).message_id == ids[-1]
    assert await contents_of(repository, session_id) == [str(place) for place in range(99)]
    assert_no_marks(raw)


async def test_orphaned_messages_do_not_stand_in_the_way_of_a_replacement(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    message_id = await repository.add_message(session_id, "user", "own")
    left = [new_message_id() for _ in range(2)]
    marks = ({"session_oid": ObjectId()}, {"batch": ObjectId()})
    stored = raw.chat_messages.find_one({"_id": message_id})
    raw.chat_messages.insert_many(
        [stored | {"_id": one, "message_id": one} | mark for one, mark in zip(left, marks, strict=True)]
    )
    rows = [NewMessage("user", "new", message_id=one) for one in left]
    assert await repository.replace_messages(USER, session_id, rows) == left
    assert await contents_of(repository, session_id) == ["new", "new"]
    assert raw.chat_messages.count_documents({}) == 2


# -- Forks -----------------------------------------------------------------------------------------


async def test_a_fork_is_independent_of_its_source(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER, {"title": "source"})
    ids = await repository.add_messages(session_id, [("user", str(place)) for place in range(100)])
    await repository.update_message(USER, session_id, ids[1], content="one", metadata={"a": {"$b.c": 1}})
    source = await repository.get_session_history(USER, session_id)
    fork = await repository.fork_session(USER, session_id, through=ids[79], session_data={"title": "fork"})

    copies = await repository.get_session_history(USER, fork)
    assert [(m.role, m.content, m.timestamp, m.metadata, m.payload) for m in copies] == [
        (m.role, m.content, m.timestamp, m.metadata, m.payload) for m in source[:80]
    ]
    assert not {m.message_id for m in copies} & set(ids)
    await repository.add_message(fork, "user", "last")
    assert (await repository.get_session_history(USER, fork, limit=1))[0].content == "last"
    assert await repository.clear_messages(USER, session_id) == 100
    assert await repository.count_messages(USER, fork) == 81
    assert await repository.delete_session_async(USER, fork)
    assert raw.chat_messages.count_documents({}) == 0
    assert_no_marks(raw)


async def test_the_place_decides_among_the_copies_of_one_millisecond(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    ids = await repository.add_messages(session_id, [("user", str(place)) for place in range(5)])
    at = raw.chat_messages.find_one({"_id": ids[0]})["timestamp"]
    raw.chat_messages.update_many({}, {"$set": {"timestamp": at}})
    fork = await repository.fork_session(USER, session_id)
    assert await contents_of(repository, fork) == await contents_of(repository, session_id)
    orders = [one["write_order"] for one in raw.chat_messages.find({"session_id": fork}).sort("write_order")]
    assert orders == list(range(5))


# -- A caller's transaction ------------------------------------------------------------------------


async def test_edits_in_a_callers_transaction_take_effect_with_it(mongodb_url: str) -> None:
    async with (
        SessionRepositoryFactory.create_repository("mongodb", url=mongodb_url) as repository,
        mongodb_client(mongodb_url) as client,
    ):
        session_id = await repository.create_session_async(USER)
        ids = await repository.add_messages(session_id, [("user", str(place)) for place in range(6)])
        for commits in (False, True):
            starting = client.start_session()
            async with await starting if hasattr(starting, "__await__") else starting as client_session:
                begun = client_session.start_transaction()
                if hasattr(begun, "__await__"):
                    await begun
                own = repository.using(client_session)
                assert (await own.pop_message(USER, session_id)).content == "5"
                assert await own.update_message(USER, session_id, ids[0], content="zero")
                assert await own.delete_messages(USER, session_id, [ids[1]]) == 1
                assert await own.delete_messages_from(USER, session_id, ids[4]) == 1
                fork = await own.fork_session(USER, session_id)
                assert await contents_of(own, fork) == ["zero", "2", "3"]
                rows = [NewMessage("user", "two", message_id=ids[2]), NewMessage("user", "new")]
                await own.replace_messages(USER, session_id, rows)
                assert await contents_of(own, session_id) == ["two", "new"]
                assert await contents_of(repository, session_id) == [str(place) for place in range(6)]
                assert await repository.get_session(USER, fork) is None
                await (client_session.commit_transaction() if commits else client_session.abort_transaction())
        assert await contents_of(repository, session_id) == ["two", "new"]
        assert await contents_of(repository, fork) == ["zero", "2", "3"]
