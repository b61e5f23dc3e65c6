"""Writers of one process take turns, first come, first served, whatever the path of the file."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import BackendUnavailableError, RetryConfig, SessionRepositoryFactory
from sessions.backends.sqlite.connection import _OPENED
from sessions.core.loops import kept_on
from sessions.core.turns import Turns
from tests.support.timing import within

WRITERS = 20


def make(path: Path | str | None = None, **options: Any) -> Any:
    url = None if path is None else f"sqlite:///{path}"
    return SessionRepositoryFactory.create_repository("sqlite", url=url, **options)


def turns_of(repository: Any) -> Turns:
    turns: Turns = repository._connection_manager._turns
    return turns


async def test_no_append_waits_longer_than_all_the_others_take(tmp_path: Path) -> None:
    async with make(tmp_path / "sessions.db") as repository:
        session_ids = [await repository.create_session_async("alice") for _ in range(WRITERS)]
        completed: list[int] = []

        async def append(name: int) -> None:
            for number in range(10):
                await repository.add_message(session_ids[name], "user", str(number))
                completed.append(name)

        await asyncio.gather(*map(append, range(WRITERS)))
    for name in range(WRITERS):
        places = [place for place, who in enumerate(completed) if who == name]
        # Twice the number of writers: the end of a write is noticed a little later.
        assert max(after - before for before, after in itertools.pairwise(places)) <= 2 * WRITERS


async def test_a_writer_whose_turn_comes_after_a_close_leaves_no_connection_open(tmp_path: Path) -> None:
    repository = make(tmp_path / "sessions.db")
    session_id = await repository.create_session_async("alice")
    opened = kept_on(asyncio.get_running_loop())[_OPENED]
    assert opened
    assert turns_of(repository).take()
    writing = asyncio.create_task(repository.update_session_async("alice", session_id, {"title": "New"}))
    await asyncio.sleep(0.05)
    # As another repository with the same settings does that is closed.
    await repository.aclose()
    assert not opened
    turns_of(repository).release()
    assert await writing is True
    assert not opened


async def test_writers_of_other_loops_and_of_blocking_calls_share_one_queue(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    retry = RetryConfig(max_attempts=1)
    repository = make(path, retry=retry)
    session_id = await repository.create_session_async("alice")
    counts: Counter[str] = Counter()

    async def append(kind: str) -> None:
        for _ in range(15):
            await repository.add_message(session_id, "user", kind)
            counts[kind] += 1

    def block(kind: str) -> None:
        for _ in range(15):
            repository.add_message_sync(session_id, "user", kind)
            counts[kind] += 1

    threads = [
        threading.Thread(target=block, args=("blocking",)),
        threading.Thread(target=block, args=("blocking",)),
        threading.Thread(target=lambda: asyncio.run(append("another loop"))),
    ]
    for thread in threads:
        thread.start()
    await asyncio.gather(append("this loop"), append("this loop"))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert counts == {"blocking": 30, "another loop": 15, "this loop": 30}
    assert len(await repository.get_session_history("alice", session_id)) == 75
    await repository.aclose()


async def test_all_names_of_a_file_share_one_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sessions.db"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(path)
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    names = [
        make(path),
        make("sessions.db"),
        make(tmp_path / "link.db"),
        make(f"{path}?timeout=3"),
        make(path, pool_size=2),
        SessionRepositoryFactory.create_repository("sqlite", url=f"sqlite+aiosqlite:///{path}"),
        SessionRepositoryFactory.create_repository("sqlite", path=path),
        make(engine=engine),
    ]
    assert {turns_of(name) for name in names} == {turns_of(names[0])}
    others = [make(tmp_path / "other.db"), make(""), make("")]
    assert len({turns_of(name) for name in (*others, names[0])}) == 4


async def test_every_write_takes_a_turn_and_no_read_does(tmp_path: Path) -> None:
    async with make(
        tmp_path / "sessions.db", busy_timeout=0.2, retry=RetryConfig(max_attempts=1)
    ) as repository:
        session_id = await repository.create_session_async("alice")
        writes = {
            "create": lambda: repository.create_session_async("alice"),
            "ensure": lambda: repository.ensure_session_exists(
                "00000000-0000-4000-8000-000000000001", "alice"
            ),
            "update": lambda: repository.update_session_async("alice", session_id, {"title": "New"}),
            "append": lambda: repository.add_message(session_id, "user", "Hello"),
            "batch": lambda: repository.add_messages(session_id, [("user", "Hello")]),
            "keep": lambda: repository.keep_latest_sessions("alice", 1),
            "delete": lambda: repository.delete_session_async("alice", session_id),
            "delete user": lambda: repository.delete_user("alice"),
        }
        async with turns_of(repository).turn(1):
            assert await repository.get_session("alice", session_id)
            assert await repository.get_session_history("alice", session_id) == []
            assert await repository.count_sessions("alice") == 1
            assert len((await repository.list_sessions("alice")).sessions) == 1
            for write in writes.values():
                with pytest.raises(BackendUnavailableError, match="other writers of this process"):
                    await write()
            assert await repository.is_healthy() is False
            assert await repository.count_sessions("alice") == 1
        for write in writes.values():
            await write()


async def test_queued_writers_of_a_locked_file_wait_no_longer_than_the_first(tmp_path: Path) -> None:
    async with make(
        tmp_path / "sessions.db", busy_timeout=1.0, retry=RetryConfig(max_attempts=1)
    ) as repository:
        session_id = await repository.create_session_async("alice")
        await asyncio.gather(*(repository.add_message(session_id, "user", "Hello") for _ in range(8)))
        with closing(sqlite3.connect(tmp_path / "sessions.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            calls = (repository.add_message(session_id, "user", "Hello") for _ in range(30))
            with within(1):  # In sequence they would take thirty.
                ended = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in ended} == {BackendUnavailableError}
            other.execute("ROLLBACK")
        await repository.add_message(session_id, "user", "Hello")
        engine = await repository._connection_manager.engine()
        async with engine.connect() as connection:
            assert (await connection.exec_driver_sql("PRAGMA busy_timeout")).scalar() == 1000


async def test_a_cancelled_writer_returns_at_once_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with make(path, busy_timeout=60.0) as repository:
        session_id = await repository.create_session_async("alice")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            calls = [
                asyncio.create_task(repository.add_message(session_id, "user", "Hello")) for _ in range(3)
            ]
            await asyncio.sleep(0.1)
            for call in calls:
                call.cancel()
            with within(1):
                ended = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(error) for error in ended] == [asyncio.CancelledError] * 3
            other.execute("ROLLBACK")
        await repository.add_message(session_id, "user", "Hello again")
        history = await repository.get_session_history("alice", session_id)
        assert history[-1].content == "Hello again"
    assert not list(tmp_path.glob("*-wal"))


async def test_a_close_does_not_wait_for_a_locked_file_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    repository = make(path, busy_timeout=60.0)
    session_id = await repository.create_session_async("alice")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(repository.add_message(session_id, "user", "Hello"), 0.2)
        with within(7):
            await repository.aclose()
        other.execute("ROLLBACK")
