"""An error of SQLite has a clear text, and a health check detects that writes would fail."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import BackendUnavailableError, RetryConfig, SchemaOutdatedError, SessionRepositoryFactory
from tests.support.timing import within

CONTENT = "a very private thing to say " * 200
MAX_PAGES = 60


def repository(url: str | None = None, **options: Any) -> Any:
    retry = RetryConfig(max_attempts=1)
    return SessionRepositoryFactory.create_repository("sqlite", url=url, retry=retry, **options)


@pytest.fixture
async def full_repository(tmp_path: Path) -> AsyncIterator[Any]:
    """A repository whose file has reached its page limit."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'small.db'}")

    @event.listens_for(engine.sync_engine, "connect")
    def limit(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA max_page_count={MAX_PAGES}")
        cursor.close()

    repo = repository(engine=engine)
    session_id = await repo.create_session_async("alice")
    assert await repo.is_healthy() is True
    with contextlib.suppress(BackendUnavailableError):
        while True:
            await repo.add_message(session_id, "user", CONTENT)
    yield repo
    await engine.dispose()


async def test_a_full_disk_is_named_stores_nothing_and_is_recovered_from(full_repository: Any) -> None:
    found = (await full_repository.list_sessions("alice")).sessions[0]
    stored = await full_repository.get_session_history("alice", found.session_id)
    with pytest.raises(BackendUnavailableError, match="SQLITE_FULL") as caught:
        await full_repository.add_messages(found.session_id, [("user", CONTENT)] * 3)
    assert isinstance(caught.value.__cause__, Exception)
    assert "private" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert await full_repository.is_healthy() is False
    assert await full_repository.get_session("alice", found.session_id) == found
    assert await full_repository.get_session_history("alice", found.session_id) == stored

    assert await full_repository.delete_session_async("alice", found.session_id) is True
    assert await full_repository.is_healthy() is True
    assert await full_repository.create_session_async("alice")


async def test_a_health_check_stores_nothing(sqlite_url: str) -> None:
    async with repository(sqlite_url) as repo:
        assert await repo.is_healthy() is True
        assert await repo.count_sessions("alice") == 0
        assert await repo.is_healthy() is True
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        for table in ("chat_sessions", "chat_messages"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    connection.close()


async def test_a_locked_file_is_unhealthy_after_the_busy_timeout(sqlite_url: str) -> None:
    async with repository(sqlite_url, busy_timeout=0.3) as repo:
        session_id = await repo.create_session_async("alice")
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with within(0.3):
            assert await repo.is_healthy() is False
        with pytest.raises(BackendUnavailableError, match="SQLITE_BUSY"):
            await repo.add_message(session_id, "user", "Hello")
        assert await repo.get_session_history("alice", session_id) == []
        other.execute("ROLLBACK")
        other.close()
        assert await repo.is_healthy() is True


async def test_a_folder_that_is_absent_is_unavailable_and_unhealthy(tmp_path: Path) -> None:
    async with repository(f"sqlite:///{tmp_path / 'absent' / 'x.db'}") as repo:
        assert await repo.is_healthy() is False
        with pytest.raises(BackendUnavailableError, match="SQLITE_CANTOPEN"):
            await repo.count_sessions("alice")


async def test_an_empty_file_is_healthy_only_if_the_first_call_creates_the_schema(sqlite_url: str) -> None:
    async with repository(sqlite_url, auto_migrate=False) as repo:
        assert await repo.is_healthy() is False
        with pytest.raises(SchemaOutdatedError):
            await repo.count_sessions("alice")
    async with repository(sqlite_url) as repo:
        assert await repo.is_healthy() is True


async def test_an_exhausted_pool_is_named_and_recovers(sqlite_url: str) -> None:
    async with repository(sqlite_url, pool_size=1, max_overflow=0, pool_timeout=0.2) as repo:
        await repo.count_sessions("alice")
        engine = await repo._connection_manager.connect()
        async with engine.connect():
            with pytest.raises(BackendUnavailableError, match="pool_timeout") as caught:
                await repo.count_sessions("alice")
        assert caught.value.__cause__ is not None
        assert await repo.count_sessions("alice") == 0
