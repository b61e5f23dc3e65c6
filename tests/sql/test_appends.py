"""Appends: order and times of a batch, ids sent again, versions, and metadata merged with them."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from sessions import (
    AsyncChats,
    MessageConflictError,
    NewMessage,
    SessionNotFoundError,
    VersionConflictError,
)

MICROSECOND = timedelta(microseconds=1)
PAYLOAD = {"tool_calls": [{"id": "1", "arguments": '{"a": NaN}'}], "b": float("inf"), "a": 10**40}


async def state(chats: AsyncChats, session_id: str) -> tuple[int, datetime, dict[str, Any]]:
    chat_session = await chats.get_session("alice", session_id)
    assert chat_session is not None
    return chat_session.version, chat_session.updated_at, chat_session.metadata


async def execute(chats: AsyncChats, statement: str) -> None:
    engine = await chats.repository._connection_manager.engine()
    async with engine.connect() as connection:
        await connection.execute(text(statement))


async def test_the_messages_of_a_batch_are_a_microsecond_apart(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    await chats.add_message("alice", session_id, "user", "0")
    await chats.add_messages("alice", session_id, [("user", str(number)) for number in range(1, 50)])
    await chats.add_message("alice", session_id, "user", "50")
    history = await chats.get_session_history("alice", session_id)
    assert [message.content for message in history] == [str(number) for number in range(51)]
    times = [message.timestamp for message in history]
    assert times == sorted(set(times))
    assert times[49] - times[1] == 48 * MICROSECOND
    version, updated_at, _ = await state(chats, session_id)
    assert (version, updated_at) == (3, times[-1])


@pytest.mark.parametrize("ahead", ["2100-01-01 00:00:00.999998", "2100-01-01 00:00:00"])
async def test_times_go_on_after_those_of_a_clock_that_is_ahead(
    chats: AsyncChats, ahead: str, sql_url: str
) -> None:
    session_id = await chats.create_session("alice")
    zone = "" if sql_url.startswith("sqlite") else "+00"
    await execute(chats, f"UPDATE chat_sessions SET updated_at = '{ahead}{zone}'")
    await chats.add_message("alice", session_id, "user", "first")
    await chats.add_messages("alice", session_id, [("user", "second"), ("user", "third")])
    history = await chats.get_session_history("alice", session_id)
    begin = datetime.fromisoformat(ahead).replace(tzinfo=UTC)
    assert [message.timestamp for message in history] == [begin + n * MICROSECOND for n in (1, 2, 3)]
    assert [message.content for message in history] == ["first", "second", "third"]
    assert (await state(chats, session_id))[1] == history[-1].timestamp


async def test_given_timestamps_sort_first_then_the_order_of_writing(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    ids = sorted((str(uuid.uuid4()) for _ in range(4)), reverse=True)
    same = [NewMessage("user", f"noon {n}", timestamp=noon, message_id=ids[n]) for n in range(3)]
    await chats.add_messages("alice", session_id, [*same[:2], ("user", "now")])
    await chats.add_message("alice", session_id, "user", "noon 2", timestamp=noon, message_id=ids[2])
    early = noon - timedelta(hours=1)
    await chats.add_message("alice", session_id, "tool", "early", timestamp=early, message_id=ids[3])
    history = await chats.get_session_history("alice", session_id)
    assert [message.content for message in history] == ["early", "noon 0", "noon 1", "noon 2", "now"]
    assert [message.timestamp for message in history[:4]] == [early, noon, noon, noon]
    # The time of the write, not the given one.
    version, updated_at, _ = await state(chats, session_id)
    assert version == 3
    assert updated_at > history[-1].timestamp


async def test_a_message_comes_back_with_all_it_holds(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    metadata = {"model": "m", "usage.input_tokens": 3, "big": 2**63 - 1, "float": 1e300, "é": ["\u2028"]}
    message_id = uuid.uuid4()
    await chats.add_message(
        "alice", session_id, "developer", "", message_id=message_id, metadata=metadata, payload=PAYLOAD
    )
    await chats.add_messages("alice", session_id, [("system", "plain"), NewMessage("tool", payload=[None])])
    first, second, third = await chats.get_session_history("alice", session_id)
    assert (first.message_id, first.role, first.content) == (str(message_id), "developer", "")
    assert (first.metadata, first.payload) == (metadata, PAYLOAD)
    assert list(first.payload) == list(PAYLOAD)
    assert (second.metadata, second.payload) == ({}, None)
    assert (third.metadata, third.payload) == ({}, [None])


@pytest.mark.parametrize("metadata", [None, {"new": True}])
async def test_a_repetition_stores_nothing(chats: AsyncChats, metadata: dict[str, Any] | None) -> None:
    session_id = await chats.create_session("alice")
    first = NewMessage("user", "One", message_id=uuid.uuid4())
    second = NewMessage("user", "Two", message_id=uuid.uuid4(), metadata={"old": True})
    await chats.add_messages("alice", session_id, [first, second])
    before = await state(chats, session_id)
    again = NewMessage("user", "Two", message_id=second.message_id, metadata=metadata)
    ids = await chats.add_messages("alice", session_id, [first, again], merge_metadata={"merged": True})
    assert ids == [str(first.message_id), str(second.message_id)]
    assert await state(chats, session_id) == before
    # Also under a version that the session had before.
    await chats.add_messages("alice", session_id, [first, again], expected_version=0)
    assert await state(chats, session_id) == before
    assert (await chats.get_session_history("alice", session_id))[1].metadata == {"old": True}


async def test_of_a_batch_that_is_stored_in_part_the_rest_is_stored(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    batch = [NewMessage("user", str(number), message_id=uuid.uuid4()) for number in range(3)]
    await chats.add_messages("alice", session_id, [batch[1]])
    await chats.add_messages("alice", session_id, batch, merge_metadata={"key": 1}, expected_version=1)
    history = await chats.get_session_history("alice", session_id)
    assert [message.content for message in history] == ["1", "0", "2"]
    version, updated_at, metadata = await state(chats, session_id)
    assert (version, updated_at, metadata) == (2, history[-1].timestamp, {"key": 1})


@pytest.mark.parametrize(("role", "content"), [("assistant", "One"), ("user", "Two")])
async def test_another_message_under_a_taken_id_is_a_conflict(
    chats: AsyncChats, role: Any, content: str
) -> None:
    session_id, other = await chats.create_session("alice"), await chats.create_session("alice")
    taken = await chats.add_message("alice", session_id, "user", "One")
    before = await state(chats, session_id), await state(chats, other)
    for where, message in ((session_id, (role, content)), (other, ("user", "One"))):
        with pytest.raises(MessageConflictError) as caught:
            await chats.add_message("alice", where, *message, message_id=taken)
        assert content not in str(caught.value)
        assert caught.value.__context__ is None
        with pytest.raises(MessageConflictError):
            await chats.add_messages(
                "alice", where, [("user", "new"), NewMessage(*message, message_id=taken)]
            )
    assert (await state(chats, session_id), await state(chats, other)) == before
    assert len(await chats.get_session_history("alice", session_id)) == 1


async def test_a_repetition_to_anothers_session_shows_nothing(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    message_id = await chats.add_message("alice", session_id, "user", "One")
    for version in (None, 1, 7):
        with pytest.raises(SessionNotFoundError):
            await chats.add_message(
                "bob", session_id, "user", "One", message_id=message_id, expected_version=version
            )
    for merge in (None, {"key": 1}):
        with pytest.raises(SessionNotFoundError):
            await chats.add_messages("bob", session_id, [], merge_metadata=merge)


async def test_another_version_than_expected_is_a_conflict(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice", messages=[("user", "One")])
    await chats.add_message("alice", session_id, "user", "Two", expected_version=0)
    before = await state(chats, session_id)
    assert before[0] == 1
    for rows in ([], [("user", "Three")], [("user", "Three"), NewMessage("user", metadata={"a": 1})]):
        for merge in (None, {"key": 1}):
            with pytest.raises(VersionConflictError):
                await chats.add_messages("alice", session_id, rows, merge_metadata=merge, expected_version=0)
    assert await state(chats, session_id) == before
    assert len(await chats.get_session_history("alice", session_id)) == 2


async def test_one_of_many_writers_of_a_version_succeeds(chats: AsyncChats, sql_url: str) -> None:
    session_id = await chats.create_session("alice")

    async def write(writer: AsyncChats, number: int) -> bool:
        content = f"message {number}"
        try:
            if number % 2:
                await writer.add_message("alice", session_id, "user", content, expected_version=0)
            else:
                await writer.update_session("alice", session_id, title=content, expected_version=0)
        except VersionConflictError:
            return False
        return True

    succeeded = await asyncio.gather(*(write(chats, number) for number in range(12)))
    assert sum(succeeded) == 1
    assert (await state(chats, session_id))[0] == 1
    number = succeeded.index(True)
    history = [message.content for message in await chats.get_session_history("alice", session_id)]
    assert history == ([f"message {number}"] if number % 2 else [])


async def test_metadata_is_merged_with_the_messages(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice", metadata={"kept": 1, "list": [1, {"a": 2}]})
    await chats.add_messages(
        "alice", session_id, [("user", "One")], merge_metadata={"list": {"b": 1e300}, "new": None}
    )
    version, _, metadata = await state(chats, session_id)
    assert (version, metadata) == (1, {"kept": 1, "list": {"b": 1e300}, "new": None})
    # Without messages, only the merge counts.
    await chats.add_messages("alice", session_id, [], merge_metadata={"kept": 1})
    assert (await state(chats, session_id))[0] == 1
    await chats.add_messages("alice", session_id, [], merge_metadata={"kept": True})
    assert (await state(chats, session_id))[0] == 2
    await chats.repository.add_messages(session_id, [], merge_metadata={"kept": 2})
    version, _, metadata = await state(chats, session_id)
    assert (version, metadata["kept"]) == (3, 2)
    await chats.repository.add_messages(session_id, [("user", "Two")], merge_metadata={"kept": 3})
    assert (await state(chats, session_id))[2]["kept"] == 3


async def test_an_empty_batch_changes_nothing(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice")
    before = await state(chats, session_id)
    assert await chats.add_messages("alice", session_id, []) == []
    assert await state(chats, session_id) == before
    with pytest.raises(SessionNotFoundError):
        await chats.add_messages("alice", str(uuid.uuid4()), [])


async def test_a_session_is_created_with_its_first_messages(chats: AsyncChats) -> None:
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)
    messages = [
        ("system", "Be brief."),
        NewMessage("user", "Hello", metadata={"a": 1}, payload=PAYLOAD),
        NewMessage("user", "Earlier", timestamp=noon),
    ]
    session_id = await chats.create_session("alice", title="Trip", messages=messages)
    history = await chats.get_session_history("alice", session_id)
    assert [message.content for message in history] == ["Earlier", "Be brief.", "Hello"]
    assert (history[2].metadata, history[2].payload) == ({"a": 1}, PAYLOAD)
    chat_session = await chats.get_session("alice", session_id)
    assert chat_session is not None
    assert (chat_session.version, chat_session.title) == (0, "Trip")
    assert chat_session.created_at == history[1].timestamp
    assert chat_session.updated_at == chat_session.created_at + 2 * MICROSECOND


async def test_no_session_is_created_if_a_message_id_is_taken(chats: AsyncChats) -> None:
    session_id = await chats.create_session("alice", messages=[("user", "One")])
    [stored] = await chats.get_session_history("alice", session_id)
    taken = NewMessage("user", "One", message_id=stored.message_id)
    with pytest.raises(MessageConflictError) as caught:
        await chats.create_session("alice", messages=[("user", "Zero"), taken])
    assert caught.value.__context__ is None
    assert await chats.count_sessions("alice") == 1
    assert len(await chats.get_session_history("alice", session_id)) == 1
