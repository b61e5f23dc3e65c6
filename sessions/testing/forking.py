"""The contract of forking a session."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime

import pytest

from sessions.errors import InvalidInputError
from sessions.models import ChatMessage
from sessions.testing.callers import Caller
from sessions.testing.editing import conversation, history_of, ids_of
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import OTHER, USER

__all__ = ["ForkingContract"]

MOMENT = datetime(2024, 5, 1, 12, tzinfo=UTC)


async def _assert_forked(chats: Caller, source: list[ChatMessage], fork_id: str) -> None:
    copies = await history_of(chats, fork_id)
    assert {item.session_id for item in copies} <= {fork_id}
    ids = [item.message_id for item in copies]
    assert len({*ids, *(item.message_id for item in source)}) == len(ids) + len(source)
    renamed = [
        dataclasses.replace(item, session_id=fork_id, message_id=message_id)
        for item, message_id in zip(source, ids, strict=True)
    ]
    assert copies == renamed


class ForkingContract(RepositoryContract):
    """Copies of sessions."""

    async def test_a_fork_has_the_messages_up_to_the_named_one_under_new_ids(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 6)
        await chats.update_session(USER, session_id, {"title": "Source", "metadata": {"a": 1}})
        source, before = await history_of(chats, session_id), await chats.get_session(USER, session_id)
        for through, count in ((None, 6), (ids[5], 6), (ids[2], 3), (uuid.UUID(ids[0]), 1)):
            options = {} if through is None else {"through": through}
            fork_id = await chats.fork_session(USER, session_id, **options)
            assert str(uuid.UUID(fork_id)) == fork_id
            await _assert_forked(chats, source[:count], fork_id)
            made = await chats.get_session(USER, fork_id)
            assert (made.title, made.metadata, made.version) == ("New Chat", {}, 0)
            assert made.created_at >= before.updated_at
        assert await chats.get_session(USER, session_id) == before
        assert await history_of(chats, session_id) == source

    async def test_a_fork_has_a_title_and_metadata_of_its_own(self, chats: Caller) -> None:
        session_id, _ = await conversation(chats, 1)
        data = {"title": "Branch", "metadata": {"$parent": session_id, "a.b": [1]}}
        fork_id = await chats.fork_session(USER, session_id, session_data=data)
        made = await chats.get_session(USER, fork_id)
        assert (made.title, made.metadata, made.user_id) == ("Branch", data["metadata"], USER)

    async def test_a_fork_and_its_source_go_separate_ways(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 3)
        fork_id = await chats.fork_session(USER, session_id)
        added = await chats.add_message(fork_id, "user", "in the fork")
        assert (await ids_of(chats, fork_id))[-1] == added
        await chats.update_message(USER, session_id, ids[0], content="changed")
        assert (await history_of(chats, fork_id))[0].content == "0"
        assert await chats.delete_session(USER, session_id)
        assert await chats.count_messages(USER, fork_id) == 4

    async def test_a_fork_keeps_the_order_of_equal_timestamps(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        for number in range(12):
            await chats.add_message(
                session_id,
                "user",
                str(number),
                message_id=uuid.uuid4(),
                timestamp=MOMENT,
                payload={"\0": number},
            )
        source = await history_of(chats, session_id)
        await _assert_forked(chats, source, await chats.fork_session(USER, session_id))
        part = await chats.fork_session(USER, session_id, through=source[6].message_id)
        await _assert_forked(chats, source[:7], part)
        await _assert_forked(chats, source[:7], await chats.fork_session(USER, part))
        empty = await chats.create_session(USER, None)
        await _assert_forked(chats, [], await chats.fork_session(USER, empty))

    async def test_a_fork_through_a_message_that_the_session_does_not_have_is_bad_input(
        self, chats: Caller
    ) -> None:
        session_id, _ = await conversation(chats, 2)
        _, others = await conversation(chats, 2, OTHER)
        for through in (others[0], str(uuid.uuid4()), session_id):
            with pytest.raises(InvalidInputError) as caught:
                await chats.fork_session(USER, session_id, through=through)
            assert caught.value.argument == "through"
        assert await chats.count_sessions(USER) == 1
