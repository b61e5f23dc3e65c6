"""Processes that use a new file for the first time at the same time wait for each other."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing

import pytest

from sessions import SessionRepositoryFactory
from sessions.backends.sqlite.setup import ensure_wal


def mode_of(path: str) -> str:
    with closing(sqlite3.connect(path)) as connection:
        [mode] = connection.execute("PRAGMA journal_mode").fetchone()
    return str(mode)


async def test_the_first_use_waits_for_a_process_that_is_setting_the_file_up(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # Not yet in WAL mode, and locked: SQLite does not wait for that when it changes the mode.
    other.execute("BEGIN EXCLUSIVE")
    other.execute("CREATE TABLE other (number)")
    release = threading.Timer(0.5, other.execute, ["COMMIT"])
    release.start()
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        assert await repository.count_sessions("alice") == 0
        assert await repository.is_healthy()
    release.join()
    other.close()
    assert mode_of(path) == "wal"
    assert caplog.messages == []


def test_the_wait_is_bounded(sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    first, second = (sqlite3.connect(path, isolation_level=None, timeout=0) for _ in range(2))
    first.execute("CREATE TABLE other (number)")
    first.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        ensure_wal(0.1, second.cursor())
    assert time.monotonic() - started >= 0.1
    first.execute("ROLLBACK")
    ensure_wal(0.1, second.cursor())
    first.close()
    second.close()
    assert mode_of(path) == "wal"
