"""What is answered from the cache, to whom, and for how long."""

from __future__ import annotations

import asyncio
import traceback
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from sessions import (
    AsyncChats,
    BackendUnavailableError,
    CachedSessionRepository,
    ChatMessage,
    InvalidInputError,
    MemoryCache,
    NewMessage,
    RedisCache,
    SessionConflictError,
    SessionNotFoundError,
)
from sessions.cache import SessionCache, scopes, shared_reads
from sessions.cache.scopes import Names
from sessions.core.calls import Calls
from sessions.core.port import Backend
from tests.cache.conftest import Clock

ALICE, BOB = "alice", "bob"
HOSTILE = ["a:b", "a", "b:a", "{a}", "3:a", "*", "a\nb", "\u202e", "all", "lists"]


async def contents(repository: Any, session_id: str, **part: Any) -> list[str]:
    return [message.content for message in await repository.get_session_history(ALICE, session_id, **part)]


async def test_what_was_read_is_read_from_the_cache(cached: Any, behind: Any) -> None:
    session_id = await cached.create_session_async(ALICE, {"title": "old"}, messages=[("user", "a")])
    first = [
        await cached.get_session(ALICE, session_id),
        await cached.get_session_history(ALICE, session_id),
        await cached.list_sessions(ALICE),
        await cached.list_session_previews(ALICE, where={"a": None}),
        await cached.list_paginated_sessions_async(ALICE),
    ]
    await behind.update_session_async(ALICE, session_id, {"title": "new"})
    await behind.add_message(session_id, "user", "b")
    assert first == [
        await cached.get_session(ALICE, session_id),
        await cached.get_session_history(ALICE, session_id),
        await cached.list_sessions(ALICE),
        await cached.list_session_previews(ALICE, where={"a": None}),
        await cached.list_paginated_sessions_async(ALICE),
    ]
    assert cached.cache.counts.hits == 5
    await cached.invalidate(ALICE, session_id)
    assert (await cached.get_session(ALICE, session_id)).title == "new"
    assert await contents(cached, session_id) == ["a", "b"]
    assert [each.title for each in (await cached.list_sessions(ALICE)).sessions] == ["new"]


async def test_other_parts_of_what_there_is_are_read_from_the_database(counting: Any) -> None:
    cached = CachedSessionRepository(counting, cache=MemoryCache())
    session_id = await cached.create_session_async(ALICE, messages=[("user", text) for text in "abcd"])
    history = await cached.get_session_history(ALICE, session_id)
    page = await cached.list_sessions(ALICE, limit=1)
    counting.backend.calls.clear()
    for _ in range(2):
        assert await contents(cached, session_id, before=history[2].message_id) == ["a", "b"]
        assert await contents(cached, session_id, after=history[2].message_id) == ["d"]
        assert await contents(cached, session_id, since=history[3].timestamp) == ["d"]
        assert await cached.count_messages(ALICE, session_id) == 4
        assert await cached.list_paginated_sessions_async(ALICE, 1) == []
    assert len(counting.backend.calls) == 10
    assert page.next_cursor is None


async def test_a_shorter_window_is_read_from_a_longer_one(counting: Any) -> None:
    cached = CachedSessionRepository(counting, cache=MemoryCache())
    session_id = await cached.create_session_async(ALICE, messages=[("user", text) for text in "abcdef"])
    calls = counting.backend.calls
    calls.clear()
    assert await contents(cached, session_id, limit=3) == ["d", "e", "f"]
    assert await contents(cached, session_id, limit=3) == ["d", "e", "f"]
    assert await contents(cached, session_id, limit=1) == ["f"]
    assert calls == ["history"]
    # A longer one is read anew, and so is all of it.
    assert await contents(cached, session_id, limit=5) == ["b", "c", "d", "e", "f"]
    assert await contents(cached, session_id, limit=2) == ["e", "f"]
    assert calls == ["history"] * 2
    assert await contents(cached, session_id) == list("abcdef")
    assert await contents(cached, session_id, limit=100) == list("abcdef")
    assert await contents(cached, session_id, limit=2) == ["e", "f"]
    assert calls == ["history"] * 3
    assert await contents(cached, session_id, limit=0) == []


async def test_a_window_that_has_fewer_messages_than_asked_for_is_all_of_it(counting: Any) -> None:
    cached = CachedSessionRepository(counting, cache=MemoryCache())
    session_id = await cached.create_session_async(ALICE, messages=[("user", "a"), ("user", "b")])
    counting.backend.calls.clear()
    for part in ({"limit": 3}, {}, {"limit": 7}):
        assert await contents(cached, session_id, **part) == ["a", "b"]
    assert counting.backend.calls == ["history"]


async def test_every_value_comes_back_equal_and_belongs_to_its_reader(cached: Any, behind: Any) -> None:
    payload = {"b": [1.0, 10**4000, "\ud800", "\0", None, {"deep": [[[]]]}], "a": float("inf")}
    metadata = {"$set": {"a.b": [True, 2**63 - 1, -0.0, 1.0, 1]}, "": "\u2028"}
    messages = [
        NewMessage("tool", "\u2028\n\r\x1f\x7f😀", payload=payload, metadata={"a": [1]}),
        NewMessage("user", "", timestamp=datetime(1, 1, 2, tzinfo=UTC)),
        NewMessage("user", "x", timestamp=datetime(9999, 12, 30, tzinfo=UTC)),
        NewMessage("user", "falsy", payload=0),
    ]
    session_id = await cached.create_session_async(
        ALICE, {"title": "\n😀", "metadata": metadata}, messages=messages
    )
    for read in ("get_session", "get_session_history"):
        expected = await getattr(behind, read)(ALICE, session_id)
        first = await getattr(cached, read)(ALICE, session_id)
        again = await getattr(cached, read)(ALICE, session_id)
        assert repr(first) == repr(again) == repr(expected)
        for one in again if isinstance(again, list) else [again]:
            one.metadata["a"] = "changed"
            if isinstance(one, ChatMessage) and one.payload:
                one.payload["b"].clear()
        assert repr(await getattr(cached, read)(ALICE, session_id)) == repr(expected)
    assert cached.cache.counts.hits == 4


@pytest.mark.parametrize("user_id", [BOB, *HOSTILE])
async def test_nobody_reads_what_is_cached_of_another_user(cached: Any, user_id: str) -> None:
    session_id = await cached.create_session_async(ALICE, {"title": "of alice"}, messages=[("user", "a")])
    for _ in range(2):
        assert await cached.get_session(ALICE, session_id)
        assert await contents(cached, session_id) == ["a"]
        assert len((await cached.list_sessions(ALICE)).sessions) == 1
        assert await cached.get_session(user_id, session_id) is None
        assert await cached.get_session_history(user_id, session_id) == []
        assert (await cached.list_sessions(user_id)).sessions == []
        assert (await cached.list_session_previews(user_id)).previews == []
    with pytest.raises(SessionNotFoundError):
        await cached.add_message(session_id, "user", "b", user_id=user_id)


def test_no_two_values_have_one_key() -> None:
    keys: set[Any] = set()
    count = 0
    for database in ("a", "a:1:b", ""):
        names = Names(database)
        for user_id in HOSTILE:
            for work, arguments in (
                *(("get", (session_id, user_id)) for session_id in HOSTILE),
                ("list_after", (user_id, None, 10, None)),
                ("list_after", (user_id, None, 11, None)),
                ("list_after", (user_id, None, 10, {"a": (1,)})),
                ("list_after", (user_id, None, 10, {"a": (1.0,)})),
                ("list_after", (user_id, None, 10, {"a": (True,)})),
                ("list_page", (user_id, 0, 10)),
            ):
                read = names.read_of(work, arguments)
                assert read is not None
                keys |= {read.key, *((tag,) for tag in read.tags)}
                count += 1
    # Besides them, each database has tags for each user, for each session, and for all lists.
    assert len(keys) == count + 1 + 3 * (3 * len(HOSTILE) + 1)


async def test_a_value_that_somebody_else_put_there_is_not_shown(behind: Any, redis_url: str) -> None:
    cache = RedisCache(redis_url, timeout=20)
    cached = CachedSessionRepository(behind, cache=cache)
    ours = await cached.create_session_async(ALICE, messages=[("user", "a")])
    theirs = await cached.create_session_async(BOB, messages=[("user", "secret")])
    for user_id, session_id in ((ALICE, ours), (BOB, theirs)):
        await cached.get_session(user_id, session_id)
        await cached.get_session_history(user_id, session_id)
        await cached.list_sessions(user_id)
        await cached.list_session_previews(user_id)
    with redis.Redis.from_url(redis_url) as client:
        values = {key: client.hget(key, "p") for key in client.keys("*:v:*")}
        of_bob = {key: value for key, value in values.items() if BOB.encode() in key}
        assert len(values) == 8
        for key in values.keys() - of_bob.keys():
            for forged in (*of_bob.values(), b"", b"\xff", b"[]\n[]", b"null", b"[" * 10**6):
                client.hset(key, "p", forged)
                assert (await cached.get_session(ALICE, ours)).user_id == ALICE
                assert await contents(cached, ours) == ["a"]
                assert [each.session_id for each in (await cached.list_sessions(ALICE)).sessions] == [ours]
                previews = (await cached.list_session_previews(ALICE)).previews
                assert [each.session.session_id for each in previews] == [ours]
            client.hset(key, "p", values[key])
    await cache.aclose()


# -- Many readers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["get_session", "get_session_history"])
async def test_a_hundred_readers_of_one_session_are_one_read_of_the_database(
    counting: Any, cache: SessionCache, read: str
) -> None:
    # A repository for each request, as a service makes them.
    repositories = [CachedSessionRepository(counting, cache=cache) for _ in range(100)]
    session_id = await repositories[0].create_session_async(ALICE, messages=[("user", "a")])
    counting.backend.calls.clear()
    counting.backend.held = asyncio.Event()
    reads = [asyncio.ensure_future(getattr(each, read)(ALICE, session_id)) for each in repositories]
    while cache.counts.misses < len(reads):
        await asyncio.sleep(0.001)
    counting.backend.held.set()
    found = await asyncio.gather(*reads)
    assert len(counting.backend.calls) == 1
    assert all(each == found[0] for each in found)
    assert len({id(each[0] if isinstance(each, list) else each) for each in found}) == len(found)


async def test_threads_that_block_share_a_read_too(counting: Any, memory: MemoryCache) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE, messages=[("user", "a")])
    counting.backend.calls.clear()
    found = await asyncio.gather(
        *(asyncio.to_thread(cached.get_session_history_sync, ALICE, session_id) for _ in range(20))
    )
    assert [len(each) for each in found] == [1] * 20
    assert counting.backend.calls == ["history"]


async def test_a_reader_that_is_cancelled_leaves_the_read_to_another(
    counting: Any, memory: MemoryCache
) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE)
    counting.backend.held = asyncio.Event()
    reads = [asyncio.ensure_future(cached.get_session(ALICE, session_id)) for _ in range(3)]
    await asyncio.sleep(0)
    reads[0].cancel()
    counting.backend.held.set()
    first, *others = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert [each.session_id for each in others] == [session_id] * 2


async def test_an_error_of_a_shared_read_is_an_error_of_its_own_for_each(
    counting: Any, memory: MemoryCache
) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE)
    attempts = 0

    async def perform(_work: Any, _arguments: Any) -> Any:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0)
        try:
            raise OSError("reset")
        except OSError as cause:
            raise BackendUnavailableError("gone") from cause

    perform_before, counting.backend.perform = counting.backend.perform, perform
    reads = [asyncio.ensure_future(cached.get_session(ALICE, session_id)) for _ in range(100)]
    found = await asyncio.gather(*reads, return_exceptions=True)
    assert attempts == 1
    assert {type(each) for each in found} == {BackendUnavailableError}
    assert len({id(each) for each in found}) == len(found)
    assert {str(each) for each in found} == {"gone"}
    assert {str(each.__cause__) for each in found} == {"reset"}
    # Nobody's traceback has the frames of another one.
    assert max(len(traceback.extract_tb(each.__traceback__)) for each in found) < 30
    counting.backend.perform = perform_before
    assert await cached.get_session(ALICE, session_id)


@pytest.mark.parametrize(
    "error", [InvalidInputError("before", "is not there"), OSError(5, "text"), KeyError("a")]
)
def test_a_copy_of_an_error_is_equal_to_it(error: Exception) -> None:
    error.add_note("a note")
    copied = shared_reads._own(error)
    assert copied is not error
    assert (type(copied), str(copied), copied.args) == (type(error), str(error), error.args)
    copied.add_note("another one")
    assert error.__notes__ == ["a note"]


async def test_readers_of_shorter_windows_wait_for_the_longest(counting: Any, memory: MemoryCache) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE, messages=[("user", text) for text in "abcdef"])
    counting.backend.calls.clear()
    counting.backend.held = asyncio.Event()
    limits = [3, 1, 2, 5, 4, 3, None, 6, 100, None, 1]
    reads = [asyncio.ensure_future(contents(cached, session_id, limit=limit)) for limit in limits]
    while memory.counts.misses < len(reads):
        await asyncio.sleep(0)
    counting.backend.held.set()
    found = await asyncio.gather(*reads)
    assert found == [list("abcdef")[-(limit or 6) :] for limit in limits]
    # Each that was the longest so far.
    assert counting.backend.calls == ["history"] * 3


async def test_a_reader_does_not_wait_for_a_read_that_is_older_than_ttl(
    counting: Any, memory: MemoryCache, clock: Clock
) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE, {"title": "old"})
    read, resume = asyncio.Event(), asyncio.Event()
    perform = counting.backend.perform

    async def perform_slowly(work: Any, arguments: Any) -> Any:
        result = await perform(work, arguments)
        read.set()
        await resume.wait()
        return result

    counting.backend.perform = perform_slowly
    slow = asyncio.ensure_future(cached.get_session(ALICE, session_id))
    await read.wait()
    counting.backend.perform = perform
    await counting.update_session_async(ALICE, session_id, {"title": "new"})
    clock.now += memory.ttl
    assert (await cached.get_session(ALICE, session_id)).title == "new"
    resume.set()
    assert (await slow).title == "old"
    assert (await cached.get_session(ALICE, session_id)).title == "new"


async def test_a_blocking_call_does_not_wait_for_a_read_of_its_own_thread(
    counting: Any, memory: MemoryCache
) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE)
    counting.backend.held = held = asyncio.Event()
    slow = asyncio.ensure_future(cached.get_session(ALICE, session_id))
    await asyncio.sleep(0)
    counting.backend.held = None
    # This thread cannot continue the read before the call returns.
    assert cached.get_session_sync(ALICE, session_id)
    held.set()
    assert await slow


async def test_who_reads_after_a_write_does_not_wait_for_a_read_from_before(
    counting: Any, memory: MemoryCache
) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE, {"title": "old"})
    counting.backend.held = held = asyncio.Event()
    slow = asyncio.ensure_future(cached.get_session(ALICE, session_id))
    await asyncio.sleep(0)
    counting.backend.held = None
    await cached.update_session_async(ALICE, session_id, {"title": "new"})
    assert (await cached.get_session(ALICE, session_id)).title == "new"
    held.set()
    await slow
    assert (await cached.get_session(ALICE, session_id)).title == "new"


# -- Writes ----------------------------------------------------------------------------------------


async def test_an_append_without_a_user_concerns_the_owner_alone(cached: Any) -> None:
    session_id = await cached.create_session_async(ALICE)
    for user_id in (ALICE, BOB):
        await cached.list_sessions(user_id)
    await cached.add_message(session_id, "user", "a")
    hits = cached.cache.counts.hits
    assert (await cached.list_sessions(ALICE)).sessions[0].version == 1
    assert cached.cache.counts.hits == hits
    await cached.list_sessions(BOB)
    assert cached.cache.counts.hits == hits + 1


async def test_an_append_without_a_user_to_a_session_that_nobody_has_read_is_seen(
    cached: Any, behind: Any
) -> None:
    session_id = await behind.create_session_async(ALICE)
    assert (await cached.list_sessions(ALICE)).sessions[0].version == 0
    await cached.add_messages(session_id, [("user", "a"), ("user", "b")])
    assert (await cached.list_sessions(ALICE)).sessions[0].version == 1


async def test_a_session_created_anew_by_another_user_is_its_own(cached: Any) -> None:
    session_id = str(uuid.uuid4())
    for user_id, content in ((ALICE, "a"), (BOB, "b"), (ALICE, "c")):
        assert await cached.ensure_session_exists(session_id, user_id)
        await cached.list_sessions(user_id)
        await cached.add_message(session_id, "user", content)
        assert [each.content for each in await cached.get_session_history(user_id, session_id)] == [content]
        assert (await cached.list_sessions(user_id)).sessions[0].version == 1
        other = BOB if user_id == ALICE else ALICE
        assert await cached.get_session(other, session_id) is None
        assert await cached.get_session_history(other, session_id) == []
        with pytest.raises(SessionConflictError):
            await cached.ensure_session_exists(session_id, other)
        assert await cached.delete_session_async(user_id, session_id)
        assert await cached.get_session(user_id, session_id) is None
        assert (await cached.list_sessions(user_id)).sessions == []


@pytest.mark.parametrize("how", ["ensure", "create", "in a transaction"])
async def test_who_asks_for_another_user_s_id_does_not_pass_for_its_owner(cached: Any, how: str) -> None:
    session_id = await cached.create_session_async(ALICE)
    asked = {
        "ensure": lambda: cached.ensure_session_exists(session_id, BOB),
        "create": lambda: cached.create_session_async(BOB, session_id=session_id),
        "in a transaction": lambda: cached.run_in_transaction(
            lambda inside: inside.ensure_session_exists(session_id, BOB)
        ),
    }
    with pytest.raises(SessionConflictError):
        await asked[how]()
    assert (await cached.list_sessions(ALICE)).sessions[0].version == 0
    await cached.add_message(session_id, "user", "a")
    assert (await cached.list_sessions(ALICE)).sessions[0].version == 1


@pytest.mark.parametrize("many", [False, True])
async def test_a_session_restored_for_another_user_has_that_owner(cached: Any, many: bool) -> None:
    session_id = await cached.create_session_async(ALICE)
    stored = await cached.get_session(ALICE, session_id)
    assert await cached.delete_user(ALICE) == 1
    stored.user_id = BOB
    await (cached.admin.restore_many([(stored, [])]) if many else cached.admin.restore(stored, []))
    assert (await cached.list_sessions(BOB)).sessions[0].version == 0
    await cached.add_message(session_id, "user", "a")
    assert (await cached.list_sessions(BOB)).sessions[0].version == 1


async def test_a_session_that_is_ensured_and_there_stays_in_the_cache(cached: Any) -> None:
    session_id = str(uuid.uuid4())
    assert await cached.ensure_session_exists(session_id, ALICE)
    await cached.get_session(ALICE, session_id)
    assert not await cached.ensure_session_exists(session_id, ALICE)
    hits = cached.cache.counts.hits
    await cached.get_session(ALICE, session_id)
    assert cached.cache.counts.hits == hits + 1


async def test_what_looks_across_users_makes_invalid_what_it_writes(cached: Any, behind: Any) -> None:
    session_id = await cached.create_session_async(ALICE, {"title": "old"}, messages=[("user", "a")])
    stored = await cached.get_session(ALICE, session_id)
    [message] = await cached.get_session_history(ALICE, session_id)
    await cached.list_sessions(ALICE)
    stored.title, message.content = "restored", "b"
    await cached.admin.restore(stored, [message])
    assert (await cached.get_session(ALICE, session_id)).title == "restored"
    assert await contents(cached, session_id) == ["b"]
    stored.title = "restored again"
    await AsyncChats(repository=cached).admin.restore_many([(stored, [])])
    assert (await cached.list_sessions(ALICE)).sessions[0].title == "restored again"
    assert await cached.delete_sessions_older_than(datetime.now(UTC) + timedelta(days=1)) == 1
    assert await cached.get_session(ALICE, session_id) is None
    assert (await cached.list_sessions(ALICE)).sessions == []


async def test_chats_and_blocking_twins_share_the_cache(cached: Any) -> None:
    chats = cached.chats
    session_id = await chats.create_session(ALICE, title="old")
    await chats.get_session(ALICE, session_id)
    assert (await asyncio.to_thread(cached.get_session_sync, ALICE, session_id)).title == "old"
    assert cached.cache.counts.hits == 1
    assert await asyncio.to_thread(cached.update_session, ALICE, session_id, {"title": "new"})
    assert (await chats.get_session(ALICE, session_id)).title == "new"
    await asyncio.to_thread(cached.invalidate_sync, ALICE)


async def test_a_write_that_is_cancelled_is_seen_whenever_it_takes_effect(
    counting: Any, memory: MemoryCache
) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE, {"title": "old"})
    counting.backend.held = asyncio.Event()
    write = asyncio.ensure_future(cached.update_session_async(ALICE, session_id, {"title": "new"}))
    await asyncio.sleep(0)
    write.cancel()
    await asyncio.gather(write, return_exceptions=True)
    counting.backend.held = None
    assert (await cached.get_session(ALICE, session_id)).title == "old"
    # The server does it all the same, a little later.
    await counting.update_session_async(ALICE, session_id, {"title": "new"})
    assert (await cached.get_session(ALICE, session_id)).title == "new"


async def test_what_is_written_past_the_cache_is_seen_after_ttl(
    counting: Any, memory: MemoryCache, clock: Clock
) -> None:
    cached = CachedSessionRepository(counting, cache=memory)
    session_id = await cached.create_session_async(ALICE, {"title": "old"})
    await cached.get_session(ALICE, session_id)
    await counting.update_session_async(ALICE, session_id, {"title": "new"})
    clock.now += memory.ttl - 1
    assert (await cached.get_session(ALICE, session_id)).title == "old"
    clock.now += 1
    assert (await cached.get_session(ALICE, session_id)).title == "new"


def test_each_operation_of_a_backend_is_a_read_or_a_write() -> None:
    works = {name for name in Backend.__abstractmethods__ if not name.startswith("check_")}
    works |= {"make_ready", "payloads"}  # With a default of their own.
    written = {
        *("create", "ensure", "fork", "append", "delete", "delete_beyond", "delete_user", "delete_older"),
        *("restore", "restore_many", *scopes._TO_ONE_SESSION),
    }
    assert works == scopes.UNCACHED | scopes.CACHED | written
    assert not scopes.UNCACHED & (scopes.CACHED | written)


async def test_batches_are_one_write_for_the_cache(
    counting: Any, memory: MemoryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache server that does not respond delays each call once, and not once for each batch."""
    cached = CachedSessionRepository(counting, cache=memory)
    monkeypatch.setattr(Calls, "batch_size", 2)
    for _ in range(5):
        await cached.create_session_async(ALICE)
    begun: list[Any] = []
    begin = memory.begin

    async def counted(*arguments: Any) -> Any:
        begun.append(arguments)
        return await begin(*arguments)

    monkeypatch.setattr(memory, "begin", counted)
    assert await cached.delete_user(ALICE) == 5
    assert len(begun) == 1
    assert (await cached.list_sessions(ALICE)).sessions == []
