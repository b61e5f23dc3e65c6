"""Versions and metadata on each kind of MongoDB server."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from sessions import MessageConflictError, NewMessage, VersionConflictError
from tests.mongodb.stored import USER, contents, version

# --- versions ---------------------------------------------------------------------------------------


async def test_of_concurrent_appends_that_expect_a_version_one_is_stored(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    for expected in range(3):
        results = await asyncio.gather(
            *[
                repository.add_messages(
                    session_id, [("user", f"{n}"), ("tool", f"{n}")], expected_version=expected
                )
                for n in range(8)
            ],
            return_exceptions=True,
        )
        stored = [result for result in results if isinstance(result, list)]
        assert len(stored) == 1
        assert [type(one) for one in results if one not in stored] == [VersionConflictError] * 7
        assert await version(repository, session_id) == expected + 1
    assert raw.chat_messages.count_documents({}) == 6
    assert raw.chat_messages.count_documents({"batch": {"$exists": True}}) == 0
    assert raw.chat_unfinished.count_documents({}) == 0


async def test_no_reader_sees_what_a_version_conflict_takes_back(repository: Any) -> None:
    session_id = await repository.create_session_async(USER)
    seen: set[str] = set()
    ended = False

    async def read() -> None:
        while not ended:
            seen.update(await contents(repository, session_id))
            preview = (await repository.list_session_previews(USER)).previews[0].last_message
            seen.update([preview.content] if preview else [])
            await asyncio.sleep(0)

    async def write(number: int) -> list[str]:
        stored = []
        for turn in range(6):
            content = f"{number} {turn}"
            expected = await version(repository, session_id)
            try:
                await repository.add_message(session_id, "user", content, expected_version=expected)
            except VersionConflictError:
                continue
            stored.append(content)
        return stored

    readers = [asyncio.create_task(read()) for _ in range(2)]
    stored = [one for part in await asyncio.gather(*map(write, range(6))) for one in part]
    ended = True
    await asyncio.gather(*readers)

    assert 6 <= len(stored) < 36
    assert seen <= set(stored)
    assert sorted(await contents(repository, session_id)) == sorted(stored)
    assert await version(repository, session_id) == len(stored)


async def test_a_merge_and_its_messages_are_visible_together(repository: Any) -> None:
    session_id = await repository.create_session_async(USER, {"metadata": {"number": 0}})
    ended = False

    async def read() -> int:
        reads = 0
        while not ended:
            number = (await repository.get_session(USER, session_id)).metadata["number"]
            history = await contents(repository, session_id)
            after = (await repository.get_session(USER, session_id)).metadata["number"]
            assert number <= len(history) <= after
            reads += 1
        return reads

    reader = asyncio.create_task(read())
    for number in range(1, 20):
        await repository.add_messages(session_id, [("user", f"{number}")], merge_metadata={"number": number})
    ended = True
    assert await reader > 0


async def test_the_same_call_sent_twice_at_the_same_time_stores_its_messages_once(
    repository: Any, raw: Any
) -> None:
    for _ in range(10):
        session_id = await repository.create_session_async(USER)
        messages = [NewMessage("user", f"{n}", message_id=str(uuid.uuid4())) for n in range(3)]
        ids = [message.message_id for message in messages]
        results = await asyncio.gather(
            *[repository.add_messages(session_id, messages, expected_version=0) for _ in range(4)]
        )
        assert results == [ids] * 4
        assert await contents(repository, session_id) == ["0", "1", "2"]
        assert await version(repository, session_id) == 1
    assert raw.chat_messages.count_documents({}) == 30


async def test_a_partial_repetition_under_an_old_version_stores_nothing(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    await repository.add_message(session_id, "user", "1", message_id=first)
    both = [NewMessage("user", "1", message_id=first), NewMessage("user", "2", message_id=second)]
    with pytest.raises(VersionConflictError):
        await repository.add_messages(session_id, both, expected_version=0)
    assert raw.chat_messages.count_documents({}) == 1
    await repository.add_messages(session_id, both, expected_version=1)
    assert await contents(repository, session_id) == ["1", "2"]
    with pytest.raises(MessageConflictError):
        await repository.add_message(session_id, "user", "other", message_id=first, expected_version=2)
    assert await version(repository, session_id) == 2


@pytest.mark.parametrize("number", [1, 64, 65, 6000])
async def test_a_repeated_append_changes_neither_version_nor_time(repository: Any, number: int) -> None:
    session_id = await repository.create_session_async(USER)
    messages = [NewMessage("user", f"{n}", message_id=str(uuid.uuid4())) for n in range(number)]
    await repository.add_messages(session_id, messages)
    before = await repository.get_session(USER, session_id)
    assert before.version == 1
    await repository.add_messages(session_id, messages)
    await repository.add_messages(session_id, messages[:1], merge_metadata={"not": "merged"})
    await repository.add_messages(session_id, [])
    assert await repository.get_session(USER, session_id) == before
    assert await contents(repository, session_id) == [f"{n}" for n in range(number)]


# --- metadata ---------------------------------------------------------------------------------------


HOSTILE = ["$set", "a.b", ".", "$", "", "$a.b", "_id", "$ref", "$id", "$db", "$$ROOT"]


async def test_keys_of_any_characters_are_merged_removed_and_found(repository: Any) -> None:
    session_id = await repository.create_session_async(USER, {"metadata": {"kept": 1}})
    await repository.create_session_async(USER, {"metadata": {"kept": 1}})
    merged = {key: f"$${number}" for number, key in enumerate(HOSTILE)} | {"$db": None}
    assert await repository.update_session_async(USER, session_id, merge_metadata=merged)
    assert (await repository.get_session(USER, session_id)).metadata == {"kept": 1} | merged
    for key, value in merged.items():
        assert await repository.count_sessions(USER, where={key: value}) == (2 if value is None else 1)
        page = await repository.list_sessions(USER, where={key: [value, "another"]})
        assert session_id in [one.session_id for one in page.sessions]
    assert await repository.count_sessions(USER, where={**merged, "kept": 1}) == 1
    for _ in range(2):
        assert await repository.update_session_async(USER, session_id, remove_metadata=HOSTILE)
        assert (await repository.get_session(USER, session_id)).metadata == {"kept": 1}
        assert await version(repository, session_id) == 2


async def test_a_value_is_compared_as_a_whole_and_by_type(repository: Any) -> None:
    values = [1, 1.0, True, [1], "1", None, {"a": 1}, 2**53 + 1, False, 0]
    for value in values:
        await repository.create_session_async(USER, {"metadata": {"k": value}})
    await repository.create_session_async(USER)
    found = {value: await repository.count_sessions(USER, where={"k": value}) for value in ("1", 2**53 + 1)}
    assert found == {"1": 1, 2**53 + 1: 1}
    assert await repository.count_sessions(USER, where={"k": 1}) == 2
    assert await repository.count_sessions(USER, where={"k": True}) == 1
    assert await repository.count_sessions(USER, where={"k": False}) == 1
    assert await repository.count_sessions(USER, where={"k": float(2**53)}) == 0
    assert await repository.count_sessions(USER, where={"k": None}) == 2
    assert await repository.count_sessions(USER, where={"k": []}) == 0
    assert await repository.delete_sessions_older_than(datetime.now(UTC), user_id=USER, where={"k": 1}) == 2


async def test_the_largest_metadata_are_replaced_and_compared(repository: Any) -> None:
    session_id = await repository.create_session_async(USER)
    large = {"k": "x" * (16 * 1024 * 1024 - 10 * 1024)}
    for _ in range(2):
        assert await repository.update_session_async(USER, session_id, {"metadata": large})
        assert await version(repository, session_id) == 1
    assert (await repository.get_session(USER, session_id)).metadata == large
