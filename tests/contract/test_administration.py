"""What looks across users: iteration, export, restore, statistics; the same on every backend."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest

from sessions import (
    AsyncChats,
    ChatMessage,
    Chats,
    ChatSession,
    InvalidInputError,
    MessageConflictError,
    NewMessage,
    SessionConflictError,
    Statistics,
)
from tests.support.databases import Backend

THEN = datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC)
ROLES = ("user", "assistant", "system", "developer", "tool")
PAYLOADS: tuple[Any, ...] = (
    None,
    {"z": 1, "a": [2**100, -0.0, math.inf]},
    "NUL \x00 and a lone surrogate \ud800",
    ["key", {"role": "user", "content": "not a message"}],
    False,
)


def new_id() -> str:
    return str(uuid.uuid4())


def chat_session(user_id: str = "alice", **values: Any) -> ChatSession:
    given = {"metadata": {"tags": ["a", {"b": None}], "$x.y": 1.5}, "version": 7} | values
    return ChatSession(new_id(), "Trip to Rom 🌍", user_id, THEN, THEN + timedelta(hours=1), **given)


def messages_of(owner: ChatSession, count: int = 5) -> list[ChatMessage]:
    """Return messages with random ids, of which the later ones have equal timestamps."""
    return [
        ChatMessage(
            new_id(),
            owner.session_id,
            ROLES[number % 5],
            f"Message {number}",
            THEN + timedelta(seconds=min(number, 2)),
            {"usage.input_tokens": number},
            PAYLOADS[number % 5],
        )
        for number in range(count)
    ]


async def exported(repository: Any, **filters: Any) -> dict[str, tuple[ChatSession, list[ChatMessage]]]:
    """Return everything, each session once, with the parts of its messages put together."""
    parts = [item async for item in repository.admin.export(**filters)]
    whole = {}
    for session_id, group in groupby(parts, key=lambda item: item[0].session_id):
        assert session_id not in whole
        together = list(group)
        whole[session_id] = (together[0][0], [message for _, part in together for message in part])
    return whole


async def test_what_is_restored_is_read_back_exactly(repository: Any) -> None:
    owner = chat_session()
    messages = messages_of(owner)

    await repository.admin.restore(owner, messages)

    assert await repository.get_session("alice", owner.session_id) == owner
    assert await repository.get_session_history("alice", owner.session_id) == messages
    assert await exported(repository) == {owner.session_id: (owner, messages)}


async def test_a_restore_may_be_repeated(repository: Any) -> None:
    owner = chat_session()
    messages = messages_of(owner, 9)

    await repository.admin.restore(owner, messages[:4])
    for _ in range(2):
        await repository.admin.restore(owner, messages[:4])
        await repository.admin.restore(owner, messages[4:])

    assert await exported(repository) == {owner.session_id: (owner, messages)}


async def test_an_append_of_what_is_restored_changes_nothing(repository: Any) -> None:
    owner = chat_session()
    messages = messages_of(owner)
    again = [NewMessage(one.role, one.content, message_id=one.message_id) for one in messages]
    for _ in range(2):
        await repository.admin.restore(owner, messages)
        for part in (again, again[:1]):
            await repository.add_messages(owner.session_id, part)
            assert await repository.get_session("alice", owner.session_id) == owner


async def test_a_restore_brings_back_what_was_changed_since(repository: Any) -> None:
    session_id = await repository.create_session_async("alice", {"title": "Before", "metadata": {"a": 1}})
    await repository.add_messages(session_id, [("user", "One"), ("assistant", "Two")])
    backup = await exported(repository)
    [owner, messages] = backup[session_id]
    await repository.update_session_async("alice", session_id, {"title": "After", "metadata": {"b": 2}})
    changed = replace(messages[0], content="Changed", metadata={"edited": True}, payload=[1])
    await repository.admin.restore(owner, [changed])
    assert (await repository.get_session_history("alice", session_id))[0] == changed

    await repository.admin.restore(owner, messages)

    assert await exported(repository) == backup
    # A session that was deleted, too.
    assert await repository.delete_session_async("alice", session_id)
    await repository.admin.restore(owner, messages)
    assert await exported(repository) == backup


async def test_a_restore_keeps_the_other_messages_of_the_session(repository: Any) -> None:
    owner = chat_session()
    messages = messages_of(owner, 3)
    await repository.admin.restore(owner, messages[::2])
    later = await repository.add_message(owner.session_id, "user", "Later")

    await repository.admin.restore(owner, messages[1:2])

    history = await repository.get_session_history("alice", owner.session_id)
    assert history[:3] == messages
    assert [message.message_id for message in history[3:]] == [later]
    assert await repository.get_session("alice", owner.session_id) == owner


async def test_writing_goes_on_after_a_restore(repository: Any) -> None:
    owner = chat_session()
    messages = messages_of(owner, 2)
    await repository.admin.restore(owner, messages)

    ids = await repository.add_messages(owner.session_id, [("user", "Three"), ("assistant", "Four")])

    history = await repository.get_session_history("alice", owner.session_id)
    assert [message.message_id for message in history] == [item.message_id for item in messages] + ids
    after = await repository.get_session("alice", owner.session_id)
    assert after.updated_at > owner.updated_at
    assert await repository.delete_session_async("alice", owner.session_id)
    nothing = await repository.admin.statistics()
    assert replace(nothing, bytes_on_disk=0) == Statistics(0, 0, 0, None, None)


async def test_a_restore_does_not_take_a_session_of_another_user(repository: Any) -> None:
    owner = chat_session("yours")
    messages = messages_of(owner)
    await repository.admin.restore(owner, messages)
    before = await exported(repository)

    mine = replace(owner, user_id="mine", title="Mine")
    for given in ([], messages, [replace(messages[0], message_id=new_id())]):
        with pytest.raises(SessionConflictError):
            await repository.admin.restore(mine, given)

    assert await exported(repository) == before


@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_a_restore_does_not_take_a_message_of_another_session(repository: Any, user: str) -> None:
    owner, other = chat_session(), chat_session(user)
    messages = messages_of(owner)
    await repository.admin.restore(owner, messages)
    before = await exported(repository)

    given = [*messages_of(other, 2), replace(messages[3], session_id=other.session_id)]
    with pytest.raises(MessageConflictError) as caught:
        await repository.admin.restore(other, given)
    assert "Message 3" not in str(caught.value)

    assert await exported(repository) == before
    assert await repository.get_session(user, other.session_id) is None


async def test_concurrent_restores_of_the_same_data_store_it_once(backend: Backend) -> None:
    owners = [chat_session(f"user {number}") for number in range(3)]
    given = [(owner, messages_of(owner, 20)) for owner in owners]

    async def restore_all(repository: Any) -> None:
        for owner, messages in given:
            await repository.admin.restore(owner, messages[:10])
            await repository.admin.restore(owner, messages[10:])

    async with backend.repository(pool_size=4) as one, backend.repository(pool_size=3) as another:
        await one.ensure_ready()
        await asyncio.gather(*[restore_all(repository) for repository in (one, another) * 3])
        assert await exported(one) == {owner.session_id: (owner, messages) for owner, messages in given}


async def test_of_concurrent_restores_of_one_message_into_two_sessions_one_fails(repository: Any) -> None:
    owners = [chat_session(f"user {number}") for number in range(4)]
    shared = new_id()
    given = [[*messages_of(owner, 2)] for owner in owners]
    for messages in given:
        messages[1] = replace(messages[1], message_id=shared)

    outcomes = await asyncio.gather(
        *[repository.admin.restore(*pair) for pair in zip(owners, given, strict=True)],
        return_exceptions=True,
    )

    [stored] = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert sum(isinstance(outcome, MessageConflictError) for outcome in outcomes) == 3
    assert await exported(repository) == {owners[stored].session_id: (owners[stored], given[stored])}


async def test_users_and_sessions_are_iterated_in_small_pages(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.core.calls.Calls.batch_size", 3)
    assert [item async for item in repository.admin.iter_users()] == []
    assert [item async for item in repository.admin.iter_sessions()] == []
    # One has more sessions than a page, and there is a full last page.
    users = {f"user {number}": 8 if number == 4 else 1 for number in range(9)} | {"ä": 1, "A": 2, "🌍": 1}
    stored = {}
    for user, count in users.items():
        for _ in range(count):
            session_id = await repository.create_session_async(user, {"title": user})
            stored[session_id] = await repository.get_session(user, session_id)
            await repository.add_messages(session_id, [("user", "Hi")] * count)

    found = [user async for user in repository.admin.iter_users()]
    assert sorted(found) == sorted(users)
    assert found == [user async for user in repository.admin.iter_users()]
    sessions = [item async for item in repository.admin.iter_sessions()]
    assert [item.session_id for item in sessions] == sorted(stored)
    assert {item.session_id: item for item in sessions} == {
        session_id: await repository.get_session(item.user_id, session_id)
        for session_id, item in stored.items()
    }
    whole = await exported(repository)
    assert [len(messages) for _, messages in whole.values()] == [users[item.user_id] for item in sessions]


async def test_sessions_that_change_meanwhile_are_iterated_once(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.core.calls.Calls.batch_size", 2)
    users = ["alice", "bob"]
    ids = [await repository.create_session_async(users[number % 2]) for number in range(9)]
    found = []
    async for item in repository.admin.iter_sessions():
        found.append(item.session_id)
        for session_id in ids:
            await repository.add_message(session_id, "user", "Hi")

    assert sorted(found) == sorted(ids)
    seen = []
    async for item, _ in repository.admin.export(user_id="alice"):
        seen.append(item.session_id)
        if len(seen) < 3:
            for session_id in ids:
                await repository.add_message(session_id, "user", "Hi")
    assert sorted(set(seen)) == sorted(ids[::2])


async def test_filters_choose_sessions(repository: Any) -> None:
    values: list[Any] = ["a", 1, 1.0, True, None, ["a"], {"a": 1}]
    stored = [
        chat_session(f"user {number % 2}", metadata={"key": value}) for number, value in enumerate(values)
    ]
    stored.append(chat_session("user 1", metadata={}))
    stored = [
        replace(item, updated_at=THEN + timedelta(minutes=number)) for number, item in enumerate(stored)
    ]
    for item in stored:
        await repository.admin.restore(item, messages_of(item, 2))

    async def chosen(**filters: Any) -> list[int]:
        found = [item async for item in repository.admin.iter_sessions(**filters)]
        assert {item.session_id for item in found} == set(await exported(repository, **filters))
        return sorted(stored.index(item) for item in found)

    assert await chosen() == list(range(8))
    assert await chosen(updated_since=stored[3].updated_at) == [3, 4, 5, 6, 7]
    assert await chosen(updated_before=stored[3].updated_at) == [0, 1, 2]
    between = {"updated_since": stored[2].updated_at, "updated_before": stored[4].updated_at}
    assert await chosen(**between) == [2, 3]
    assert await chosen(where={"key": "a"}) == [0]
    assert await chosen(where={"key": 1}) == [1, 2]
    assert await chosen(where={"key": True}) == [3]
    assert await chosen(where={"key": None}) == [4, 7]
    assert await chosen(where={"key": ["a", True]}) == [0, 3]
    assert await chosen(where={"key": []}) == []
    assert await chosen(where={"key": 1, "other": None}, **between) == [2]
    of_user = await exported(repository, user_id="user 1", updated_since=stored[3].updated_at)
    assert sorted(stored.index(item) for item, _ in of_user.values()) == [3, 5, 7]
    assert await exported(repository, user_id="nobody") == {}


async def test_statistics_count_everything(repository: Any) -> None:
    nothing = await repository.admin.statistics()
    assert replace(nothing, bytes_on_disk=0) == Statistics(0, 0, 0, None, None)
    stored = [chat_session("alice"), chat_session("alice"), chat_session("bob")]
    stored[1] = replace(stored[1], created_at=THEN - timedelta(days=1))
    stored[2] = replace(stored[2], updated_at=THEN + timedelta(days=1))
    for number, item in enumerate(stored):
        await repository.admin.restore(item, messages_of(item, number))

    found = await repository.admin.statistics()

    totals = found.users, found.sessions, found.messages, found.oldest, found.newest
    assert totals == (2, 3, 3, THEN - timedelta(days=1), THEN + timedelta(days=1))


@pytest.mark.parametrize(
    ("argument", "session_values", "message_values"),
    [
        ("chat_session.title", {"title": ""}, {}),
        ("chat_session.user_id", {"user_id": {"$ne": ""}}, {}),
        ("chat_session.session_id", {"session_id": 7}, {}),
        ("chat_session.created_at", {"created_at": datetime(2024, 1, 1)}, {}),
        ("chat_session.updated_at", {"updated_at": None}, {}),
        ("chat_session.metadata", {"metadata": None}, {}),
        ("chat_session.version", {"version": -1}, {}),
        ("chat_session.version", {"version": True}, {}),
        ("messages[1].message_id", {}, {"message_id": None}),
        ("messages[1].session_id", {}, {"session_id": new_id()}),
        ("messages[1].role", {}, {"role": "robot"}),
        ("messages[1].content", {}, {"content": "\x00"}),
        ("messages[1].timestamp", {}, {"timestamp": None}),
        ("messages[1].metadata.a", {}, {"metadata": {"a": math.nan}}),
        ("messages[1].payload", {}, {"payload": {1}}),
    ],
)
async def test_what_is_invalid_is_not_restored(
    repository: Any, argument: str, session_values: dict[str, Any], message_values: dict[str, Any]
) -> None:
    owner = chat_session()
    first, second = messages_of(owner, 2)
    with pytest.raises(InvalidInputError) as caught:
        await repository.admin.restore(
            replace(owner, **session_values), [first, replace(second, **message_values)]
        )
    assert caught.value.argument == argument
    assert await exported(repository) == {}


async def test_arguments_of_another_kind_are_named(repository: Any) -> None:
    owner = chat_session()
    [message] = messages_of(owner, 1)
    for argument, call in [
        ("chat_session", repository.admin.restore({"title": "T"}, [])),
        ("messages", repository.admin.restore(owner, "text")),
        ("messages[0]", repository.admin.restore(owner, [("user", "Hi")])),
        ("messages[1].message_id", repository.admin.restore(owner, [message, message])),
        ("updated_since", anext(repository.admin.iter_sessions(updated_since=datetime(2024, 1, 1)))),
        ("updated_before", anext(repository.admin.export(updated_before="yesterday"))),
        ("where", anext(repository.admin.export(where=[]))),
        ("user_id", anext(repository.admin.export(user_id=7))),
    ]:
        with pytest.raises(InvalidInputError) as caught:
            await call
        assert caught.value.argument == argument


async def test_chats_offer_the_same_in_both_styles(backend: Backend, repository: Any) -> None:
    owner = chat_session()
    messages = messages_of(owner)
    await AsyncChats(repository=repository).admin.restore(owner, messages)

    def blocking() -> None:
        with backend.repository() as own:
            for admin in (Chats(repository=own).admin, own.admin):
                suffix = "" if admin is not own.admin and not hasattr(admin, "restore_sync") else "_sync"
                restore, statistics, iter_users, iter_sessions, export = (
                    getattr(admin, f"{name}{suffix}")
                    for name in ("restore", "statistics", "iter_users", "iter_sessions", "export")
                )
                restore(owner, messages)
                assert statistics().messages == 5
                assert list(iter_users()) == ["alice"]
                assert list(iter_sessions(where={"$x.y": 1.5})) == [owner]
                assert list(export(user_id="alice")) == [(owner, messages)]
                assert list(export(updated_before=owner.updated_at)) == []

    await asyncio.to_thread(blocking)


async def test_many_sessions_are_restored_at_once_and_again(repository: Any) -> None:
    owners = [chat_session(f"user {number % 3}") for number in range(9)]
    given = [(owner, messages_of(owner, number)) for number, owner in enumerate(owners)]
    ids = [owner.session_id for owner in owners]

    assert await repository.admin.restore_many([]) == []
    for _ in range(2):
        assert await repository.admin.restore_many(given) == ids
        assert await exported(repository) == {owner.session_id: (owner, rows) for owner, rows in given}

    # What exists is replaced, and what is new is added.
    changed = [(replace(owner, title="Changed", version=9), rows[:1]) for owner, rows in given]
    new = chat_session("new")
    changed.append((new, messages_of(new, 2)))
    assert await repository.admin.restore_many(iter(changed)) == [*ids, new.session_id]
    found = await exported(repository)
    assert [found[session_id] for session_id in ids] == [
        (owner, rows) for (owner, _), (_, rows) in zip(changed[:-1], given, strict=True)
    ]
    assert found[new.session_id] == changed[-1]


async def test_only_new_sessions_are_restored_if_asked(repository: Any) -> None:
    old, foreign, new = chat_session(), chat_session("bob"), chat_session()
    for owner in (old, foreign):
        await repository.admin.restore(owner, messages_of(owner, 2))
    before = await exported(repository)
    given = [
        (replace(old, title="Changed"), messages_of(old, 3)),
        (new, messages_of(new, 3)),
        (replace(foreign, user_id="alice"), messages_of(foreign, 1)),
    ]
    assert await repository.admin.restore_many(given, only_new=True) == [new.session_id]
    assert await exported(repository) == before | {new.session_id: given[1]}
    assert await repository.admin.restore_many(given, only_new=True) == []


async def test_many_sessions_are_checked_before_any_is_stored(repository: Any) -> None:
    one, two = chat_session(), chat_session()
    rows = messages_of(two, 2)
    twice = [replace(rows[0], session_id=one.session_id)]
    calls: tuple[tuple[Any, str], ...] = (
        ("no list", "conversations"),
        ([one], r"conversations\[0\]"),
        ([(one, []), (two, [replace(rows[0], role="robot")])], r"conversations\[1\].messages\[0\].role"),
        ([(one, []), (replace(two, title=""), [])], r"conversations\[1\].chat_session.title"),
        ([(one, []), (one, [])], r"conversations\[1\].chat_session.session_id"),
        ([(one, twice), (two, rows)], r"conversations\[1\].messages"),
    )
    for given, place in calls:
        with pytest.raises(InvalidInputError, match=f"^{place}"):
            await repository.admin.restore_many(given)
    assert await exported(repository) == {}


async def test_a_taken_id_among_many_sessions_is_a_conflict(repository: Any) -> None:
    old = chat_session("bob")
    stored = messages_of(old, 2)
    await repository.admin.restore(old, stored)
    one, two = chat_session(), chat_session()
    taken = [replace(stored[0], session_id=two.session_id)]
    with pytest.raises(MessageConflictError):
        await repository.admin.restore_many([(one, messages_of(one, 1)), (two, taken)])
    with pytest.raises(SessionConflictError):
        await repository.admin.restore_many([(one, messages_of(one, 1)), (replace(old, user_id="eve"), [])])
    found = await exported(repository)
    assert found.pop(old.session_id) == (old, stored)
    assert set(found) <= {one.session_id}


async def test_concurrent_restores_of_the_same_sessions_store_each_once(backend: Backend) -> None:
    given = [(owner, messages_of(owner, 3)) for owner in (chat_session() for _ in range(20))]
    repositories = [backend.repository() for _ in range(3)]
    await asyncio.gather(*(one.admin.restore_many(given) for one in repositories))
    assert await exported(repositories[0]) == {owner.session_id: (owner, rows) for owner, rows in given}
    await repositories[0].aclose()


async def test_a_restore_in_sqlite_stores_the_same_rows_as_an_append(sqlite_url: str) -> None:
    """It sends the values in the form in which they are stored."""

    def rows() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as raw:
            messages = "SELECT message_id, session_id, role, content, timestamp, metadata, payload"
            return [
                *raw.execute("SELECT * FROM chat_sessions"),
                *raw.execute(f"{messages} FROM chat_messages"),
            ]

    async with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        session_id = await repository.create_session_async("alice", {"metadata": {"a": [1.0, "é"]}})
        message = NewMessage("user", "Hi", metadata={"b": None}, payload=["\x00"], timestamp=THEN)
        await repository.add_messages(session_id, [message, NewMessage("user", "")])
        before = rows()
        [whole] = (await exported(repository)).values()
        await repository.delete_session_async("alice", session_id)
        assert await repository.admin.restore_many([whole]) == [session_id]
        assert rows() == before
