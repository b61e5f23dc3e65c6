"""Changes of messages on both SQL backends, while others change the same session."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import (
    BackendUnavailableError,
    InvalidInputError,
    MessageConflictError,
    NewMessage,
    RetryConfig,
    VersionConflictError,
)
from sessions.core.values import NewSession
from sessions.testing.open_connections import count_checked_out
from tests.support import raw_rows
from tests.support.databases import Backend, execute_postgres
from tests.support.racers import Racers, racers

TASKS = 16  # In each of two processes.
MANY = 120
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module", name="racers")
def _racers() -> Iterator[Racers]:
    with racers() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return Backend(request.param, request.param, request.getfixturevalue(f"{request.param}_url"))


async def filled(repository: Any, count: int) -> str:
    """Return the id of a new session with messages."""
    session_id: str = await repository.create_session_async("user")
    await repository.add_messages(session_id, [("user", str(number)) for number in range(count)])
    return session_id


async def contents(repository: Any, session_id: str, **part: Any) -> list[str]:
    history = await repository.get_session_history("user", session_id, **part)
    return [message.content for message in history]


# --- races -----------------------------------------------------------------------------------------


async def test_no_two_callers_pop_the_same_message(backend: Backend, racers: Racers) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, MANY)
        before = await repository.get_session("user", session_id)
        stored = {message.message_id for message in await repository.get_session_history("user", session_id)}
        job = {"work": "pop", "session_id": session_id, "tasks": TASKS}
        results = await asyncio.to_thread(racers.run, backend, job, job)
        after = await repository.get_session("user", session_id)
        assert await repository.count_messages("user", session_id) == 0

    popped = [message_id for ids in results for message_id in ids]
    assert len(popped) == MANY
    assert set(popped) == stored
    assert after.version == before.version + MANY
    assert after.updated_at > before.updated_at


async def test_what_is_appended_is_popped_once_or_stays(backend: Backend, racers: Racers) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 5)
        before = [message.message_id for message in await repository.get_session_history("user", session_id)]
        job = {"work": "append_and_pop", "session_id": session_id, "tasks": TASKS, "times": 8}
        results = await asyncio.to_thread(racers.run, backend, job, job)
        left = [message.message_id for message in await repository.get_session_history("user", session_id)]

    appended = before + [message_id for result in results for message_id in result["appended"]]
    popped = [message_id for result in results for message_id in result["popped"]]
    assert len(popped) > TASKS
    assert sorted(popped + left) == sorted(appended)


async def test_a_reader_and_a_copy_see_one_replacement(backend: Backend, racers: Racers) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 0)
        job = {"work": "replace", "session_id": session_id, "tasks": 5, "times": 6}
        jobs = [job | {"name": name} for name in ("one", "two")]
        results = await asyncio.to_thread(racers.run, backend, *jobs)
        assert (await repository.get_session("user", session_id)).version == 2 * 5 * 6

    for history in (history for result in results for history in result):
        [content] = set(history)
        assert len(history) == 3 + int(content.split("-")[1])


async def test_changes_of_the_same_sessions_neither_fail_nor_deadlock(
    backend: Backend, racers: Racers
) -> None:
    async with backend.repository() as repository:
        session_ids = [await filled(repository, 5) for _ in range(2)]
        job = {"work": "work_on_messages", "session_ids": session_ids, "tasks": 8, "times": 20}
        results = await asyncio.to_thread(racers.run, backend, *[job | {"seed": seed} for seed in range(2)])
        assert results == [[], []]
        assert count_checked_out(repository) == 0

    assert raw_rows.orphans(backend) == []


async def test_one_of_many_writers_with_the_same_version_succeeds(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 3)
        [first, *_] = await repository.get_session_history("user", session_id)
        version = (await repository.get_session("user", session_id)).version
        key = "user", session_id
        calls = [
            *(repository.clear_messages(*key, expected_version=version) for _ in range(5)),
            *(repository.replace_messages(*key, [("user", "x")], expected_version=version) for _ in range(5)),
            *(
                repository.update_message(*key, first.message_id, content="x", expected_version=version)
                for _ in range(5)
            ),
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert (await repository.get_session("user", session_id)).version == version + 1
    assert sorted(type(outcome) is VersionConflictError for outcome in outcomes) == [False] + [True] * 14


async def test_merges_of_different_keys_are_all_kept(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 1)
        [message] = await repository.get_session_history("user", session_id)
        key = "user", session_id, message.message_id
        version = (await repository.get_session("user", session_id)).version
        await asyncio.gather(
            *[repository.update_message(*key, merge_metadata={str(n): n}) for n in range(10)]
        )
        assert (await repository.get_message(*key)).metadata == {str(n): n for n in range(10)}
        assert (await repository.get_session("user", session_id)).version == version + 10


# --- what changes, and what does not ---------------------------------------------------------------


async def test_a_change_without_effect_leaves_the_session_as_it_is(backend: Backend) -> None:
    async with backend.repository() as repository:
        empty = await repository.create_session_async("user")
        session_id = await filled(repository, 2)
        [first, last] = await repository.get_session_history("user", session_id)
        key = "user", session_id
        await repository.update_message(*key, first.message_id, metadata={"a": 1, "b": [1]}, payload=[1])
        before = [await repository.get_session("user", each) for each in (empty, session_id)]

        assert await repository.pop_message("user", empty) is None
        assert await repository.clear_messages("user", empty) == 0
        assert await repository.replace_messages("user", empty, []) == []
        assert await repository.delete_messages(*key, []) == 0
        assert await repository.delete_messages(*key, [uuid.uuid4()]) == 0
        assert await repository.delete_messages_from(*key, last.message_id, inclusive=False) == 0
        assert await repository.update_message(*key, first.message_id, content="0")
        assert await repository.update_message(*key, first.message_id, metadata={"b": [1], "a": 1})
        assert await repository.update_message(*key, first.message_id, merge_metadata={"a": 1}, payload=[1])
        assert await repository.update_message(*key, last.message_id, payload=None)
        assert not await repository.update_message(*key, uuid.uuid4(), content="Hi")
        await repository.fork_session(*key)

        assert [await repository.get_session("user", each) for each in (empty, session_id)] == before
        # Equal in Python, but not the same JSON.
        for other in (1.0, True):
            assert await repository.update_message(*key, first.message_id, merge_metadata={"a": other})
            found = (await repository.get_message(*key, first.message_id)).metadata["a"]
            assert (found, type(found)) == (other, type(other))


async def test_another_users_session_is_neither_read_nor_changed(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 3)
        [first, *_] = await repository.get_session_history("user", session_id)
        before = await repository.get_session("user", session_id)
        key = "other", session_id
        assert await repository.get_message(*key, first.message_id) is None
        assert await repository.count_messages(*key) == 0
        assert await repository.get_session_history(*key, after=first.message_id) == []
        assert await repository.get_session_history(*key, since=LONG_AGO) == []
        assert await repository.pop_message(*key) is None
        assert await repository.clear_messages(*key, expected_version=99) == 0
        assert await repository.delete_messages(*key, [first.message_id]) == 0
        assert await repository.delete_messages_from(*key, first.message_id) == 0
        assert not await repository.update_message(*key, first.message_id, content="x", expected_version=99)
        # A message of one session under the id of another one of the same user.
        own = await filled(repository, 2)
        assert await repository.get_message("user", own, first.message_id) is None
        assert not await repository.update_message("user", own, first.message_id, content="x")
        assert await repository.delete_messages("user", own, [first.message_id]) == 0
        for argument in ("before", "after"):
            with pytest.raises(InvalidInputError, match=argument):
                await repository.get_session_history("user", own, **{argument: first.message_id})
        with pytest.raises(InvalidInputError, match="message_id"):
            await repository.delete_messages_from("user", own, first.message_id)
        with pytest.raises(InvalidInputError, match="through"):
            await repository.fork_session("user", own, through=first.message_id)
        assert await repository.count_sessions("user") == 2
        assert await contents(repository, own) == ["0", "1"]
        assert await contents(repository, session_id) == ["0", "1", "2"]
        assert await repository.get_session("user", session_id) == before


async def test_a_replacement_may_keep_ids_and_takes_none_of_another_session(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id, other = await filled(repository, 3), await filled(repository, 1)
        [first, second, _] = await repository.get_session_history("user", session_id)
        [foreign] = await repository.get_session_history("user", other)
        before = await repository.get_session("user", session_id)
        new = NewMessage("assistant", "new", payload={"b": 1, "a": float("inf")})
        conflict = [("user", "lost"), NewMessage("user", "lost", message_id=foreign.message_id)]
        with pytest.raises(MessageConflictError):
            await repository.replace_messages("user", session_id, conflict)
        assert await repository.get_session("user", session_id) == before
        assert await contents(repository, session_id) == ["0", "1", "2"]
        # In another order than before, and with all else new.
        kept = NewMessage("tool", "kept", message_id=second.message_id, metadata={"k": None})
        early = NewMessage("user", "early", message_id=first.message_id, timestamp=LONG_AGO)
        ids = await repository.replace_messages("user", session_id, [kept, new, early])

        history = await repository.get_session_history("user", session_id)
        after = await repository.get_session("user", session_id)
        assert [message.message_id for message in history] == [ids[2], ids[0], ids[1]]
        assert ids[0] == second.message_id
        assert [message.content for message in history] == ["early", "kept", "new"]
        assert (history[0].timestamp, history[1].metadata) == (LONG_AGO, {"k": None})
        assert history[2].payload == new.payload
        assert after.version == before.version + 1
        assert before.updated_at < history[1].timestamp < history[2].timestamp < after.updated_at
        assert await contents(repository, other) == ["0"]
        # Ties of given timestamps are in the order of writing, whatever the ids look like.
        ids = sorted((str(uuid.uuid4()) for _ in range(20)), reverse=True)
        tied = [NewMessage("user", str(n), message_id=id_, timestamp=LONG_AGO) for n, id_ in enumerate(ids)]
        await repository.replace_messages("user", session_id, tied)
        assert await contents(repository, session_id) == [str(number) for number in range(20)]


async def test_pages_forwards_are_complete_also_among_equal_timestamps(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 0)
        tied = [NewMessage("user", str(n), timestamp=LONG_AGO + timedelta(seconds=n // 7)) for n in range(30)]
        await repository.replace_messages("user", session_id, tied)
        read: list[Any] = await repository.get_session_history("user", session_id, since=LONG_AGO, limit=4)
        key = "user", session_id
        while page := await repository.get_session_history(*key, after=read[-1].message_id, limit=4):
            read += page
        assert [message.content for message in read] == [str(number) for number in range(30)]
        since = LONG_AGO + timedelta(seconds=2)
        assert await contents(repository, session_id, since=since, limit=2) == ["14", "15"]
        assert await contents(repository, session_id, since=since) == [str(n) for n in range(14, 30)]
        assert await contents(repository, session_id, after=read[27].message_id) == ["28", "29"]
        assert await contents(repository, session_id, after=read[-1].message_id, limit=5) == []
        for part in ({}, {"after": read[0].message_id}, {"before": read[9].message_id}, {"since": LONG_AGO}):
            assert await contents(repository, session_id, **part, limit=0) == []
        exported = [
            messages
            async for chat_session, messages in repository.export_user("user")
            if chat_session.session_id == session_id
        ]
        assert exported == [read]
        backend_part = repository._calls.backend.export_messages
        position, parts = None, []
        while part := await backend_part(session_id, "user", position, 4):
            parts += [message for message, _ in part]
            position = part[-1][1]
        assert parts == read


# --- copies ----------------------------------------------------------------------------------------


async def test_a_copy_has_the_same_messages_in_the_same_order(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 3)
        tied = [NewMessage("tool", f"tied {n}", timestamp=LONG_AGO, payload=[n]) for n in range(20)]
        old = await repository.get_session_history("user", session_id)
        await repository.replace_messages(
            "user", session_id, [*tied, NewMessage("user", "last", metadata={"n": 1.5}), ("assistant", "end")]
        )
        history = await repository.get_session_history("user", session_id)
        copy = await repository.fork_session("user", session_id, session_data={"title": "Copy"})
        part = await repository.fork_session("user", session_id, through=history[4].message_id)
        for new_id, expected in ((copy, history), (part, history[:5])):
            copied = await repository.get_session_history("user", new_id)
            as_before = [
                (m.role, m.content, m.timestamp, m.metadata, m.payload, m.session_id) for m in copied
            ]
            assert as_before == [
                (m.role, m.content, m.timestamp, m.metadata, m.payload, new_id) for m in expected
            ]
            ids = {m.message_id for m in copied}
            assert len(ids) == len(expected)
            assert ids.isdisjoint({m.message_id for m in history + old})
            assert all(uuid.UUID(each).version == 4 for each in ids)
            # They go on apart, and what is appended comes last.
            await repository.add_message(new_id, "user", "appended")
            assert (await contents(repository, new_id))[-1] == "appended"
            assert len(await contents(repository, new_id)) == len(expected) + 1
        assert (await repository.get_session("user", copy)).title == "Copy"
        assert await repository.get_session_history("user", session_id) == history


async def test_what_is_appended_to_a_copy_comes_last_although_the_clock_was_ahead(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 1)
        ahead = "2099-01-01 00:00:00.000000"
        if backend.name == "postgres":
            execute_postgres(backend.url, f"UPDATE chat_sessions SET updated_at = '{ahead}+00'")
        else:
            with closing(sqlite3.connect(backend.url.removeprefix("sqlite:///"))) as connection, connection:
                connection.execute(f"UPDATE chat_sessions SET updated_at = '{ahead}'")
        await repository.add_message(session_id, "user", "of 2099")
        copy = await repository.fork_session("user", session_id)
        await repository.add_message(copy, "user", "appended")
        assert await contents(repository, copy) == ["0", "of 2099", "appended"]


async def test_a_repeated_attempt_finds_the_copy_that_is_stored(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 3)
        fork = repository._calls.backend.fork
        new = NewSession(str(uuid.uuid4()), "user", "Copy", {}, datetime.now(UTC))
        assert await fork(session_id, "user", None, new)
        assert await fork(session_id, "user", None, new)
        await repository.delete_session_async("user", session_id)
        assert await fork(session_id, "user", None, new)
        assert await contents(repository, new.session_id) == ["0", "1", "2"]


# --- failures --------------------------------------------------------------------------------------


async def test_a_cancelled_change_is_complete_or_has_no_effect(backend: Backend) -> None:
    async with backend.repository() as repository:
        session_id = await filled(repository, 40)
        key = "user", session_id
        batches = [await contents(repository, session_id)]
        for delay in (0, 0.001, 0.002, 0.004, 0.008):
            batch = [("user", f"{delay} {number}") for number in range(40)]
            batches.append([content for _, content in batch])
            task = asyncio.create_task(repository.replace_messages(*key, batch))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            # Of this call or of an earlier one: the server may still execute it.
            assert await contents(repository, session_id) in batches
        async with asyncio.timeout(60):  # A statement of SQLite continues in the background.
            while count_checked_out(repository):
                await asyncio.sleep(0.01)


async def test_a_pop_whose_response_is_lost_is_not_repeated(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    retry = RetryConfig(max_attempts=3, base_delay=0.001)
    async with backend.repository(retry=retry) as repository:
        session_id = await filled(repository, 3)
        manager, pop = repository._connection_manager, repository._calls.backend.pop_message

        async def lose_the_response(*arguments: Any) -> None:
            await pop(*arguments)
            raise ConnectionResetError

        monkeypatch.setattr(repository._calls.backend, "pop_message", lose_the_response)
        monkeypatch.setattr(type(manager), "is_transient", lambda *_: True)
        monkeypatch.setattr(type(manager), "outcome_is_unknown", lambda *_: True)
        with pytest.raises(BackendUnavailableError):
            await repository.pop_message("user", session_id)
        assert await contents(repository, session_id) == ["0", "1"]
