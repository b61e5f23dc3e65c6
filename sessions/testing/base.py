"""The contract of the six operations of `BaseSessionRepository`."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import copy
import dataclasses
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions.errors import SessionNotFoundError
from sessions.models import ChatMessage, ChatSession
from sessions.testing.bad_calls import BASE_CALLS, bad_calls
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import ASTRAL, METADATA, OTHER, TEXTS, USER, all_characters, same_json

__all__ = ["BaseRepositoryContract"]


class BaseRepositoryContract(RepositoryContract):
    """The behaviour of the six operations of every repository, async or blocking."""

    # -- Values ------------------------------------------------------------------------------------

    async def test_a_session_comes_back_as_a_plain_dataclass(self, chats: Caller) -> None:
        before = datetime.now(UTC) - self.clock_resolution
        session_id = await chats.create_session(USER, {"title": "Hello", "metadata": {"a": [1]}})
        after = datetime.now(UTC)
        [chat_session] = await chats.list_paginated_sessions(USER)
        assert type(chat_session) is ChatSession
        assert not hasattr(chat_session, "__dict__")
        assert str(uuid.UUID(session_id)) == session_id
        names = ("session_id", "title", "user_id")
        assert [getattr(chat_session, name) for name in names] == [session_id, "Hello", USER]
        assert {type(getattr(chat_session, name)) for name in names} == {str}
        assert type(chat_session.metadata) is dict
        assert chat_session.metadata == {"a": [1]}
        for moment in (chat_session.created_at, chat_session.updated_at):
            assert type(moment) is datetime
            assert moment.utcoffset() == timedelta(0)
            assert before <= moment <= after
        assert chat_session.created_at == chat_session.updated_at

    async def test_a_message_comes_back_as_a_plain_dataclass(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        before = datetime.now(UTC) - self.clock_resolution
        message_id = await chats.add_message(session_id, "user", "Hi")
        after = datetime.now(UTC)
        [message] = await chats.get_session_history(USER, session_id)
        assert type(message) is ChatMessage
        assert not hasattr(message, "__dict__")
        values = dataclasses.astuple(message)[:4]
        assert values == (message_id, session_id, "user", "Hi")
        assert {type(value) for value in values} == {str}
        assert type(message.timestamp) is datetime
        assert message.timestamp.utcoffset() == timedelta(0)
        assert before <= message.timestamp <= after

    async def test_defaults_are_new_chat_and_no_metadata(self, chats: Caller) -> None:
        for data in (None, {}, {"title": None, "metadata": None}):
            session_id = await chats.create_session(USER, data)
            chat_session = await self.session_of(chats, USER, session_id)
            assert (chat_session.title, chat_session.metadata) == ("New Chat", {})

    async def test_title_and_user_id_take_255_characters_of_any_kind(self, chats: Caller) -> None:
        for text in [*TEXTS, "x", "x" * 255, ASTRAL * 255]:
            session_id = await chats.create_session(text, {"title": text})
            [chat_session] = await chats.list_paginated_sessions(text)
            assert (chat_session.session_id, chat_session.user_id) == (session_id, text)
            assert chat_session.title == text
            assert await chats.update_session(text, session_id, {"title": text[::-1]})
            assert (await self.session_of(chats, text, session_id)).title == text[::-1]

    async def test_user_ids_that_only_look_alike_are_two_users(self, chats: Caller) -> None:
        alike = ["user", "User", "user ", " user", "us\xe9r", "use\u0301r", "us%r", "us_r", "user\u200b"]
        for user_id in alike:
            await chats.create_session(user_id, {"title": user_id})
        for user_id in alike:
            assert [item.title for item in await chats.list_paginated_sessions(user_id)] == [user_id]

    async def test_content_comes_back_as_it_was(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        contents = ["", *TEXTS, "x" * 1_000_000, all_characters()]
        for content in contents:
            await chats.add_message(session_id, "assistant", content)
        history = await chats.get_session_history(USER, session_id)
        assert len(history) == len(contents)
        for message, content in zip(history, contents, strict=True):
            # Not a bare assert: its text would be four million characters long.
            if message.content != content:
                pytest.fail(f"changed: {content[:80]!a}")

    async def test_metadata_comes_back_equal_and_plain(self, chats: Caller) -> None:
        updated = await chats.create_session(USER, None)
        for name, metadata in METADATA.items():
            created = await chats.create_session(OTHER, {"metadata": metadata})
            assert await chats.update_session(USER, updated, {"metadata": metadata})
            for user_id, session_id in ((OTHER, created), (USER, updated)):
                returned = (await self.session_of(chats, user_id, session_id)).metadata
                if not same_json(metadata, returned):
                    pytest.fail(f"{name}: {ascii(metadata)[:200]} came back as {ascii(returned)[:200]}")

    async def test_what_is_stored_is_a_copy(self, chats: Caller) -> None:
        metadata: dict[str, Any] = {"list": [1], "object": {"a": 1}}
        original = copy.deepcopy(metadata)
        session_id = await chats.create_session(USER, {"metadata": metadata})
        metadata["list"].append(2)
        first = await self.session_of(chats, USER, session_id)
        assert first.metadata == original
        first.metadata["object"]["a"] = 2
        first.title = "Changed"
        second = await self.session_of(chats, USER, session_id)
        assert (second.title, second.metadata) == ("New Chat", original)

    # -- Bad input ---------------------------------------------------------------------------------

    async def test_bad_input_is_refused_by_name_and_stores_nothing(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"metadata": {"a": 1}})
        await chats.add_message(session_id, "user", "Hi")
        sessions = await chats.list_paginated_sessions(USER, 0, 1000)
        for operation in BASE_CALLS:
            for call in bad_calls(BASE_CALLS, operation, session_id, self.takes_only_uuids):
                await self.assert_refused(chats, call)
            assert await chats.list_paginated_sessions(USER, 0, 1000) == sessions, operation
            history = await chats.get_session_history(USER, session_id)
            assert [item.content for item in history] == ["Hi"], operation

    # -- Isolation ---------------------------------------------------------------------------------

    async def test_a_foreign_session_looks_like_an_absent_one(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"title": "Mine"})
        await chats.add_message(session_id, "user", "Hi")
        mine = await chats.list_paginated_sessions(USER)
        for hidden in (session_id, str(uuid.uuid4())):
            assert await chats.get_session_history(OTHER, hidden) == []
            assert await chats.update_session(OTHER, hidden, {"title": "Theirs", "metadata": {}}) is False
            assert await chats.delete_session(OTHER, hidden) is False
        assert await chats.list_paginated_sessions(OTHER) == []
        assert await chats.list_paginated_sessions(USER) == mine
        assert [item.content for item in await chats.get_session_history(USER, session_id)] == ["Hi"]

    async def test_a_message_to_an_absent_session_is_an_error_and_leaves_no_trace(
        self, chats: Caller
    ) -> None:
        deleted = await chats.create_session(USER, None)
        assert await chats.delete_session(USER, deleted)
        for session_id in (deleted, str(uuid.uuid4())):
            with pytest.raises(SessionNotFoundError):
                await chats.add_message(session_id, "user", "Hi")
            assert await chats.get_session_history(USER, session_id) == []
        assert await chats.list_paginated_sessions(USER) == []

    # -- Changes -----------------------------------------------------------------------------------

    async def test_update_replaces_metadata_and_keeps_what_is_none_or_absent(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"title": "One", "metadata": {"a": {"b": 1}, "c": 2}})
        for data, title, metadata in (
            ({"title": "Two"}, "Two", {"a": {"b": 1}, "c": 2}),
            ({"metadata": {"a": {"d": 1}}}, "Two", {"a": {"d": 1}}),
            ({"title": None, "metadata": None}, "Two", {"a": {"d": 1}}),
            ({}, "Two", {"a": {"d": 1}}),
            ({"title": "Three", "metadata": {}}, "Three", {}),
        ):
            assert await chats.update_session(USER, session_id, data) is True
            chat_session = await self.session_of(chats, USER, session_id)
            assert (chat_session.title, chat_session.metadata) == (title, metadata)

    async def test_update_bumps_updated_at_but_never_created_at(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        for data in ({"title": "New"}, {"metadata": {"a": 1}}):
            before = await self.session_of(chats, USER, session_id)
            moment = await self.tick()
            assert await chats.update_session(USER, session_id, data)
            after = await self.session_of(chats, USER, session_id)
            assert before.updated_at < moment < after.updated_at
            assert after.created_at == before.created_at

    async def test_a_message_bumps_updated_at_but_never_created_at(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"title": "Kept", "metadata": {"a": 1}})
        before = await self.session_of(chats, USER, session_id)
        moment = await self.tick()
        await chats.add_message(session_id, "user", "Hi")
        after = await self.session_of(chats, USER, session_id)
        assert before.updated_at < moment < after.updated_at
        # Whether it counts versions is another test's matter.
        assert dataclasses.replace(after, updated_at=before.updated_at, version=before.version) == before

    async def test_delete_takes_the_messages_and_nothing_else(self, chats: Caller) -> None:
        first, second = [await chats.create_session(USER, None) for _ in range(2)]
        for session_id in (first, second):
            await chats.add_message(session_id, "user", "Hi")
        assert await chats.delete_session(USER, first) is True
        assert await chats.delete_session(USER, first) is False
        assert await chats.get_session_history(USER, first) == []
        assert [item.session_id for item in await chats.list_paginated_sessions(USER)] == [second]
        assert len(await chats.get_session_history(USER, second)) == 1

    # -- Order -------------------------------------------------------------------------------------

    async def test_messages_written_one_after_another_read_back_in_that_order(self, chats: Caller) -> None:
        session_id, other = [await chats.create_session(USER, None) for _ in range(2)]
        ids = []
        for number in range(40):
            ids.append(await chats.add_message(session_id, ("user", "assistant")[number % 2], str(number)))
            await chats.add_message(other, "user", "between")
        history = await chats.get_session_history(USER, session_id)
        assert [item.message_id for item in history] == ids
        assert [item.content for item in history] == [str(number) for number in range(40)]
        assert [item.role for item in history] == ["user", "assistant"] * 20
        assert history == sorted(history, key=lambda item: (item.timestamp, item.message_id))

    async def test_pages_list_every_session_once_and_the_latest_changed_first(self, chats: Caller) -> None:
        ids = [await chats.create_session(USER, None) for _ in range(11)]
        await chats.create_session(OTHER, None)
        await self.tick()
        await chats.add_message(ids[3], "user", "Hi")
        await self.tick()
        await chats.update_session(USER, ids[5], {"title": "Changed"})
        listed = await chats.list_paginated_sessions(USER, page=0, limit=1000)
        assert {item.session_id for item in listed} == set(ids)
        assert [item.session_id for item in listed[:2]] == [ids[5], ids[3]]
        # Two stable sorts: the newest first, then by id.
        by_id = sorted(listed, key=lambda item: item.session_id)
        assert listed == sorted(by_id, key=lambda item: item.updated_at, reverse=True)
        pages = [await chats.list_paginated_sessions(USER, page, 4) for page in range(4)]
        assert [len(page) for page in pages] == [4, 4, 3, 0]
        assert [item for page in pages for item in page] == listed
        assert await chats.list_paginated_sessions(USER) == listed[:10]
        assert await chats.list_paginated_sessions(USER, 10**12, 1000) == []
        assert await chats.list_paginated_sessions("nobody") == []
