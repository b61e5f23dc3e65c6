"""The script on the server, and the keys that it writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from sessions import AsyncChats, ChatMessage, ChatSession, NewMessage
from sessions.backends.redis import mapping
from sessions.backends.redis.commands import Connections
from sessions.backends.redis.script import READS, script_of, scripts
from tests.support import servers

AWKWARD = ["a{b}c", "}{", "a:s:b", "*", "%7B", "é", " ", "x" * 255, "😀" * 255]


@pytest.fixture
def server(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="module")
def forgetful_url() -> Iterator[str]:
    """A server of its own: on the one that all tests share, others load the scripts, or count on theirs."""
    with servers.redis("--hz", "10") as url:
        yield url


@pytest.fixture
def forgetful(forgetful_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(forgetful_url) as client:
        yield client


async def test_a_server_that_forgot_the_script_is_sent_it_again(forgetful_url: str, forgetful: Any) -> None:
    async with AsyncChats(forgetful_url) as chats:
        session_id = await chats.create_session("alice")
        forgetful.script_flush()
        await asyncio.gather(*(chats.add_message("alice", session_id, "user", "Hello") for _ in range(20)))
        assert await chats.count_messages("alice", session_id) == 20


async def test_a_server_that_forgets_the_scripts_once_more_runs_the_call(
    forgetful_url: str, forgetful: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, forgets = Connections._load, 0

    async def load_and_forget(connections: Connections, scopes: Any) -> None:
        nonlocal forgets
        await load(connections, scopes)
        forgetful.script_flush()
        forgets += 1

    monkeypatch.setattr(Connections, "_load", load_and_forget)
    async with AsyncChats(forgetful_url) as chats:
        for count in (1, 3):
            forgetful.script_flush()
            session_id = await chats.create_session("alice")
            forgetful.script_flush()
            await asyncio.gather(
                *(chats.add_message("alice", session_id, "user", "Hello") for _ in range(count))
            )
            assert await chats.count_messages("alice", session_id) == count
    assert forgets >= 4


def test_each_script_has_the_functions_that_it_calls() -> None:
    known = {"tonumber", "ipairs", "unpack", "pcall", "function"}
    for script in scripts():
        called = re.findall(r"(?<![.:\w])([a-z_]\w*)\(", script.text)
        declared = re.findall(r"local (?:function )?([\w, ]+)", script.text)
        assert set(called) <= known | {name for names in declared for name in re.findall(r"\w+", names)}
    found = [name for script in scripts() for name in re.findall(r"^function ops\.(\w+)", script.text, re.M)]
    assert len(found) == len(set(found))
    assert set(found) >= READS
    assert all(f"function ops.{name}()" in script_of(name).text for name in found)


@pytest.mark.parametrize("user_id", AWKWARD)
async def test_all_keys_of_a_user_are_in_one_slot_and_go_with_the_last_session(
    redis_url: str, server: Any, user_id: str
) -> None:
    async with AsyncChats(redis_url) as chats:
        for session_id in AWKWARD:
            assert await chats.ensure_session_exists(user_id, session_id)
            message = NewMessage("user", "Hello", message_id=f"of {session_id}"[:255])
            await chats.add_messages(user_id, session_id, [message, ("assistant", "Hi")])
        mapped = [key for key in server.scan_iter() if "{" in key]
        assert {re.search(r"\{([^}]*)\}", key)[1] for key in mapped} == {mapping.tag_of(user_id)}  # type: ignore
        assert len(mapped) == 3 * len(AWKWARD) + 1
        assert mapping.user_of(mapping.tag_of(user_id)) == user_id
        listed = await chats.list_sessions(user_id, limit=1000)
        assert sorted(found.session_id for found in listed.sessions) == sorted(AWKWARD)
        assert await chats.delete_user(user_id) == len(AWKWARD)
        assert server.dbsize() == 0


async def test_every_operation_that_removes_messages_leaves_no_key_of_them(
    redis_url: str, server: Any
) -> None:
    async with AsyncChats(redis_url) as chats:
        session_id = await chats.create_session("alice")

        def count() -> tuple[int, int]:
            registered = sum(server.scard(key) for key in server.scan_iter("sessions:ids:*"))
            return registered, server.hlen(f"sessions:{{alice}}:i:{session_id}")

        async def refill() -> list[str]:
            await chats.replace_messages("alice", session_id, [("user", str(number)) for number in range(5)])
            assert count() == (5, 5)
            return [message.message_id for message in await chats.get_session_history("alice", session_id)]

        ids = await refill()
        await chats.pop_message("alice", session_id)
        assert count() == (4, 4)
        await chats.delete_messages("alice", session_id, ids[:2])
        assert count() == (2, 2)
        ids = await refill()
        await chats.delete_messages_from("alice", session_id, ids[1])
        assert count() == (1, 1)
        await refill()
        await chats.clear_messages("alice", session_id)
        assert count() == (0, 0)


MOMENTS = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, 0, 0, 0, 1, UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
]


def test_moments_and_places_are_exact_and_sort_as_text() -> None:
    texts = [mapping.encode_moment(moment) for moment in MOMENTS]
    assert texts == sorted(texts)
    assert [mapping.decode_moment(text) for text in texts] == MOMENTS
    inverse = [mapping.index_place(moment) for moment in MOMENTS]
    assert inverse == sorted(inverse, reverse=True)
    positions = [(moment, order, "id") for moment in MOMENTS for order in (0, 1, 2**53 + 1, 2**63 - 1)]
    members = [mapping.place(position) + "\0[]" for position in positions]
    assert members == sorted(members)
    assert [mapping.position_of(member) for member in members] == positions


async def test_a_write_after_a_time_in_the_future_is_a_microsecond_later(redis_url: str) -> None:
    later = datetime(9998, 12, 31, 23, 59, 59, 999_999, UTC)
    async with AsyncChats(redis_url) as chats:
        stored = ChatSession("one", "title", "alice", later, later, {})
        await chats.admin.restore(stored, [ChatMessage("m", "one", "user", "Hello", later)])
        await chats.add_messages("alice", "one", [("user", "a"), ("user", "b")])
        found = await chats.get_session_history("alice", "one")
        assert [message.timestamp - later for message in found] == [timedelta(0, 0, n) for n in range(3)]


async def test_metadata_is_compared_by_value_and_stored_as_it_is(redis_url: str) -> None:
    given = {"whole": 1.0, "big": 2**63 - 1, "empty": [], "nested": {"a": None, "b": [1.0, {}]}, "": ""}
    async with AsyncChats(redis_url) as chats:
        session_id = await chats.create_session("alice", metadata=given, messages=[("user", "Hello")])
        [message] = await chats.get_session_history("alice", session_id)
        for same in ({"whole": 1}, {"nested": {"a": None, "b": [1, {}]}}, {"big": 2**63 - 1, "empty": []}):
            assert await chats.update_session("alice", session_id, merge_metadata=same)
        found = await chats.get_session("alice", session_id)
        assert found is not None
        assert (found.version, repr(sorted(found.metadata.items()))) == (0, repr(sorted(given.items())))
        for other in ({"whole": True}, {"big": 2**63 - 2}, {"empty": {}}):
            await chats.update_session("alice", session_id, merge_metadata=other)
            await chats.update_message("alice", session_id, message.message_id, merge_metadata=other)
        found = await chats.get_session("alice", session_id)
        [message] = await chats.get_session_history("alice", session_id)
        expected = {"whole": True, "big": 2**63 - 2, "empty": {}}
        assert found is not None
        assert (found.version, found.metadata) == (6, given | expected)
        assert message.metadata == expected


async def test_conditions_look_at_more_sessions_than_one_call_does(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.backends.redis.lists.SESSIONS", 7)
    monkeypatch.setattr("sessions.backends.redis.lists.MESSAGES", 3)
    monkeypatch.setattr("sessions.backends.redis.lists.USERS", 2)
    monkeypatch.setattr("sessions.backends.redis.counting.PAGE", 7)
    async with AsyncChats(redis_url) as chats:
        for number in range(50):
            metadata = {"rest": number % 10}
            messages = [("user", "Hello")] * 2
            await chats.create_session(f"user {number % 5}", metadata=metadata, messages=messages)
        for user in range(5):
            wanted = {"rest": user}
            page = await chats.list_sessions(f"user {user}", where=wanted, limit=3)
            rest = await chats.list_sessions(f"user {user}", where=wanted, limit=3, cursor=page.next_cursor)
            assert len({found.session_id for found in page.sessions + rest.sessions}) == 5
            assert await chats.count_sessions(f"user {user}", where=wanted) == 5
        counts = await chats.admin.statistics()
        assert (counts.users, counts.sessions, counts.messages) == (5, 50, 100)
        repository = chats.repository
        soon = datetime.now(UTC) + timedelta(hours=1)
        assert await repository.delete_sessions_older_than(soon, where={"rest": [1, 7]}) == 10
        assert await repository.delete_sessions_older_than(soon) == 40


async def test_a_search_reads_long_sessions_in_parts(redis_url: str) -> None:
    async with AsyncChats(redis_url) as chats:
        for session in range(3):
            messages = [
                ("user", f"{'Needle' if number % 90 == 0 else 'hay'} {number}") for number in range(300)
            ]
            await chats.create_session("alice", title=str(session), messages=messages)
        found, cursor = [], None
        while True:
            page = await chats.search_messages("alice", "needle", limit=5, cursor=cursor)
            found += page.hits
            cursor = page.next_cursor
            if cursor is None:
                break
        assert [(hit.session.title, hit.message.content) for hit in found] == [
            (title, f"Needle {number}") for title in "210" for number in (270, 180, 90, 0)
        ]
