"""Updates: versions, merged and removed metadata, conditions on the title; deletes under a version."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from sessions import AsyncChats, VersionConflictError

METADATA = {
    "text": "x",
    "number": 1,
    "flag": True,
    "null": None,
    "list": [1, {"a": None}],
    "object": {"a": 1},
}
KEYS = ['"', "\\", "a.b", "$", "$.x", "[0]", "", "'", "é", "\U0001f600", "key"]


async def state(chats: AsyncChats, session_id: str) -> tuple[str, dict[str, Any], int, datetime]:
    found = await chats.get_session("alice", session_id)
    assert found is not None
    return found.title, found.metadata, found.version, found.updated_at


async def test_version_and_time_change_with_a_value(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice", title="Old", metadata=METADATA)
    before = await state(chats, session_id)
    same: list[dict[str, Any]] = [
        {},
        {"title": "Old"},
        {"metadata": METADATA},
        {"metadata": dict(reversed(METADATA.items())), "title": "Old"},
        {"merge_metadata": {"number": 1, "object": {"a": 1}}},
        {"remove_metadata": ["absent"]},
        {"merge_metadata": {}, "if_title": "Old", "expected_version": 0},
    ]
    for changes in same:
        assert await chats.update_session("alice", session_id, **changes), changes
        assert await state(chats, session_id) == before, changes

    different: list[dict[str, Any]] = [
        {"title": "New"},
        {"title": "Old", "metadata": METADATA | {"number": True}},
        {"metadata": METADATA | {"number": 1.5}},
        {"merge_metadata": {"number": 1}},
        {"merge_metadata": {"object": {}}},
        {"remove_metadata": ["null"]},
    ]
    version, updated_at = before[2:]
    for changes in different:
        assert await chats.update_session("alice", session_id, **changes), changes
        title, _, new_version, new_updated_at = await state(chats, session_id)
        assert (new_version, new_updated_at > updated_at) == (version + 1, True), changes
        version, updated_at = new_version, new_updated_at
    assert title == "Old"


async def test_keys_are_merged_and_removed_whatever_they_look_like(chats: AsyncChats) -> None:
    values = [2**63 - 1, -(2**63), 1e300, 1.2345678901234568e18, 5e-324, 0.1, [], {}, "", None, False]
    merged = dict(zip(KEYS, values, strict=True))
    session_id = await chats.create_session("alice", metadata={"kept": 1})
    assert await chats.update_session("alice", session_id, merge_metadata=merged)
    _, metadata, _, _ = await state(chats, session_id)
    assert repr(sorted(metadata.items())) == repr(sorted((merged | {"kept": 1}).items()))
    assert await chats.update_session(
        "alice", session_id, merge_metadata={"key": 1}, remove_metadata=KEYS[:-1]
    )
    assert (await state(chats, session_id))[1] == {"kept": 1, "key": 1}


async def test_merges_of_different_keys_are_all_kept(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice", metadata={"first": True})
    numbers = range(10)
    await asyncio.gather(
        *(
            chats.update_session("alice", session_id, merge_metadata={f"key {number}": number})
            for number in numbers
        ),
        *(
            chats.add_messages(
                "alice", session_id, [("user", "x")], merge_metadata={f"with {number}": number}
            )
            for number in numbers
        ),
    )
    _, metadata, version, _ = await state(chats, session_id)
    expected = {f"{name} {number}": number for name in ("key", "with") for number in numbers}
    assert (metadata, version) == (expected | {"first": True}, 20)


@pytest.mark.parametrize("stored", ["[1]", "null", '"text"'])
async def test_an_old_row_that_holds_no_object_counts_as_empty(chats: AsyncChats, stored: str) -> None:
    session_id = await chats.create_session("alice")
    engine = await chats.repository._connection_manager.engine()
    async with engine.connect() as connection:
        await connection.execute(text(f"UPDATE chat_sessions SET metadata = '{stored}'"))
    assert (await state(chats, session_id))[1] == {}
    assert await chats.count_sessions("alice", where={"a": 1}) == 0
    assert await chats.count_sessions("alice", where={"a": None}) == 1
    assert await chats.update_session("alice", session_id, merge_metadata={"a": 1})
    assert (await state(chats, session_id))[1] == {"a": 1}


@pytest.mark.parametrize("changes", [{"title": "New"}, {"metadata": {"pinned": True}}])
async def test_without_touch_the_time_stays(chats: AsyncChats, changes: dict[str, Any]) -> None:
    session_id = await chats.create_session("alice")
    updated_at = (await state(chats, session_id))[3]
    assert await chats.update_session("alice", session_id, **changes, touch=False)
    assert (await state(chats, session_id))[2:] == (1, updated_at)


@pytest.mark.parametrize("changes", [{"title": "New"}, {"merge_metadata": {"named": True}}])
async def test_only_a_session_with_this_title_is_changed(chats: AsyncChats, changes: dict[str, Any]) -> None:
    session_id = await chats.create_session("alice", title="Mine")
    before = await state(chats, session_id)
    assert not await chats.update_session("alice", session_id, **changes, if_title="New Chat")
    assert not await chats.update_session("bob", session_id, **changes, if_title="Mine")
    assert await state(chats, session_id) == before
    assert not await chats.update_session(
        "alice", session_id, **changes, if_title="New Chat", expected_version=0
    )
    assert await chats.update_session("alice", session_id, **changes, if_title="Mine")
    assert (await state(chats, session_id))[2] == 1


@pytest.mark.parametrize("changes", [{"title": "New"}, {"merge_metadata": {"named": True}}, {}])
async def test_another_version_than_expected_is_a_conflict(
    chats: AsyncChats, changes: dict[str, Any]
) -> None:
    session_id = await chats.create_session("alice")
    await chats.update_session("alice", session_id, title="First")
    before = await state(chats, session_id)
    for title in (None, "First", "Other"):
        with pytest.raises(VersionConflictError):
            await chats.update_session("alice", session_id, **changes, expected_version=0, if_title=title)
    assert not await chats.update_session("bob", session_id, **changes, expected_version=0)
    assert await state(chats, session_id) == before
    assert await chats.update_session("alice", session_id, **changes, expected_version=1)


async def test_a_session_is_deleted_under_its_version_only(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    await chats.add_message("alice", session_id, "user", "Hello")
    with pytest.raises(VersionConflictError):
        await chats.delete_session("alice", session_id, expected_version=0)
    assert not await chats.delete_session("bob", session_id, expected_version=1)
    assert len(await chats.get_session_history("alice", session_id)) == 1
    assert await chats.delete_session("alice", session_id, expected_version=1)
    assert not await chats.delete_session("alice", session_id, expected_version=1)
