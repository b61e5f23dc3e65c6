"""The contract of changing a session: merging and removing metadata, conditions, and what is left alone."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from sessions.errors import InvalidInputError, MessageConflictError
from sessions.models import NewMessage
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import METADATA, OTHER, USER, same_json

__all__ = ["UpdatingContract"]

ODD_KEYS = [
    "",
    "$set",
    "$",
    "a.b",
    ".",
    "..",
    "a.",
    "_id",
    "0",
    "\xe9",
    "e\u0301",
    "k" * 300,
    "'\"\\%_",
    "$a.b",
]


async def _metadata(chats: Caller, session_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await chats.get_session(USER, session_id)).metadata
    return found


class UpdatingContract(RepositoryContract):
    """Changes of a session."""

    async def test_merging_replaces_top_level_keys_and_keeps_the_others(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"metadata": {"kept": [1], "deep": {"a": 1, "b": 2}}})
        assert await chats.update_session(USER, session_id, merge_metadata={"new": 1, "deep": {"c": 3}})
        assert await _metadata(chats, session_id) == {"kept": [1], "deep": {"c": 3}, "new": 1}
        # Null is a value, and removes nothing.
        assert await chats.update_session(USER, session_id, merge_metadata={"kept": None})
        assert await _metadata(chats, session_id) == {"kept": None, "deep": {"c": 3}, "new": 1}
        assert (await chats.get_session(USER, session_id)).title == "New Chat"

    async def test_removing_takes_the_named_top_level_keys_only(self, chats: Caller) -> None:
        metadata = {"a": 1, "b": {"a": 1}, "c": None, "d": 4}
        session_id = await chats.create_session(USER, {"metadata": metadata})
        assert await chats.update_session(USER, session_id, remove_metadata=["a", "c", "absent", "a"])
        assert await _metadata(chats, session_id) == {"b": {"a": 1}, "d": 4}
        assert await chats.update_session(
            USER, session_id, {"title": "T"}, merge_metadata={"e": 5}, remove_metadata=("b",)
        )
        assert await _metadata(chats, session_id) == {"d": 4, "e": 5}
        assert (await chats.get_session(USER, session_id)).title == "T"

    async def test_what_replaces_the_metadata_is_merged_and_removed_from_too(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"metadata": {"old": 1}})
        replaced = {"metadata": {"a": 1, "b": 2, "c": 3}}
        assert await chats.update_session(
            USER, session_id, replaced, merge_metadata={"a": 10, "d": 4}, remove_metadata=["b", "old"]
        )
        assert await _metadata(chats, session_id) == {"a": 10, "c": 3, "d": 4}

    async def test_any_key_may_be_merged_and_removed(self, chats: Caller) -> None:
        every = {key: key for key in ODD_KEYS}
        session_id = await chats.create_session(USER, {"metadata": {"a": {"b": 1}, "kept": 1}})
        for key in ODD_KEYS:
            assert await chats.update_session(USER, session_id, merge_metadata={key: key})
        assert await _metadata(chats, session_id) == {"a": {"b": 1}, "kept": 1} | every
        for key in ODD_KEYS:
            assert await chats.update_session(USER, session_id, remove_metadata=[key])
            every.pop(key)
            assert await _metadata(chats, session_id) == {"a": {"b": 1}, "kept": 1} | every
        assert await chats.update_session(USER, session_id, merge_metadata=dict.fromkeys(ODD_KEYS, 1))
        assert await chats.update_session(USER, session_id, remove_metadata=iter(ODD_KEYS))
        assert await _metadata(chats, session_id) == {"a": {"b": 1}, "kept": 1}

    async def test_merged_values_come_back_equal(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        expected: dict[str, Any] = {}
        for name, metadata in METADATA.items():
            # One level more would be too deep for one of them.
            change = metadata if name == "deep" else {f"in {name}": metadata} | metadata
            expected |= change
            assert await chats.update_session(USER, session_id, merge_metadata=change)
        if not same_json(expected, await _metadata(chats, session_id)):
            pytest.fail("merged metadata came back changed")

    async def test_a_key_cannot_be_merged_and_removed_at_once(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        with pytest.raises(InvalidInputError):
            await chats.update_session(USER, session_id, merge_metadata={"a": 1}, remove_metadata=["a"])
        assert await _metadata(chats, session_id) == {}

    async def test_concurrent_merges_of_different_keys_are_all_kept(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"metadata": {"first": 0}})
        merges = [chats.update_session(USER, session_id, merge_metadata={str(n): n}) for n in range(10)]
        removal = chats.update_session(USER, session_id, remove_metadata=["first"])
        appends = [
            chats.add_messages(session_id, [("user", "Hi")], merge_metadata={f"with {n}": n})
            for n in range(5)
        ]
        assert (await asyncio.gather(*merges, removal, *appends))[:11] == [True] * 11
        expected = {str(n): n for n in range(10)} | {f"with {n}": n for n in range(5)}
        assert await _metadata(chats, session_id) == expected
        assert (await chats.get_session(USER, session_id)).version == 16

    async def test_without_touch_updated_at_and_the_place_in_the_list_stay(self, chats: Caller) -> None:
        ids = [await chats.create_session(USER, None)]
        await self.tick()
        ids.append(await chats.create_session(USER, None))
        changes: list[Any] = [
            {"data": {"title": "New"}},
            {"merge_metadata": {"pinned": True}},
            {"remove_metadata": ["pinned"]},
        ]
        for change in changes:
            async with self.changing(chats, ids[0], touching=False):
                assert await chats.update_session(USER, ids[0], touch=False, **change) is True
        assert [item.session_id for item in (await chats.list_sessions(USER)).sessions] == ids[::-1]
        async with self.changing(chats, ids[0]):
            assert await chats.update_session(USER, ids[0], {"title": "Newer"}, touch=True) is True
        assert [item.session_id for item in (await chats.list_sessions(USER)).sessions] == ids

    async def test_an_update_may_depend_on_the_title(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"metadata": {"a": 1}})
        change = {"title": "Generated", "metadata": {"b": 2}}
        for other in ("new chat", "New Chat ", "Generated"):
            async with self.changing(chats, session_id, by=0):
                assert await chats.update_session(USER, session_id, change, if_title=other) is False
        async with self.changing(chats, session_id):
            assert await chats.update_session(USER, session_id, change, if_title="New Chat") is True
        assert await chats.update_session(USER, session_id, {"title": "Late"}, if_title="New Chat") is False
        found = await chats.get_session(USER, session_id)
        assert (found.title, found.metadata) == ("Generated", {"b": 2})
        # Also where nothing changes.
        assert await chats.update_session(USER, session_id, if_title="Generated") is True

    async def test_one_of_concurrent_updates_that_depend_on_the_title_succeeds(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        updates = [
            chats.update_session(USER, session_id, {"title": f"Title {n}"}, if_title="New Chat")
            for n in range(10)
        ]
        outcomes = await asyncio.gather(*updates)
        assert sorted(outcomes) == [False] * 9 + [True]
        assert (await chats.get_session(USER, session_id)).title == f"Title {outcomes.index(True)}"

    async def test_no_change_reaches_an_absent_or_a_foreign_session(self, chats: Caller) -> None:
        theirs = await chats.create_session(OTHER, {"metadata": {"a": 1}})
        before = await chats.get_session(OTHER, theirs)
        for target in (theirs, str(uuid.uuid4())):
            for change in (
                {"merge_metadata": {"b": 1}},
                {"remove_metadata": ["a"]},
                {"data": {"title": "Mine"}, "if_title": "New Chat"},
                {"touch": False},
                {},
            ):
                assert await chats.update_session(USER, target, **change) is False
        assert await chats.get_session(OTHER, theirs) == before

    async def test_messages_and_metadata_are_stored_together(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"title": "Kept", "metadata": {"a": {"b": 1}, "c": 1}})
        message = NewMessage("tool", "result", message_id=str(uuid.uuid4()))
        merge: dict[str, Any] = {"a": {"$d": 2}, "e.f": None}
        async with self.changing(chats, session_id):
            await chats.add_messages(session_id, [message, ("user", "Hi")], merge_metadata=merge)
        found = await chats.get_session(USER, session_id)
        assert (found.title, found.metadata) == ("Kept", {"a": {"$d": 2}, "c": 1, "e.f": None})
        # With no message it only merges; a batch that is stored already changes nothing.
        async with self.changing(chats, session_id):
            assert await chats.add_messages(session_id, [], merge_metadata={"g": 1}) == []
        async with self.changing(chats, session_id, by=0):
            await chats.add_messages(session_id, [message], merge_metadata={"late": 1})
        taken = NewMessage("user", "other", message_id=message.message_id)
        async with self.changing(chats, session_id, by=0):
            with pytest.raises(MessageConflictError):
                await chats.add_messages(session_id, [("user", "x"), taken], merge_metadata={"late": 1})
        assert await _metadata(chats, session_id) == {"a": {"$d": 2}, "c": 1, "e.f": None, "g": 1}
        assert await chats.count_messages(USER, session_id) == 2
