"""A process may fork at any time: its child writes, and neither loses an acknowledged write."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sessions import RetryConfig, SessionRepositoryFactory
from sessions.backends.sqlite import driver
from tests.support.forks import exit_status, in_child

WRITERS = 4


def make(path: Path, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("sqlite", url=f"sqlite:///{path}", **options)


def stored(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {content for (content,) in connection.execute("SELECT content FROM chat_messages")}


def append(path: Path, content: str) -> None:
    """Append one message, in a new thread: in a child the parent's loop counts as running."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            repository = make(path, busy_timeout=60.0)
            session_id = repository.create_session("child")
            repository.add_message_sync(session_id, "user", content)
            repository.close()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


async def test_a_fork_between_the_statements_of_a_write_locks_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with make(path, retry=RetryConfig(max_attempts=1)) as repository:
        session_id = await repository.create_session_async("parent")
        told, statuses, stop = [], [], asyncio.Event()

        async def write(name: int) -> None:
            number = 0
            while not stop.is_set():
                content = f"parent {name} {number}"
                await repository.add_message(session_id, "user", content)
                told.append(content)
                number += 1

        writing = [asyncio.create_task(write(name)) for name in range(WRITERS)]
        in_transaction = 0
        for number in itertools.count():
            if number >= 8 and in_transaction:
                break
            # At any point of the writers' transactions.
            for _ in range(number % 50):
                await asyncio.sleep(0)
            in_transaction += any(one.is_busy() for one in tuple(driver._gate._connections))
            child = in_child(lambda number=number: append(path, f"child {number}"))  # type: ignore[misc]
            statuses.append(await asyncio.to_thread(exit_status, child))
        stop.set()
        await asyncio.gather(*writing)
        assert set(statuses) == {0}
        history = await repository.get_session_history("parent", session_id)
        assert sorted(message.content for message in history) == sorted(told)
    assert stored(path) == {*told, *(f"child {number}" for number in range(len(statuses)))}


def test_a_fork_while_another_thread_writes_waits_for_its_transaction(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    repository = make(path, retry=RetryConfig(max_attempts=1))
    session_id = repository.create_session("parent")
    told: list[str] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def write(name: int) -> None:
        try:
            while not stop.is_set():
                content = f"parent {name} {len(told)}"
                repository.add_message_sync(session_id, "user", content)
                told.append(content)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(WRITERS)]
    for thread in threads:
        thread.start()
    statuses = [
        exit_status(in_child(lambda number=number: append(path, f"child {number}")))  # type: ignore[misc]
        for number in range(8)
    ]
    stop.set()
    for thread in threads:
        thread.join()
    repository.close()
    assert failures == []
    assert statuses == [0] * 8
    assert stored(path) == {*told, *(f"child {number}" for number in range(8))}


def test_what_a_child_commits_survives_that_its_parent_closes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    repository = make(path)
    repository.create_session("parent")
    closed_reader, closed_writer = os.pipe()
    begun_reader, begun_writer = os.pipe()

    def work() -> None:
        mine = make(path)
        session_id = mine.create_session("child")
        mine.add_message_sync(session_id, "user", "before")
        os.write(begun_writer, b"x")
        os.read(closed_reader, 1)
        mine.add_message_sync(session_id, "user", "after")
        os._exit(0)  # Without the clean-up at exit, which might save it.

    child = in_child(work)
    os.read(begun_reader, 1)
    repository.close()
    os.write(closed_writer, b"x")
    assert exit_status(child) == 0
    assert stored(path) == {"before", "after"}


@pytest.mark.parametrize("forker", ["here", "elsewhere"])
async def test_a_read_that_a_fork_interrupts_is_repeated(
    tmp_path: Path, forker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sessions.db"

    def fork(wait: Callable[[int], int] = exit_status) -> None:
        assert wait(in_child(lambda: None)) == 0

    async with make(path, retry=RetryConfig(max_attempts=1)) as repository:
        session_id = await repository.create_session_async("parent")
        await repository.add_messages(session_id, [("user", str(number)) for number in range(50)])
        for _ in range(5):
            reading = [
                asyncio.create_task(repository.get_session_history("parent", session_id)) for _ in range(8)
            ]
            await asyncio.sleep(0)
            if forker == "here":
                fork()
            else:
                await asyncio.to_thread(fork)
            for history in await asyncio.gather(*reading):
                assert [message.content for message in history] == [str(number) for number in range(50)]


async def test_a_fork_does_not_wait_for_ever_for_a_locked_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "FORK_SECONDS", 0.2)
    path = tmp_path / "sessions.db"
    async with make(path, busy_timeout=60.0) as repository:
        session_id = await repository.create_session_async("parent")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(repository.add_message(session_id, "user", "Hello"))
            while not any(one.calling for one in tuple(driver._gate._connections)):
                await asyncio.sleep(0.01)
            child = in_child(lambda: None)
            assert not waiting.done()
            assert await asyncio.to_thread(exit_status, child) == 0
            other.execute("ROLLBACK")
        await waiting
    assert stored(path) == {"Hello"}
