"""The contract of sessions by id: ensure, get, and creating a session again under an old id."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions.errors import SessionConflictError, SessionNotFoundError
from sessions.testing.bad_calls import ADDED_CALLS, bad_calls
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import ASTRAL, METADATA, OTHER, USER, same_json

__all__ = ["CreatingContract"]


async def _remove(chats: Caller, how: str, owner: str, session_id: str) -> None:
    if how == "delete":
        assert await chats.delete_session(owner, session_id) is True
    elif how == "keep_latest":
        assert await chats.keep_latest_sessions(owner, 0) == 1
    elif how == "older_than":
        assert await chats.delete_sessions_older_than(datetime.now(UTC) + timedelta(days=1)) == 1
    else:
        assert await chats.delete_user(owner) == 1


class CreatingContract(RepositoryContract):
    """Sessions by id."""

    async def test_get_returns_what_the_list_shows(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"title": "Hello", "metadata": {"a": [1]}})
        await chats.add_message(session_id, "user", "Hi")
        assert [await chats.get_session(USER, session_id)] == await chats.list_paginated_sessions(USER)

    async def test_get_returns_none_for_an_absent_and_for_a_foreign_session(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        assert await chats.get_session(OTHER, session_id) is None
        assert await chats.get_session(USER, str(uuid.uuid4())) is None

    async def test_ensure_creates_once_and_then_changes_nothing(self, chats: Caller) -> None:
        session_id = str(uuid.uuid4())
        data = {"title": "Restored", "metadata": {"a": 1}}
        assert await chats.ensure_session_exists(session_id, USER, data) is True
        created = await chats.get_session(USER, session_id)
        assert (created.session_id, created.user_id) == (session_id, USER)
        assert (created.title, created.metadata) == ("Restored", {"a": 1})
        await self.tick()
        assert await chats.ensure_session_exists(session_id, USER, {"title": "Other"}) is False
        assert await chats.ensure_session_exists(session_id, USER) is False
        assert await chats.get_session(USER, session_id) == created

    async def test_ensure_uses_the_defaults_and_keeps_any_metadata(self, chats: Caller) -> None:
        session_id = str(uuid.uuid4())
        assert await chats.ensure_session_exists(session_id, USER)
        chat_session = await chats.get_session(USER, session_id)
        assert (chat_session.title, chat_session.metadata) == ("New Chat", {})
        for name, metadata in METADATA.items():
            session_id = str(uuid.uuid4())
            assert await chats.ensure_session_exists(session_id, USER, {"metadata": metadata}), name
            assert same_json(metadata, (await chats.get_session(USER, session_id)).metadata), name

    async def test_ensure_on_an_id_of_another_user_is_a_conflict(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, {"title": "Mine"})
        mine = await chats.get_session(USER, session_id)
        for _ in range(2):
            with pytest.raises(SessionConflictError):
                await chats.ensure_session_exists(session_id, OTHER, {"title": "Theirs"})
        assert await chats.get_session(USER, session_id) == mine
        assert await chats.list_paginated_sessions(OTHER) == []

    async def test_create_under_an_id_of_the_callers_own_stores_it_with_its_messages(
        self, chats: Caller
    ) -> None:
        session_id = str(uuid.uuid4())
        messages = [("user", "Hi"), ("assistant", "Hello")]
        assert await chats.create_session(USER, {"title": "T"}, messages=messages, session_id=session_id) == (
            session_id
        )
        found = await chats.get_session(USER, session_id)
        assert (found.title, found.version) == ("T", 0)
        history = await chats.get_session_history(USER, session_id)
        assert [(message.role, message.content) for message in history] == messages

    async def test_create_under_an_id_that_is_taken_is_a_conflict_and_stores_nothing(
        self, chats: Caller
    ) -> None:
        session_id = await chats.create_session(USER, {"title": "Mine"})
        mine = await chats.get_session(USER, session_id)
        for user_id in (USER, OTHER):
            for messages in ([], [("user", "Hi")]):
                with pytest.raises(SessionConflictError):
                    await chats.create_session(user_id, None, messages=messages, session_id=session_id)
        assert await chats.get_session(USER, session_id) == mine
        assert await chats.get_session_history(USER, session_id) == []
        assert await chats.list_paginated_sessions(OTHER) == []

    async def test_exactly_one_of_many_concurrent_callers_creates(self, chats: Caller) -> None:
        for _ in range(3):
            session_id = str(uuid.uuid4())
            calls = [chats.ensure_session_exists(session_id, USER) for _ in range(12)]
            created = await asyncio.gather(*calls)
            assert sorted(created) == [False] * 11 + [True]
        assert len(await chats.list_paginated_sessions(USER)) == 3

    async def test_of_two_users_at_once_one_gets_the_id_and_the_other_a_conflict(self, chats: Caller) -> None:
        session_id = str(uuid.uuid4())
        users = [USER, OTHER] * 6
        outcomes = await asyncio.gather(
            *(chats.ensure_session_exists(session_id, user_id) for user_id in users), return_exceptions=True
        )
        [winner] = [user for user, outcome in zip(users, outcomes, strict=True) if outcome is True]
        for user_id, outcome in zip(users, outcomes, strict=True):
            if user_id == winner:
                assert outcome in (True, False)
            else:
                assert isinstance(outcome, SessionConflictError)
        assert await chats.get_session(winner, session_id) is not None

    async def test_ids_that_are_no_uuids_work_where_they_are_taken(self, chats: Caller) -> None:
        if self.takes_only_uuids:
            # The calls with such ids are among those of bad input.
            return
        for session_id in ("predetermined-session-id", "x", "$where", "a.b", '{"$ne": ""}', ASTRAL * 255):
            assert await chats.ensure_session_exists(session_id, USER, {"title": "One"})
            assert await chats.add_message(session_id, "user", "Hi", user_id=USER)
            assert (await chats.get_session(USER, session_id)).session_id == session_id
            [message] = await chats.get_session_history(USER, session_id)
            assert (message.session_id, message.content) == (session_id, "Hi")
            assert await chats.update_session(USER, session_id, {"title": "Two"})
            page = await chats.list_sessions(USER)
            assert [(item.session_id, item.title) for item in page.sessions] == [(session_id, "Two")]
            assert await chats.delete_session(USER, session_id)

    @pytest.mark.parametrize("how", ["delete", "keep_latest", "older_than", "delete_user"])
    async def test_a_session_created_anew_under_an_old_id_starts_empty(self, chats: Caller, how: str) -> None:
        session_id = str(uuid.uuid4())
        owners = [USER, OTHER, USER, USER]
        for owner in owners:
            assert await chats.ensure_session_exists(session_id, owner, {"title": f"Of {owner}"})
            for user_id in (USER, OTHER):
                assert await chats.get_session_history(user_id, session_id) == []
            await chats.add_messages(session_id, [("user", f"of {owner}")] * 3)
            history = await chats.get_session_history(owner, session_id)
            assert [item.content for item in history] == [f"of {owner}"] * 3
            await _remove(chats, how, owner, session_id)
            assert await chats.get_session(owner, session_id) is None
            assert await chats.get_session_history(owner, session_id) == []

    async def test_a_message_that_races_with_a_delete_is_refused_or_goes_with_it(self, chats: Caller) -> None:
        for _ in range(8):
            session_id = await chats.create_session(USER, None)
            writing = [chats.add_message(session_id, "user", "Hi") for _ in range(3)]
            writing.append(chats.add_messages(session_id, [("user", "a"), ("assistant", "b")]))
            *written, deleted = await asyncio.gather(
                *writing, chats.delete_session(USER, session_id), return_exceptions=True
            )
            assert deleted is True
            for outcome in written:
                assert isinstance(outcome, str | list | SessionNotFoundError), outcome
            assert await chats.get_session_history(USER, session_id) == []
            assert await chats.ensure_session_exists(session_id, OTHER)
            assert await chats.get_session_history(OTHER, session_id) == []

    async def test_bad_input_to_other_operations_is_refused_by_name_and_stores_nothing(
        self, chats: Caller
    ) -> None:
        session_id = await chats.create_session(USER, {"metadata": {"a": 1}})
        await chats.add_message(session_id, "user", "Hi")
        before: list[Any] = [item async for item in chats.export_user(USER)]
        for operation in ADDED_CALLS:
            for call in bad_calls(ADDED_CALLS, operation, session_id, self.takes_only_uuids):
                await self.assert_refused(chats, call)
            assert [item async for item in chats.export_user(USER)] == before, operation
            assert await chats.count_sessions(USER) == 1, operation
