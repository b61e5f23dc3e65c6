"""The contract of what a message holds: roles, metadata, payloads, and ids and timestamps of the caller."""
# The tests are named for the behaviour they hold.
# ruff: noqa: D102

from __future__ import annotations

import math
import random
import uuid
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from sessions.errors import MessageConflictError, SessionNotFoundError
from sessions.models import ChatMessage, NewMessage, Role
from sessions.testing.callers import Caller
from sessions.testing.shared import RepositoryContract
from sessions.testing.values import METADATA, OTHER, TEXTS, USER, same_json

__all__ = ["PAYLOADS", "NewMessagesContract", "same_payload"]

ROLES: tuple[Role, ...] = ("user", "assistant", "system", "developer", "tool")
# Whole seconds, which every database stores.
START = datetime(2024, 2, 29, 12, tzinfo=UTC)

PAYLOADS: dict[str, Any] = {
    "none": None,
    "null inside": {"a": None, "b": [None]},
    "false": False,
    "zero": 0,
    "empty text": "",
    "empty list": [],
    "empty object": {},
    "text": "plain",
    "special numbers": [math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, 5e-324, 1.7976931348623157e308],
    "big integers": [10**199 + 7, -(10**199) - 7, 2**63, -(2**64)],
    "truth": [True, 1, 1.0, False, 0],
    "NUL": {"\0": "\0a\0", "text": "\\u0000"},
    "lone surrogates": {"\ud800": ["\udfff", "a\ud83d"]},
    "key order": {"z": 1, "a": {"y": 1, "x": 2, "": 3}, "m": 2},
    "odd keys": {"$set": {"$ne": ""}, "a.b": {"": [{".": 1}]}, "_id": 1, "\xe9": 1, "e\u0301": 2},
    "texts": dict(zip(TEXTS, TEXTS, strict=True)),
    "written numbers": ["1e400", "NaN", "null", 0.1, 1e16],
    "tool calls": [
        {"type": "function", "id": "call_1", "function": {"name": "find", "arguments": '{"city": "Rome"}'}}
    ],
}


def same_payload(stored: Any, returned: Any) -> bool:
    """Return whether a payload came back equal: types, key order and the sign of zero included."""
    if type(stored) is not type(returned):
        return False
    if isinstance(stored, dict):
        return list(stored) == list(returned) and all(map(same_payload, stored.values(), returned.values()))
    if isinstance(stored, list):
        return len(stored) == len(returned) and all(map(same_payload, stored, returned))
    if isinstance(stored, float):
        both_nan = math.isnan(stored) and math.isnan(returned)
        return both_nan or (stored == returned and math.copysign(1, stored) == math.copysign(1, returned))
    return bool(stored == returned)


def new_id() -> str:
    """Return a random id, which says nothing about the order."""
    return str(uuid.uuid4())


async def _history(chats: Caller, session_id: str) -> list[ChatMessage]:
    found: list[ChatMessage] = await chats.get_session_history(USER, session_id)
    return found


class NewMessagesContract(RepositoryContract):
    """What a message holds."""

    # -- Values ------------------------------------------------------------------------------------

    async def test_each_role_comes_back_from_each_operation_that_stores_messages(self, chats: Caller) -> None:
        pairs: list[tuple[Any, str]] = [(role, f"of {role}") for role in ROLES]
        session_id = await chats.create_session(USER, None, messages=pairs)
        for role, content in pairs:
            await chats.add_message(session_id, role, content)
        await chats.add_messages(session_id, [NewMessage(role, content) for role, content in pairs])
        history = await _history(chats, session_id)
        assert [(item.role, item.content) for item in history] == pairs * 3

    async def test_pairs_and_new_messages_may_be_mixed_wherever_messages_are_taken(
        self, chats: Caller
    ) -> None:
        mixed: list[Any] = [
            ("user", "a"),
            NewMessage("tool", "b", metadata={"n": 1}, payload=[1]),
            ["assistant", "c"],
            NewMessage("system"),
        ]
        session_id = await chats.create_session(USER, {"title": "Kept"}, messages=mixed)
        ids = await chats.add_messages(session_id, iter(mixed))
        expected: list[Any] = [
            ("user", "a", {}, None),
            ("tool", "b", {"n": 1}, [1]),
            ("assistant", "c", {}, None),
            ("system", "", {}, None),
        ]
        history = await _history(chats, session_id)
        values = [(item.role, item.content, item.metadata, item.payload) for item in history]
        assert values == expected * 2
        assert [item.message_id for item in history[4:]] == ids
        assert len({item.message_id for item in history}) == 8

    async def test_metadata_of_messages_comes_back_equal_and_plain(self, chats: Caller) -> None:
        created = [NewMessage("user", name, metadata=metadata) for name, metadata in METADATA.items()]
        session_id = await chats.create_session(USER, None, messages=created)
        for name, metadata in METADATA.items():
            await chats.add_message(session_id, "user", name, metadata=metadata)
        history = await _history(chats, session_id)
        assert len(history) == 2 * len(METADATA)
        for message in history:
            assert type(message.metadata) is dict
            if not same_json(METADATA[message.content], message.metadata):
                pytest.fail(f"{message.content}: came back as {ascii(message.metadata)[:200]}")

    async def test_payloads_come_back_equal(self, chats: Caller) -> None:
        created = [NewMessage("tool", name, payload=payload) for name, payload in PAYLOADS.items()]
        session_id = await chats.create_session(USER, None, messages=created)
        for name, payload in PAYLOADS.items():
            await chats.add_message(session_id, "tool", name, payload=payload)
        history = await _history(chats, session_id)
        assert len(history) == 2 * len(PAYLOADS)
        for message in history:
            if not same_payload(PAYLOADS[message.content], message.payload):
                pytest.fail(f"{message.content}: came back as {ascii(message.payload)[:200]}")

    async def test_payloads_are_read_alone(self, chats: Caller) -> None:
        with_payload = [
            NewMessage("tool", name, payload=payload)
            for name, payload in PAYLOADS.items()
            if payload is not None
        ]
        without = [NewMessage("user", "no payload", metadata={"a": 1}), NewMessage("tool", "none")]
        for created in (with_payload, [with_payload[0], *without, *with_payload[1:]]):
            session_id = await chats.create_session(USER, None, messages=created)
            history = await _history(chats, session_id)
            for limit in (None, 0, 1, len(created) - 1, len(created) + 5):
                found = await chats.get_session_payloads(USER, session_id, limit=limit)
                wanted = history if limit is None else history[max(0, len(history) - limit) :]
                for payload, message in zip(found, wanted, strict=True):
                    if message.payload is None:
                        assert payload == message
                    elif not same_payload(PAYLOADS[message.content], payload):
                        pytest.fail(f"{message.content}: came back as {ascii(payload)[:200]}")
        session_id = await chats.create_session(USER, None, messages=with_payload[:1])
        first = with_payload[0].payload
        assert await chats.get_session_payloads(USER, session_id) == [first]
        await chats.add_message(session_id, "user", "no payload")
        [*_, last] = await _history(chats, session_id)
        for _ in range(2):
            assert await chats.get_session_payloads(USER, session_id) == [first, last]
        assert await chats.get_session_payloads(OTHER, session_id) == []
        assert await chats.get_session_payloads(USER, new_id()) == []

    async def test_a_tuple_in_a_payload_comes_back_as_a_list(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        await chats.add_message(session_id, "user", "Hi", payload=(1, ("a", {"b": ()})))
        [message] = await _history(chats, session_id)
        assert message.payload == [1, ["a", {"b": []}]]

    async def test_a_session_is_created_with_its_first_messages_all_or_none(self, chats: Caller) -> None:
        first = new_id()
        session_id = await chats.create_session(
            USER, {"metadata": {"a": 1}}, messages=[NewMessage("user", "Hi", message_id=first), ("tool", "b")]
        )
        chat_session = await chats.get_session(USER, session_id)
        assert (chat_session.version, chat_session.metadata) == (0, {"a": 1})
        assert chat_session.created_at <= chat_session.updated_at
        assert (await _history(chats, session_id))[0].message_id == first
        batch = [("user", "new"), NewMessage("user", "Hi", message_id=first)]
        with pytest.raises(MessageConflictError):
            await chats.create_session(USER, None, messages=batch)
        assert [item.session_id for item in await chats.list_paginated_sessions(USER)] == [session_id]
        assert len(await _history(chats, session_id)) == 2

    # -- Ids of the caller -------------------------------------------------------------------------

    async def test_a_repeated_message_is_stored_once_and_returns_the_same_id(self, chats: Caller) -> None:
        session_id, message_id = await chats.create_session(USER, None), new_id()
        async with self.changing(chats, session_id):
            assert await chats.add_message(session_id, "user", "Hi", message_id=message_id) == message_id
        stored = await _history(chats, session_id)
        async with self.changing(chats, session_id, by=0):
            for again in (
                message_id,
                uuid.UUID(message_id),
                message_id.upper()[: 36 * self.takes_only_uuids],
            ):
                if again:
                    sent = chats.add_message(session_id, "user", "Hi", message_id=again, user_id=USER)
                    assert await sent == message_id
            # What was stored first stays.
            await chats.add_message(
                session_id, "user", "Hi", message_id=message_id, metadata={"a": 1}, payload=1, timestamp=START
            )
        assert await _history(chats, session_id) == stored

    async def test_a_repeated_batch_is_stored_once_and_one_stored_in_part_is_completed(
        self, chats: Caller
    ) -> None:
        session_id, ids = await chats.create_session(USER, None), [new_id() for _ in range(4)]
        batch = [NewMessage("user", str(place), message_id=each) for place, each in enumerate(ids)]
        async with self.changing(chats, session_id):
            assert await chats.add_messages(session_id, batch[:2]) == ids[:2]
        async with self.changing(chats, session_id, by=0):
            for _ in range(2):
                assert await chats.add_messages(session_id, batch[:2]) == ids[:2]
                assert await chats.add_messages(session_id, batch[1:2]) == ids[1:2]
        async with self.changing(chats, session_id):
            assert await chats.add_messages(session_id, batch) == ids
        assert [item.message_id for item in await _history(chats, session_id)] == ids

    async def test_an_id_that_is_taken_by_another_message_is_a_conflict_and_nothing_is_stored(
        self, chats: Caller
    ) -> None:
        session_id, other = [await chats.create_session(USER, None) for _ in range(2)]
        theirs = await chats.create_session(OTHER, None)
        taken = new_id()
        await chats.add_message(session_id, "user", "secret", message_id=taken)
        for target, role, content in (
            (session_id, "assistant", "secret"),
            (session_id, "user", "other"),
            (other, "user", "secret"),
            (theirs, "user", "secret"),
        ):
            message = NewMessage(ROLES[role == "assistant"], content, message_id=taken)
            calls = [
                partial(chats.add_message, target, role, content, message_id=taken),
                partial(chats.add_messages, target, [message]),
                partial(chats.add_messages, target, [("user", "new"), message, ("user", "new")]),
                partial(chats.add_messages, target, [("user", "new")] * 70 + [message]),
            ]
            for call in calls:
                with pytest.raises(MessageConflictError) as caught:
                    await call()
                assert "secret" not in str(caught.value)
        for user_id, target, count in ((USER, session_id, 1), (USER, other, 0), (OTHER, theirs, 0)):
            assert len(await chats.get_session_history(user_id, target)) == count
        assert (await chats.get_session(USER, other)).version == 0

    async def test_a_repeated_message_reveals_nothing_to_others(self, chats: Caller) -> None:
        session_id, message_id = await chats.create_session(USER, None), new_id()
        await chats.add_message(session_id, "user", "Hi", message_id=message_id)
        for target in (session_id, new_id()):
            with pytest.raises(SessionNotFoundError):
                await chats.add_message(target, "user", "Hi", message_id=message_id, user_id=OTHER)

    async def test_the_id_of_a_message_that_is_gone_may_be_used_again(self, chats: Caller) -> None:
        session_id, message_id = await chats.create_session(USER, None), new_id()
        for content in ("one", "two"):
            await chats.add_message(session_id, "user", content, message_id=message_id)
            assert await chats.delete_messages(USER, session_id, [message_id]) == 1
        other = await chats.create_session(USER, None)
        await chats.add_message(other, "user", "three", message_id=message_id)
        assert await chats.delete_session(USER, other)
        await chats.add_message(session_id, "user", "four", message_id=message_id)
        assert [item.content for item in await _history(chats, session_id)] == ["four"]

    # -- Order -------------------------------------------------------------------------------------

    async def test_write_order_is_kept_whatever_the_ids_look_like(self, chats: Caller) -> None:
        session_id, ids = await chats.create_session(USER, None), []
        for number in range(30):
            ids.append(await chats.add_message(session_id, "user", str(number), message_id=new_id()))
            batch = [NewMessage("tool", "in a batch", message_id=new_id()) for _ in range(number % 4)]
            ids += await chats.add_messages(session_id, batch)
        history = await _history(chats, session_id)
        assert [item.message_id for item in history] == ids
        timestamps = [item.timestamp for item in history]
        assert timestamps == sorted(timestamps)

    async def test_given_timestamps_sort_where_they_say_and_come_back_in_utc(self, chats: Caller) -> None:
        session_id = await chats.create_session(USER, None)
        await chats.add_message(session_id, "user", "now")
        abroad = timezone(timedelta(hours=5, minutes=45))
        moments = {
            "later": datetime(2190, 1, 1, tzinfo=UTC),
            "leap day": START,
            "abroad": (START + timedelta(seconds=1)).astimezone(abroad),
            "last": datetime(9999, 12, 30, tzinfo=UTC),
            "first": datetime(1, 1, 2, tzinfo=UTC),
            "before 1970": datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        }
        for content, moment in moments.items():
            await chats.add_message(session_id, "user", content, timestamp=moment)
        # Messages of the future do not set the clock.
        await chats.add_message(session_id, "user", "also now")
        history = await _history(chats, session_id)
        contents = ["first", "before 1970", "leap day", "abroad", "now", "also now", "later", "last"]
        assert [item.content for item in history] == contents
        for message in history:
            assert message.timestamp.utcoffset() == timedelta(0)
            assert message.timestamp == moments.get(message.content, message.timestamp)
        assert abs((await chats.get_session(USER, session_id)).updated_at - datetime.now(UTC)) < timedelta(1)

    async def test_of_equal_timestamps_the_order_of_writing_decides(self, chats: Caller) -> None:
        session_id, choice = await chats.create_session(USER, None), random.Random(14)
        written: dict[datetime, list[str]] = {START + timedelta(seconds=each): [] for each in range(3)}
        for _ in range(12):
            batch = [
                NewMessage("user", "Hi", message_id=new_id(), timestamp=choice.choice(list(written)))
                for _ in range(choice.choice((1, 1, 4)))
            ]
            for message in batch:
                assert message.timestamp is not None
                written[message.timestamp].append(str(message.message_id))
            if len(batch) == 1:
                given = {"message_id": batch[0].message_id, "timestamp": batch[0].timestamp}
                await chats.add_message(session_id, "user", "Hi", **given)
            else:
                await chats.add_messages(session_id, batch)
        history = await _history(chats, session_id)
        assert [item.message_id for item in history] == [each for ids in written.values() for each in ids]

    async def test_a_call_with_a_given_timestamp_bumps_updated_at_to_the_time_of_writing(
        self, chats: Caller
    ) -> None:
        session_id = await chats.create_session(USER, None)
        for moment in (START, datetime(2190, 1, 1, tzinfo=UTC)):
            async with self.changing(chats, session_id):
                await chats.add_message(session_id, "user", "Hi", timestamp=moment)
            updated_at = (await chats.get_session(USER, session_id)).updated_at
            assert abs(updated_at - datetime.now(UTC)) < timedelta(hours=1)
