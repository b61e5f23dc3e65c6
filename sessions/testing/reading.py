"""The contract of reading forwards: parts of a history after a message, or from a point in time."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sessions.errors import InvalidInputError
from sessions.models import NewMessage
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import OTHER, USER

__all__ = ["ReadingContract"]

START = datetime(2024, 5, 1, 12, tzinfo=UTC)


async def _conversation(chats: Caller) -> tuple[str, list[str], list[datetime]]:
    """Return a session with ten messages, their ids, and their timestamps, of which three are the same."""
    session_id = await chats.create_session(USER, None)
    moments = [START + timedelta(seconds=each) for each in (0, 1, 2, 3, 3, 3, 4, 5, 6, 7)]
    batch = [NewMessage("user", "Hi", message_id=uuid.uuid4(), timestamp=moment) for moment in moments]
    return session_id, await chats.add_messages(session_id, batch), moments


async def _read(chats: Caller, session_id: str, **part: Any) -> list[str]:
    found = await chats.get_session_history(USER, session_id, **part)
    return [message.message_id for message in found]


class ReadingContract(RepositoryContract):
    """Parts of a history."""

    async def test_after_gives_the_oldest_messages_after_that_one(self, chats: Caller) -> None:
        session_id, ids, _ = await _conversation(chats)
        for place in range(10):
            assert await _read(chats, session_id, after=ids[place]) == ids[place + 1 :]
            for limit in (1, 3, 1000):
                expected = ids[place + 1 :][:limit]
                assert await _read(chats, session_id, after=ids[place], limit=limit) == expected
        assert await _read(chats, session_id, after=uuid.UUID(ids[7])) == ids[8:]

    async def test_since_gives_the_oldest_messages_from_that_moment_on(self, chats: Caller) -> None:
        session_id, ids, moments = await _conversation(chats)
        for moment in (*moments, START - timedelta(days=1), START + timedelta(days=1)):
            expected = [each for each, given in zip(ids, moments, strict=True) if given >= moment]
            abroad = moment.astimezone(timezone(timedelta(hours=-8)))
            assert await _read(chats, session_id, since=moment) == expected
            assert await _read(chats, session_id, since=abroad) == expected
            for limit in (1, 2, 1000):
                assert await _read(chats, session_id, since=moment, limit=limit) == expected[:limit]
        just_after = moments[3] + self.clock_resolution
        assert await _read(chats, session_id, since=just_after) == ids[6:]

    async def test_a_limit_of_0_gives_nothing_and_there_is_no_upper_bound(self, chats: Caller) -> None:
        session_id, ids, moments = await _conversation(chats)
        for part in ({}, {"before": ids[5]}, {"after": ids[5]}, {"since": moments[5]}):
            assert await _read(chats, session_id, limit=0, **part) == []
        for limit in (10, 1001, 10**6, 2**31, 2**63, 10**30):
            assert await _read(chats, session_id, limit=limit) == ids
            assert await _read(chats, session_id, limit=limit, before=ids[9]) == ids[:9]
            assert await _read(chats, session_id, limit=limit, after=ids[0]) == ids[1:]
            assert await _read(chats, session_id, limit=limit, since=START) == ids

    async def test_a_history_can_be_read_forwards_to_its_end_in_parts(self, chats: Caller) -> None:
        session_id, ids, _ = await _conversation(chats)
        read = await _read(chats, session_id, since=datetime(1, 1, 2, tzinfo=UTC), limit=3)
        added: list[str] = []
        while part := await _read(chats, session_id, after=read[-1], limit=3):
            assert len(part) <= 3
            # What is written meanwhile is read in the end.
            if len(added) < 4:
                added.append(await chats.add_message(session_id, "user", "later"))
            read += part
        assert read == ids + added

    async def test_before_and_after_a_message_of_equal_timestamps_follow_the_order(
        self, chats: Caller
    ) -> None:
        session_id = await chats.create_session(USER, None)
        ids = [
            await chats.add_message(session_id, "user", "Hi", message_id=uuid.uuid4(), timestamp=START)
            for _ in range(20)
        ]
        for place in range(20):
            assert await _read(chats, session_id, before=ids[place]) == ids[:place]
            assert await _read(chats, session_id, after=ids[place]) == ids[place + 1 :]
        assert await _read(chats, session_id, before=ids[9], limit=4) == ids[5:9]
        assert await _read(chats, session_id, after=ids[9], limit=4) == ids[10:14]
        assert await _read(chats, session_id, since=START, limit=4) == ids[:4]
        assert await _read(chats, session_id, limit=4) == ids[-4:]

    async def test_after_a_message_that_the_session_does_not_have_is_bad_input(self, chats: Caller) -> None:
        session_id, ids, _ = await _conversation(chats)
        other, others, _ = await _conversation(chats)
        for after in (others[0], str(uuid.uuid4()), session_id):
            for limit in (None, 2):
                with pytest.raises(InvalidInputError) as caught:
                    await chats.get_session_history(USER, session_id, limit=limit, after=after)
                assert caught.value.argument == "after"
                # A foreign session looks like an absent one, whatever is asked of it.
                for target in (other, str(uuid.uuid4())):
                    assert await chats.get_session_history(OTHER, target, limit=limit, after=after) == []
        assert await chats.get_session_history(OTHER, session_id, after=ids[0]) == []
        assert await chats.get_session_history(OTHER, session_id, since=START) == []

    async def test_only_one_end_of_a_part_may_be_given(self, chats: Caller) -> None:
        session_id, ids, moments = await _conversation(chats)
        for part in (
            {"before": ids[5], "after": ids[1]},
            {"before": ids[5], "since": moments[1]},
            {"after": ids[5], "since": moments[1]},
        ):
            with pytest.raises(InvalidInputError):
                await chats.get_session_history(USER, session_id, **part)
