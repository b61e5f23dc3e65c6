"""The contract of messages: batches, the owner's check, and parts of a history."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import asyncio
import uuid

import pytest

from sessions.errors import InvalidInputError, SessionNotFoundError
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import OTHER, TEXTS, USER

__all__ = ["MessagesContract"]


async def _conversation(chats: Caller, length: int) -> tuple[str, list[str]]:
    session_id = await chats.create_session(USER, None)
    pairs = [(("user", "assistant")[number % 2], str(number)) for number in range(length)]
    return session_id, await chats.add_messages(session_id, pairs)


class MessagesContract(RepositoryContract):
    """Messages and histories."""

    # -- Adding ------------------------------------------------------------------------------------

    async def test_message_ids_are_rising_uuids_of_version_7(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        ids = await chats.add_messages(session_id, [("user", "a"), ("assistant", "b")])
        ids += [await chats.add_message(session_id, "user", "Hi") for _ in range(10)]
        ids += await chats.add_messages(session_id, [("user", "a"), ("assistant", "b")])
        assert {uuid.UUID(message_id).version for message_id in ids} == {7}
        assert ids == sorted(set(ids))

    async def test_the_owner_is_checked_where_one_is_named(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        first = await chats.add_message(session_id, "user", "one", user_id=USER)
        [second] = await chats.add_messages(session_id, [("user", "two")], user_id=USER)
        third = await chats.add_message(session_id, "user", "three", user_id=None)
        before = await chats.get_session(USER, session_id)
        await self.tick()
        errors = []
        for target in (session_id, str(uuid.uuid4())):
            with pytest.raises(SessionNotFoundError) as one:
                await chats.add_message(target, "user", "Hi", user_id=OTHER)
            with pytest.raises(SessionNotFoundError) as many:
                await chats.add_messages(target, [("user", "Hi"), ("user", "Ho")], user_id=OTHER)
            errors.append((str(one.value), str(many.value)))
        # Nor do the texts distinguish a foreign session from an absent one.
        assert errors[0] == errors[1]
        assert await chats.get_session(USER, session_id) == before
        history = await chats.get_session_history(USER, session_id)
        assert [item.message_id for item in history] == [first, second, third]

    async def test_a_batch_keeps_its_order_and_contents(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        pairs = [(role, text) for text in ["", *TEXTS] for role in ("user", "assistant")] * 10
        ids = await chats.add_messages(session_id, pairs)
        history = await chats.get_session_history(USER, session_id)
        assert [(item.role, item.content) for item in history] == pairs
        assert [item.message_id for item in history] == ids

    async def test_a_batch_may_be_any_iterable_of_pairs(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        await chats.add_messages(session_id, (("user", text) for text in "ab"))
        await chats.add_messages(session_id, (["assistant", "c"], ("user", "d")))
        history = await chats.get_session_history(USER, session_id)
        assert "".join(item.content for item in history) == "abcd"

    async def test_a_batch_bumps_updated_at(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        before = await chats.get_session(USER, session_id)
        moment = await self.tick()
        await chats.add_messages(session_id, [("user", "a"), ("assistant", "b")])
        after = await chats.get_session(USER, session_id)
        assert before.updated_at < moment < after.updated_at
        assert after.created_at == before.created_at

    async def test_an_empty_batch_only_looks_for_the_session(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        assert await chats.add_messages(session_id, []) == []
        assert await chats.add_messages(session_id, [], user_id=USER) == []
        for target, user_id in ((session_id, OTHER), (str(uuid.uuid4()), USER), (str(uuid.uuid4()), None)):
            with pytest.raises(SessionNotFoundError):
                await chats.add_messages(target, [], user_id=user_id)

    async def test_a_batch_to_an_absent_session_stores_nothing(self, chats: Caller) -> None:
        session_id = str(uuid.uuid4())
        with pytest.raises(SessionNotFoundError):
            await chats.add_messages(session_id, [("user", "a")] * 100)
        assert await chats.ensure_session_exists(session_id, USER)
        assert await chats.get_session_history(USER, session_id) == []

    async def test_concurrent_messages_are_all_there_once(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        single = [chats.add_message(session_id, "user", str(number)) for number in range(20)]
        batches = [chats.add_messages(session_id, [("user", "a"), ("assistant", "b")]) for _ in range(5)]
        written = await asyncio.gather(*single, *batches)
        ids = [*written[:20], *(message_id for batch in written[20:] for message_id in batch)]
        history = await chats.get_session_history(USER, session_id)
        assert sorted(item.message_id for item in history) == sorted(ids)
        timestamps = [item.timestamp for item in history]
        assert timestamps == sorted(timestamps)
        for first, second in written[20:]:
            order = [item.message_id for item in history]
            assert order.index(first) < order.index(second)

    # -- Reading -----------------------------------------------------------------------------------

    async def test_a_limit_gives_the_newest_messages_oldest_first(self, chats: Caller) -> None:
        session_id, ids = await _conversation(chats, 10)
        for limit in (1, 3, 9, 10, 11, 1000):
            history = await chats.get_session_history(USER, session_id, limit=limit)
            assert [item.message_id for item in history] == ids[-limit:]
        assert await chats.get_session_history(OTHER, session_id, limit=3) == []

    async def test_before_gives_what_came_before_that_message(self, chats: Caller) -> None:
        session_id, ids = await _conversation(chats, 10)
        for place in (0, 1, 5, 9):
            history = await chats.get_session_history(USER, session_id, before=ids[place])
            assert [item.message_id for item in history] == ids[:place]
        history = await chats.get_session_history(USER, session_id, limit=3, before=ids[7])
        assert [item.message_id for item in history] == ids[4:7]
        assert await chats.get_session_history(OTHER, session_id, before=ids[5]) == []

    async def test_before_a_message_that_the_session_does_not_have_is_bad_input(self, chats: Caller) -> None:
        session_id, ids = await _conversation(chats, 3)
        empty = await chats.create_session(USER, None)
        other_id, other_ids = await _conversation(chats, 3)
        for before in (other_ids[0], other_ids[2], str(uuid.uuid4()), session_id):
            for limit in (None, 2):
                for of_user in (session_id, empty):
                    with pytest.raises(InvalidInputError) as caught:
                        await chats.get_session_history(USER, of_user, limit=limit, before=before)
                    assert caught.value.argument == "before"
                # A foreign session looks like an absent one, whatever is asked of it.
                for nobodys, before_own in ((str(uuid.uuid4()), before), (other_id, other_ids[1])):
                    found = chats.get_session_history(OTHER, nobodys, limit=limit, before=before_own)
                    assert await found == []
        assert await chats.get_session_history(USER, session_id, before=ids[0]) == []

    async def test_ids_may_be_uuid_objects_and_come_back_as_text(self, chats: Caller) -> None:
        session_id = uuid.uuid4()
        assert await chats.ensure_session_exists(session_id, USER, None) is True
        assert await chats.ensure_session_exists(str(session_id), USER, None) is False
        ids = [await chats.add_message(session_id, "user", "Hi", user_id=USER)]
        ids += await chats.add_messages(session_id, [("assistant", "Hello")], user_id=USER)
        history = await chats.get_session_history(USER, session_id)
        assert [item.message_id for item in history] == ids
        assert {item.session_id for item in history} == {str(session_id)}
        before = await chats.get_session_history(USER, session_id, before=uuid.UUID(ids[1]))
        assert before == history[:1]
        with pytest.raises(InvalidInputError):
            await chats.get_session_history(USER, session_id, before=session_id)
        assert await chats.update_session(USER, session_id, {"title": "T"}) is True
        found = await chats.get_session(USER, session_id)
        assert (found.session_id, found.title) == (str(session_id), "T")
        assert await chats.delete_session(OTHER, session_id) is False
        assert await chats.delete_session(USER, session_id) is True
        with pytest.raises(SessionNotFoundError):
            await chats.add_message(session_id, "user", "Hi")

    async def test_a_history_can_be_read_back_to_its_start_in_parts(self, chats: Caller) -> None:
        session_id, ids = await _conversation(chats, 23)
        read: list[str] = []
        while part := await chats.get_session_history(
            USER, session_id, limit=5, before=read[0] if read else None
        ):
            assert len(part) <= 5
            # Concurrent writes do not move the parts.
            await chats.add_message(session_id, "user", "later")
            read = [item.message_id for item in part] + read
        assert read == ids
