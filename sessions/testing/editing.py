"""The contract of working on messages: reading one, changing, deleting, replacing, forking."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from sessions.errors import InvalidInputError, MessageConflictError, SessionNotFoundError
from sessions.models import ChatMessage, NewMessage
from sessions.testing.callers import Caller
from sessions.testing.new_messages import PAYLOADS, same_payload
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import METADATA, OTHER, TEXTS, USER, same_json

__all__ = ["EditingContract", "conversation", "history_of", "ids_of"]

MOMENT = datetime(2024, 5, 1, 12, tzinfo=UTC)


async def conversation(chats: Caller, length: int, user_id: str = USER) -> tuple[str, list[str]]:
    """Create a session with so many messages; return its id and theirs."""
    session_id = await chats.create_session(user_id, None)
    batch = [
        NewMessage(
            "assistant" if number % 2 else "user",
            str(number),
            message_id=uuid.uuid4(),
            metadata={"n": number},
            payload=[number, {"z": 1, "a": 2}],
        )
        for number in range(length)
    ]
    return session_id, await chats.add_messages(session_id, batch)


async def history_of(chats: Caller, session_id: str, user_id: str = USER) -> list[ChatMessage]:
    """Return all messages of a session."""
    found: list[ChatMessage] = await chats.get_session_history(user_id, session_id)
    return found


async def ids_of(chats: Caller, session_id: str) -> list[str]:
    """Return the ids of all messages of a session of `USER`."""
    return [message.message_id for message in await history_of(chats, session_id)]


class EditingContract(RepositoryContract):
    """Reads and changes of messages that are stored."""

    # -- One message, and how many -----------------------------------------------------------------

    async def test_one_message_is_what_the_history_shows(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 3)
        history = await history_of(chats, session_id)
        assert [await chats.get_message(USER, session_id, each) for each in ids] == history
        assert await chats.get_message(USER, session_id, uuid.UUID(ids[1])) == history[1]
        other, _ = await conversation(chats, 1)
        for user_id, target, message_id in (
            (OTHER, session_id, ids[0]),
            (USER, other, ids[0]),
            (USER, str(uuid.uuid4()), ids[0]),
            (USER, session_id, str(uuid.uuid4())),
        ):
            assert await chats.get_message(user_id, target, message_id) is None

    async def test_messages_are_counted_by_session(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 5)
        empty, _ = await conversation(chats, 0)
        counted = [await chats.count_messages(USER, each) for each in (session_id, empty, str(uuid.uuid4()))]
        assert counted == [5, 0, 0]
        assert await chats.count_messages(OTHER, session_id) == 0
        await chats.delete_messages(USER, session_id, ids[:2])
        assert await chats.count_messages(USER, session_id) == 3

    # -- Changing ----------------------------------------------------------------------------------

    async def test_a_changed_message_keeps_its_id_place_role_and_timestamp(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 3)
        first, before, last = await history_of(chats, session_id)
        for change, expected in (
            ({"content": "New"}, {"content": "New"}),
            ({"metadata": {"a": {"b": 1}, "c": 2}}, {"metadata": {"a": {"b": 1}, "c": 2}}),
            ({"merge_metadata": {"a": {"d": 1}}}, {"metadata": {"a": {"d": 1}, "c": 2}}),
            ({"metadata": {"x": 1, "y": 1}, "merge_metadata": {"y": 2}}, {"metadata": {"x": 1, "y": 2}}),
            ({"payload": ["New"]}, {"payload": ["New"]}),
            (
                {"content": "", "metadata": {}, "payload": None},
                {"content": "", "metadata": {}, "payload": None},
            ),
            ({"payload": False}, {"payload": False}),
        ):
            async with self.changing(chats, session_id):
                assert await chats.update_message(USER, session_id, ids[1], **change) is True
            before = dataclasses.replace(before, **expected)
            assert await history_of(chats, session_id) == [first, before, last]

    async def test_any_value_of_a_message_can_be_changed_to_any_other(self, chats: Caller) -> None:
        session_id, [message_id] = await conversation(chats, 1)
        for content in [*TEXTS, ""]:
            assert await chats.update_message(USER, session_id, message_id, content=content)
            assert (await chats.get_message(USER, session_id, message_id)).content == content
        for name, metadata in METADATA.items():
            assert await chats.update_message(USER, session_id, message_id, metadata={"before": 1})
            assert await chats.update_message(USER, session_id, message_id, merge_metadata=metadata)
            found = (await chats.get_message(USER, session_id, message_id)).metadata
            assert same_json({"before": 1} | metadata, found), name
            assert await chats.update_message(USER, session_id, message_id, metadata=metadata)
            assert same_json(metadata, (await chats.get_message(USER, session_id, message_id)).metadata), name
        for name, payload in PAYLOADS.items():
            assert await chats.update_message(USER, session_id, message_id, payload=payload)
            found = (await chats.get_message(USER, session_id, message_id)).payload
            assert same_payload(payload, found), name

    async def test_concurrent_merges_into_one_message_are_all_kept(self, chats: Caller) -> None:
        session_id, [message_id] = await conversation(chats, 1)
        merges = [
            chats.update_message(USER, session_id, message_id, merge_metadata={str(number): number})
            for number in range(5)
        ]
        assert await asyncio.gather(*merges) == [True] * 5
        found = await chats.get_message(USER, session_id, message_id)
        assert found.metadata == {"n": 0} | {str(number): number for number in range(5)}

    async def test_a_message_that_the_users_session_does_not_have_is_not_changed(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 2)
        other, _ = await conversation(chats, 1)
        before = await history_of(chats, session_id)
        for user_id, target, message_id in (
            (OTHER, session_id, ids[0]),
            (USER, other, ids[0]),
            (USER, str(uuid.uuid4()), ids[0]),
            (USER, session_id, str(uuid.uuid4())),
        ):
            assert await chats.update_message(user_id, target, message_id, content="New", payload=1) is False
        assert await history_of(chats, session_id) == before

    # -- Deleting ----------------------------------------------------------------------------------

    async def test_pop_removes_and_returns_the_newest(self, chats: Caller) -> None:
        session_id, _ = await conversation(chats, 3)
        await chats.add_message(session_id, "user", "of the past", timestamp=MOMENT)
        history = await history_of(chats, session_id)
        assert history[0].content == "of the past"
        while history:
            async with self.changing(chats, session_id):
                assert await chats.pop_message(USER, session_id) == history.pop()
            assert await history_of(chats, session_id) == history
        assert await chats.pop_message(USER, session_id) is None
        theirs, _ = await conversation(chats, 1, OTHER)
        for target in (theirs, str(uuid.uuid4())):
            assert await chats.pop_message(USER, target) is None
        assert await chats.count_messages(OTHER, theirs) == 1

    async def test_no_two_concurrent_pops_return_the_same_message(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 15)
        popped = await asyncio.gather(*(chats.pop_message(USER, session_id) for _ in range(20)))
        assert popped.count(None) == 5
        assert sorted(item.message_id for item in popped if item is not None) == sorted(ids)
        assert await chats.count_messages(USER, session_id) == 0
        assert (await chats.get_session(USER, session_id)).version == 16

    async def test_named_messages_are_deleted_and_counted(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 5)
        _, others = await conversation(chats, 2)
        async with self.changing(chats, session_id):
            gone = [ids[3], ids[1], ids[3], others[0], str(uuid.uuid4()), uuid.UUID(ids[0])]
            assert await chats.delete_messages(USER, session_id, gone) == 3
        assert await ids_of(chats, session_id) == [ids[2], ids[4]]
        async with self.changing(chats, session_id, by=0):
            assert await chats.delete_messages(USER, session_id, iter([*gone, *others])) == 0
            assert await chats.delete_messages(OTHER, session_id, ids) == 0
            assert await chats.delete_messages(USER, str(uuid.uuid4()), ids) == 0
        assert await ids_of(chats, session_id) == [ids[2], ids[4]]

    async def test_a_message_and_all_after_it_are_deleted(self, chats: Caller) -> None:
        for inclusive, kept in ((True, 3), (False, 4)):
            session_id, ids = await conversation(chats, 6)
            options = {} if inclusive else {"inclusive": False}
            async with self.changing(chats, session_id):
                assert await chats.delete_messages_from(USER, session_id, ids[3], **options) == 6 - kept
            assert await ids_of(chats, session_id) == ids[:kept]
            # The next answer takes their place.
            ids[kept:] = [await chats.add_message(session_id, "assistant", "again")]
            assert await ids_of(chats, session_id) == ids
            async with self.changing(chats, session_id, by=0):
                assert await chats.delete_messages_from(USER, session_id, ids[-1], inclusive=False) == 0
            assert await chats.delete_messages_from(USER, session_id, ids[0]) == kept + 1
            assert await ids_of(chats, session_id) == []

    async def test_what_comes_after_is_decided_by_the_order_of_the_history(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        tied = [
            await chats.add_message(session_id, "user", str(n), message_id=uuid.uuid4(), timestamp=MOMENT)
            for n in range(12)
        ]
        earlier = MOMENT - timedelta(seconds=1)
        tied.insert(0, await chats.add_message(session_id, "user", "earlier", timestamp=earlier))
        assert await chats.delete_messages_from(USER, session_id, tied[7]) == 6
        assert await ids_of(chats, session_id) == tied[:7]
        assert await chats.delete_messages_from(USER, session_id, tied[2], inclusive=False) == 4
        assert await ids_of(chats, session_id) == tied[:3]

    async def test_deleting_from_a_message_that_the_session_does_not_have_is_bad_input(
        self, chats: Caller
    ) -> None:
        session_id, ids = await conversation(chats, 2)
        other, others = await conversation(chats, 2, OTHER)
        for message_id in (others[0], str(uuid.uuid4()), session_id):
            with pytest.raises(InvalidInputError) as caught:
                await chats.delete_messages_from(USER, session_id, message_id)
            assert caught.value.argument == "message_id"
            for target in (other, str(uuid.uuid4())):
                assert await chats.delete_messages_from(USER, target, message_id) == 0
        assert await ids_of(chats, session_id) == ids
        assert await chats.count_messages(OTHER, other) == 2

    async def test_a_cleared_session_stays(self, chats: Caller) -> None:
        session_id, _ = await conversation(chats, 4)
        theirs, _ = await conversation(chats, 1, OTHER)
        async with self.changing(chats, session_id):
            assert await chats.clear_messages(USER, session_id) == 4
        async with self.changing(chats, session_id, by=0):
            assert await chats.clear_messages(USER, session_id) == 0
        for target in (theirs, str(uuid.uuid4())):
            assert await chats.clear_messages(USER, target) == 0
        assert await chats.count_messages(OTHER, theirs) == 1
        message_id = await chats.add_message(session_id, "user", "Hi")
        assert await ids_of(chats, session_id) == [message_id]

    # -- Replacing ---------------------------------------------------------------------------------

    async def test_the_whole_history_is_replaced_at_once(self, chats: Caller) -> None:
        session_id, ids = await conversation(chats, 5)
        kept = NewMessage("system", "kept", message_id=ids[3], metadata={"a": 1}, payload={"p": None})
        before = datetime.now(UTC) - self.clock_resolution
        async with self.changing(chats, session_id):
            made = await chats.replace_messages(
                USER, session_id, [("system", "summary"), kept, ("user", "Hi")]
            )
        history = await history_of(chats, session_id)
        assert [item.message_id for item in history] == made
        assert made[1] == ids[3]
        values = [(item.role, item.content, item.metadata, item.payload) for item in history]
        assert values[0] == ("system", "summary", {}, None)
        assert values[1:] == [("system", "kept", {"a": 1}, {"p": None}), ("user", "Hi", {}, None)]
        assert {item.session_id for item in history} == {session_id}
        assert history[0].timestamp >= before  # The time of its write.
        later = await chats.add_message(session_id, "user", "later")
        assert await ids_of(chats, session_id) == [*made, later]
        assert await chats.replace_messages(USER, session_id, []) == []
        assert await ids_of(chats, session_id) == []

    async def test_a_replacement_keeps_its_order_and_given_timestamps(self, chats: Caller) -> None:
        session_id, _ = await conversation(chats, 2)
        batch = [NewMessage("user", str(n), message_id=uuid.uuid4()) for n in range(150)]
        assert len(await chats.replace_messages(USER, session_id, batch)) == 150
        assert await ids_of(chats, session_id) == [str(message.message_id) for message in batch]
        given = [
            NewMessage("user", str(n), message_id=uuid.uuid4(), timestamp=MOMENT - timedelta(seconds=n % 2))
            for n in range(20)
        ]
        await chats.replace_messages(USER, session_id, given)
        ordered = given[1::2] + given[::2]
        assert await ids_of(chats, session_id) == [str(message.message_id) for message in ordered]

    async def test_a_replacement_with_an_id_of_another_session_changes_nothing(self, chats: Caller) -> None:
        session_id, _ = await conversation(chats, 3)
        other, [taken] = await conversation(chats, 1)
        before = await history_of(chats, session_id), await chats.get_session(USER, session_id)
        for count in (0, 1, 100):
            batch = [("user", "new")] * count + [NewMessage("user", "0", message_id=taken)]
            with pytest.raises(MessageConflictError):
                await chats.replace_messages(USER, session_id, batch)
        assert (await history_of(chats, session_id), await chats.get_session(USER, session_id)) == before
        assert await ids_of(chats, other) == [taken]

    async def test_an_absent_or_foreign_session_is_not_replaced_or_forked(self, chats: Caller) -> None:
        theirs, ids = await conversation(chats, 2, OTHER)
        before = await history_of(chats, theirs, OTHER)
        for target in (theirs, str(uuid.uuid4())):
            calls: list[Any] = [
                partial(chats.replace_messages, USER, target, []),
                partial(chats.replace_messages, USER, target, [("user", "mine")]),
                partial(chats.fork_session, USER, target),
                partial(chats.fork_session, USER, target, through=ids[0]),
                partial(chats.fork_session, USER, target, session_data={"title": "Mine"}),
            ]
            for call in calls:
                with pytest.raises(SessionNotFoundError):
                    await call()
        assert await history_of(chats, theirs, OTHER) == before
        assert await chats.count_sessions(USER) == 0
