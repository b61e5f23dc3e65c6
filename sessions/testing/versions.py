"""The contract of versions: each write that changes something raises it by one, and may expect one."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sessions.errors import SessionNotFoundError, VersionConflictError
from sessions.models import NewMessage
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import OTHER, USER

__all__ = ["VersionsContract"]

Write = Callable[..., Awaitable[Any]]

# Each on a session of the given owner with messages "one", "two" and "three", of which the middle one's id is
# given. Those that take `expected_version` get it among the options.
WITH_VERSION: dict[str, Write] = {
    "update the title": lambda c, u, s, m, **o: c.update_session(u, s, {"title": "New"}, **o),
    "update the metadata": lambda c, u, s, m, **o: c.update_session(u, s, {"metadata": {"b": 2}}, **o),
    "merge metadata": lambda c, u, s, m, **o: c.update_session(u, s, merge_metadata={"b": 2}, **o),
    "remove metadata": lambda c, u, s, m, **o: c.update_session(u, s, remove_metadata=["a"], **o),
    "update if the title is": lambda c, u, s, m, **o: c.update_session(
        u, s, {"title": "New"}, if_title="New Chat", **o
    ),
    "add a message": lambda c, u, s, m, **o: c.add_message(s, "user", "Hi", user_id=u, **o),
    "add a message with an id": lambda c, u, s, m, **o: c.add_message(
        s, "user", "Hi", user_id=u, message_id=str(uuid.uuid4()), **o
    ),
    "add messages": lambda c, u, s, m, **o: c.add_messages(s, [("user", "a"), ("tool", "b")], user_id=u, **o),
    "add many messages": lambda c, u, s, m, **o: c.add_messages(s, [("user", "a")] * 150, user_id=u, **o),
    "add messages and merge": lambda c, u, s, m, **o: c.add_messages(
        s, [("user", "a")], user_id=u, merge_metadata={"b": 2}, **o
    ),
    "merge with no message": lambda c, u, s, m, **o: c.add_messages(
        s, [], user_id=u, merge_metadata={"b": 2}, **o
    ),
    "update a content": lambda c, u, s, m, **o: c.update_message(u, s, m, content="New", **o),
    "update a message's metadata": lambda c, u, s, m, **o: c.update_message(u, s, m, metadata={"b": 1}, **o),
    "merge a message's metadata": lambda c, u, s, m, **o: c.update_message(
        u, s, m, merge_metadata={"b": 1}, **o
    ),
    "update a payload": lambda c, u, s, m, **o: c.update_message(u, s, m, payload=[1], **o),
    "clear": lambda c, u, s, m, **o: c.clear_messages(u, s, **o),
    "replace": lambda c, u, s, m, **o: c.replace_messages(u, s, [("user", "a"), ("tool", "b")], **o),
    "replace by none": lambda c, u, s, m, **o: c.replace_messages(u, s, [], **o),
}
WITHOUT_VERSION: dict[str, Write] = {
    "pop": lambda c, u, s, m: c.pop_message(u, s),
    "delete one": lambda c, u, s, m: c.delete_messages(u, s, [m]),
    "delete from one": lambda c, u, s, m: c.delete_messages_from(u, s, m),
    "delete after one": lambda c, u, s, m: c.delete_messages_from(u, s, m, inclusive=False),
}
CHANGES_NOTHING: dict[str, Write] = {
    "update by nothing": lambda c, u, s, m: c.update_session(u, s, {}),
    "update by no data": lambda c, u, s, m: c.update_session(u, s),
    "update to the same": lambda c, u, s, m: c.update_session(
        u, s, {"title": "New Chat", "metadata": {"a": {"b": [1]}}}
    ),
    "merge the same": lambda c, u, s, m: c.update_session(u, s, merge_metadata={"a": {"b": [1]}}),
    "merge nothing": lambda c, u, s, m: c.update_session(u, s, merge_metadata={}),
    "remove an absent key": lambda c, u, s, m: c.update_session(u, s, remove_metadata=["b", "a.b"]),
    "update if the title is another": lambda c, u, s, m: c.update_session(
        u, s, {"title": "New"}, if_title="Other"
    ),
    "ensure": lambda c, u, s, m: c.ensure_session_exists(s, u, {"title": "New"}),
    "add no message": lambda c, u, s, m: c.add_messages(s, [], user_id=u),
    "add no message and merge the same": lambda c, u, s, m: c.add_messages(
        s, [], user_id=u, merge_metadata={"a": {"b": [1]}}
    ),
    "repeat a message": lambda c, u, s, m: c.add_message(s, "user", "two", message_id=m),
    "update a message by nothing": lambda c, u, s, m: c.update_message(u, s, m),
    "update a message to the same": lambda c, u, s, m: c.update_message(
        u, s, m, content="two", metadata={"a": 1}, merge_metadata={"a": 1}, payload={"z": 1, "a": 2}
    ),
    "delete no message": lambda c, u, s, m: c.delete_messages(u, s, []),
    "delete absent messages": lambda c, u, s, m: c.delete_messages(u, s, [str(uuid.uuid4())]),
    "update an absent message": lambda c, u, s, m: c.update_message(u, s, str(uuid.uuid4()), content="New"),
    "fork": lambda c, u, s, m: c.fork_session(u, s),
    "read": lambda c, u, s, m: c.get_session_history(u, s, limit=1),
}


async def _conversation(chats: Caller, user_id: str = USER) -> tuple[str, str]:
    session_id, middle = await chats.create_session(user_id, {"metadata": {"a": {"b": [1]}}}), uuid.uuid4()
    two = NewMessage("user", "two", message_id=middle, metadata={"a": 1}, payload={"z": 1, "a": 2})
    await chats.add_messages(session_id, [("user", "one"), two, ("assistant", "three")])
    return session_id, str(middle)


async def _everything(chats: Caller, session_id: str) -> Any:
    return await chats.get_session(USER, session_id), await chats.get_session_history(USER, session_id)


class VersionsContract(RepositoryContract):
    """Versions of sessions."""

    async def test_a_new_session_has_version_0_however_it_is_created(self, chats: Caller) -> None:
        made = [await chats.create_session(USER, None)]
        made.append(await chats.create_session(USER, {"title": "T"}, messages=[("user", "Hi")] * 3))
        made.append(str(uuid.uuid4()))
        await chats.ensure_session_exists(made[-1], USER)
        made.append(await chats.fork_session(USER, made[1]))
        assert [(await chats.get_session(USER, each)).version for each in made] == [0] * 4

    async def test_the_version_is_shown_by_each_operation_that_returns_sessions(self, chats: Caller) -> None:
        session_id, _ = await _conversation(chats)
        assert (await chats.get_session(USER, session_id)).version == 1
        assert [item.version for item in await chats.list_paginated_sessions(USER)] == [1]
        assert [item.version for item in (await chats.list_sessions(USER)).sessions] == [1]
        assert [item.session.version for item in (await chats.list_session_previews(USER)).previews] == [1]
        assert [item.version async for item, _ in chats.export_user(USER)] == [1]

    async def test_a_write_that_changes_something_raises_the_version_by_one(self, chats: Caller) -> None:
        for name, write in (WITH_VERSION | WITHOUT_VERSION).items():
            session_id, middle = await _conversation(chats)
            try:
                async with self.changing(chats, session_id):
                    assert await write(chats, USER, session_id, middle) is not False
            except AssertionError as error:
                error.add_note(name)
                raise

    async def test_a_write_that_changes_nothing_leaves_version_and_updated_at(self, chats: Caller) -> None:
        session_id, middle = await _conversation(chats)
        before = await _everything(chats, session_id)
        await self.tick()
        for name, write in CHANGES_NOTHING.items():
            await write(chats, USER, session_id, middle)
            assert await _everything(chats, session_id) == before, name
        empty = await chats.create_session(USER, None)
        async with self.changing(chats, empty, by=0):
            assert await chats.pop_message(USER, empty) is None
            assert await chats.clear_messages(USER, empty) == 0
            assert await chats.clear_messages(USER, empty, expected_version=0) == 0

    async def test_the_expected_version_is_compared_and_on_a_conflict_nothing_is_changed(
        self, chats: Caller
    ) -> None:
        for name, write in WITH_VERSION.items():
            session_id, middle = await _conversation(chats)
            before = await _everything(chats, session_id)
            for version in (0, 2, 2**63 - 1):
                with pytest.raises(VersionConflictError):
                    await write(chats, USER, session_id, middle, expected_version=version)
            assert await _everything(chats, session_id) == before, name
            await write(chats, USER, session_id, middle, expected_version=1)
            assert (await chats.get_session(USER, session_id)).version == 2, name

    async def test_a_session_is_deleted_at_the_expected_version_only(self, chats: Caller) -> None:
        session_id, _ = await _conversation(chats)
        before = await _everything(chats, session_id)
        with pytest.raises(VersionConflictError):
            await chats.delete_session(USER, session_id, expected_version=0)
        assert await _everything(chats, session_id) == before
        assert await chats.delete_session(USER, session_id, expected_version=1) is True
        assert await chats.delete_session(USER, session_id, expected_version=1) is False

    async def test_an_absent_or_foreign_session_has_no_version_to_conflict_with(self, chats: Caller) -> None:
        theirs, middle = await _conversation(chats, OTHER)
        for target in (theirs, str(uuid.uuid4())):
            for name, write in WITH_VERSION.items():
                for version in (0, 1):
                    try:
                        result = await write(chats, USER, target, middle, expected_version=version)
                    except SessionNotFoundError:
                        result = "absent"
                    expected = "absent" if name.startswith(("add", "replace", "merge with no")) else False
                    assert result in (expected, 0), name
            assert await chats.delete_session(USER, target, expected_version=1) is False
        assert (await chats.get_session(OTHER, theirs)).version == 1

    async def test_a_repeated_append_succeeds_whatever_the_version_is_now(self, chats: Caller) -> None:
        session_id, _ = await _conversation(chats)
        ids = [str(uuid.uuid4()) for _ in range(2)]
        batch = [NewMessage("user", "Hi", message_id=each) for each in ids]
        for expected in (1, 1, 0):
            assert await chats.add_messages(session_id, batch, expected_version=expected) == ids
            first = chats.add_message(session_id, "user", "Hi", message_id=ids[0], expected_version=expected)
            assert await first == ids[0]
        assert (await chats.get_session(USER, session_id)).version == 2

    @pytest.mark.parametrize(
        "name", ["update the title", "add a message", "add messages and merge", "update a content", "replace"]
    )
    async def test_of_concurrent_writers_that_expect_the_same_version_one_succeeds(
        self, chats: Caller, name: str
    ) -> None:
        session_id, middle = await _conversation(chats)
        for version in (1, 2):
            writes = [
                # A content and a title of its own for each, so that each write would change something.
                WITH_VERSION[name](chats, USER, session_id, middle, expected_version=version)
                for _ in range(10)
            ]
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            conflicts = [item for item in outcomes if isinstance(item, BaseException)]
            assert {type(item) for item in conflicts} == {VersionConflictError}, conflicts
            if name == "replace":
                middle = (await chats.get_session_history(USER, session_id))[0].message_id
            assert len(conflicts) == 9
            assert (await chats.get_session(USER, session_id)).version == version + 1
            if version == 1 and name in ("update the title", "update a content"):
                break  # The second time it would change nothing.
        added = {"add a message": 2, "add messages and merge": 2, "replace": -1}.get(name, 0)
        assert await chats.count_messages(USER, session_id) == 3 + added
