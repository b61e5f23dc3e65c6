"""Group commit in SQLite: one transaction for many callers, in the thread of one connection."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import (
    BackendUnavailableError,
    NewMessage,
    RetryConfig,
    SessionNotFoundError,
    SessionRepositoryFactory,
)
from sessions.backends.sqlite import driver
from sessions.testing.open_connections import count_checked_out
from tests.support.timing import within

USER = "alice"
CALLERS = 64


def make(path: Path, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("sqlite", url=f"sqlite:///{path}", **options)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of a file, as another process would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


async def traced(repository: Any) -> list[str]:
    """Return a list that gets the statements of all connections which the repository opens from now on."""
    statements: list[str] = []
    engine = (await repository._connection_manager.engine()).sync_engine

    def trace(dbapi_connection: Any, _record: object) -> None:
        dbapi_connection.run_async(lambda connection: connection.set_trace_callback(statements.append))

    event.listen(engine, "connect", trace)
    return statements


@pytest.mark.parametrize("hot", [False, True], ids=["many sessions", "one session"])
async def test_concurrent_appends_share_two_transactions(tmp_path: Path, hot: bool) -> None:
    async with make(tmp_path / "sessions.db") as repository:
        statements = await traced(repository)
        session_ids = [await repository.create_session_async(USER) for _ in range(CALLERS)]
        chosen = session_ids[:1] * CALLERS if hot else session_ids
        statements.clear()
        await asyncio.gather(*(repository.add_message(each, "user", "Hello") for each in chosen))
        words = Counter(statement.split()[0] for statement in statements)
        # The first append goes at once, and the others when it has ended.
        assert words == {"BEGIN": 2, "UPDATE": 2, "INSERT": CALLERS, "COMMIT": 2}
        versions = [(await repository.get_session(USER, each)).version for each in set(chosen)]
        assert versions == ([CALLERS] if hot else [1] * CALLERS)


async def test_a_service_s_engine_and_its_listeners_see_each_statement(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with make(path) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(4)]
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 5})
    event.listen(engine.sync_engine, "connect", lambda c, _: c.execute("PRAGMA foreign_keys=ON"))
    seen: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda _c, _u, text, *_: seen.append(text))
    async with SessionRepositoryFactory.create_repository("sqlite", engine=engine) as repository:
        calls = [
            repository.add_message(session_ids[number % 4], "user", str(number), metadata={"n": number})
            for number in range(CALLERS)
        ]
        await asyncio.gather(*calls)
        assert Counter(text.split()[0] for text in seen if not text.startswith("SELECT")) == {
            "BEGIN": 2,
            "UPDATE": 2,
            "INSERT": 2,
            "COMMIT": 2,
        }
        for session_id in session_ids:
            history = await repository.get_session_history(USER, session_id)
            assert [message.metadata["n"] for message in history] == list(
                range(session_ids.index(session_id), CALLERS, 4)
            )
    await engine.dispose()


async def test_the_messages_of_a_batch_have_the_times_of_calls_one_after_another(tmp_path: Path) -> None:
    async with make(tmp_path / "sessions.db") as repository:
        session_id = await repository.create_session_async(USER)
        batches = [[("user", f"{call} {part}") for part in range(3)] for call in range(CALLERS)]
        await asyncio.gather(*(repository.add_messages(session_id, batch) for batch in batches))
        history = await repository.get_session_history(USER, session_id)
        assert [message.content for message in history] == [text for batch in batches for _, text in batch]
        times = [message.timestamp for message in history]
        assert times == sorted(set(times))
        chat_session = await repository.get_session(USER, session_id)
        assert (chat_session.version, chat_session.updated_at) == (CALLERS, times[-1])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 3, 3), (1, 2, 3)], ids=["one each", "as many", "different"])
async def test_each_session_of_a_batch_gets_its_own_messages_and_times(
    tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    path = tmp_path / "sessions.db"
    async with make(path) as repository:
        session_ids = [await repository.create_session_async(f"user {number}") for number in range(3)]
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            # A session that another host wrote, whose clock is ahead.
            ahead = "2126-01-01 00:00:00.999999"
            update = "UPDATE chat_sessions SET updated_at = ? WHERE session_id = ?"
            other.execute(update, (ahead, session_ids[2].replace("-", "")))
        with locked(path):  # So that all but the first call are one batch.
            calls = [
                asyncio.create_task(
                    repository.add_messages(
                        session_id, [("user", str(place)) for place in range(size)], user_id=f"user {number}"
                    )
                )
                for number, (session_id, size) in enumerate(zip(session_ids, sizes, strict=True))
            ]
            wrong = asyncio.create_task(repository.add_message(session_ids[1], "user", "x", user_id="user 0"))
            await asyncio.sleep(0.05)
        await asyncio.gather(*calls)
        with pytest.raises(SessionNotFoundError):
            await wrong
        for number, (session_id, size) in enumerate(zip(session_ids, sizes, strict=True)):
            history = await repository.get_session_history(f"user {number}", session_id)
            chat_session = await repository.get_session(f"user {number}", session_id)
            assert [message.content for message in history] == [str(place) for place in range(size)]
            times = [message.timestamp for message in history]
            assert times == [times[0] + timedelta(microseconds=place) for place in range(size)]
            assert (chat_session.version, chat_session.updated_at) == (1, times[-1])
        assert times[0] == datetime(2126, 1, 1, 0, 0, 1, tzinfo=UTC)


async def test_a_batch_with_a_taken_id_stores_all_the_others(tmp_path: Path) -> None:
    async with make(tmp_path / "sessions.db") as repository:
        session_id = await repository.create_session_async(USER)
        taken = str(uuid.uuid4())
        await repository.add_message(session_id, "user", "taken", message_id=taken)
        messages = [
            NewMessage("user", "taken" if number == 30 else str(number), message_id=taken)
            if number in (20, 30)
            else ("user", str(number))
            for number in range(CALLERS)
        ]
        results = await asyncio.gather(
            *(repository.add_messages(session_id, [message]) for message in messages), return_exceptions=True
        )
        assert [place for place, result in enumerate(results) if isinstance(result, Exception)] == [20]
        assert results[30] == [taken]
        assert await repository.count_messages(USER, session_id) == 1 + CALLERS - 2


async def test_a_queued_call_that_is_cancelled_is_never_sent(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with make(path) as repository:
        session_id = await repository.create_session_async(USER)
        with locked(path):
            calls = [
                asyncio.create_task(repository.add_message(session_id, "user", str(number)))
                for number in range(CALLERS)
            ]
            await asyncio.sleep(0.1)  # The first has begun its transaction, and waits for the lock.
            with within(1):
                for call in calls[1::2]:
                    call.cancel()
                await asyncio.wait(calls[1::2])
        await asyncio.gather(*calls[::2])
        assert all(call.cancelled() for call in calls[1::2])
        history = await repository.get_session_history(USER, session_id)
        assert [message.content for message in history] == [str(number) for number in range(0, CALLERS, 2)]
        assert count_checked_out(repository) == 0


async def test_the_connection_of_a_cancelled_call_is_returned_when_its_thread_is_done(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with make(path, pool_size=1, max_overflow=0) as repository:
        session_id = await repository.create_session_async(USER)
        for _ in range(3):
            with locked(path):
                write = asyncio.create_task(repository.update_session_async(USER, session_id, {"title": "x"}))
                await asyncio.sleep(0.05)
                write.cancel()
                with within(1):
                    await asyncio.wait([write])
                assert count_checked_out(repository) == 1
            assert await repository.count_sessions(USER) == 1
            read = asyncio.create_task(repository.count_sessions(USER))
            await asyncio.sleep(0)
            read.cancel()
            await asyncio.wait([read])
        assert await repository.update_session_async(USER, session_id, {"title": "y"})
        assert count_checked_out(repository) == 0


async def test_appends_to_a_locked_file_fail_in_time_and_work_again(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with make(path, busy_timeout=0.5, retry=RetryConfig(max_attempts=1)) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(8)]
        calls = [repository.add_message(session_ids[number % 8], "user", "x") for number in range(CALLERS)]
        with locked(path), within(1):
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert await repository.count_messages(USER, session_ids[0]) == 0  # A read does not wait.
        assert {type(error) for error in ended} == {BackendUnavailableError}
        assert all("busy_timeout" in str(error) for error in ended)
        assert count_checked_out(repository) == 0
        await asyncio.gather(*(repository.add_message(each, "user", "y") for each in session_ids))
        assert await repository.count_messages(USER, session_ids[0]) == 1


async def test_a_batch_that_waits_for_a_locked_file_leaves_out_who_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with make(path) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(8)]
        with locked(path):
            calls = [
                asyncio.create_task(repository.add_message(each, "user", "x"))
                for each in (session_ids[0], *session_ids)
            ]
            await asyncio.sleep(0.05)
            # The first one is sent by itself. Its end lets the others go as one batch, which waits, too.
            calls[0].cancel()
            await asyncio.sleep(0.05)
            calls[4].cancel()
            await asyncio.wait([calls[4]])
        await asyncio.gather(*calls[1:4], *calls[5:])
        counts = [await repository.count_messages(USER, each) for each in session_ids]
        assert counts[3] == 0
        assert counts[1:3] + counts[4:] == [1] * 6


async def test_connections_that_a_fork_closed_are_replaced_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(tmp_path / "sessions.db") as repository:
        session_id = await repository.create_session_async(USER)
        for number in range(3):
            call = asyncio.create_task(repository.add_message(session_id, "user", str(number)))
            await asyncio.sleep(0)
            driver._gate.close()  # What a fork does before and after it.
            driver._gate.open()
            await call
            assert count_checked_out(repository) == 0
        assert await repository.count_messages(USER, session_id) == 3
    assert caplog.records == []


async def _append_for_ever(url: str, session_ids: list[str]) -> None:
    """Append with 64 callers, and print each acknowledged message."""
    async with SessionRepositoryFactory.create_repository("sqlite", url=url) as repository:

        async def caller(number: int) -> None:
            for turn in range(10**6):
                content = f"{number} {turn}"
                await repository.add_message(session_ids[number % len(session_ids)], "user", content)
                print(json.dumps(content), flush=True)

        await asyncio.gather(*map(caller, range(CALLERS)))


def test_a_process_killed_amid_batches_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with make(path) as repository:
        session_ids = [repository.create_session(USER) for _ in range(5)]
        arguments = [sys.executable, __file__, f"sqlite:///{path}", json.dumps(session_ids)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            told = [json.loads(process.stdout.readline()) for _ in range(700)]
            process.kill()
            told += [
                json.loads(line) for line in process.stdout.read().splitlines(keepends=True) if "\n" in line
            ]
        stored = [
            message.content
            for session_id in session_ids
            for message in repository.get_session_history_sync(USER, session_id)
        ]
        assert len(set(stored)) == len(stored)
        assert set(told) <= set(stored)
        # At most one message of each caller was stored without being acknowledged.
        assert len(stored) <= len(told) + CALLERS
        versions = [repository.get_session_sync(USER, session_id).version for session_id in session_ids]
        assert sum(versions) == len(stored)


if __name__ == "__main__":
    asyncio.run(_append_for_ever(sys.argv[1], json.loads(sys.argv[2])))
