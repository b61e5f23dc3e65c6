"""A file that is deleted, replaced or missing: nothing is written into a file without a path."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from sessions import SchemaOutdatedError, SessionRepositoryFactory


def make(path: Path | None = None, **options: Any) -> Any:
    url = None if path is None else f"sqlite:///{path}"
    return SessionRepositoryFactory.create_repository("sqlite", url=url, **options)


def delete(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def replace(path: Path) -> None:
    """Replace the file by a database with one session of another user."""
    other = path.parent / "other.db"
    with make(other) as repository:
        repository.create_session("bob")
    delete(path)
    other.rename(path)


def drop_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE chat_messages; DROP TABLE chat_sessions;")


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        [[found]] = connection.execute("SELECT count(*) FROM chat_sessions")
    return int(found)


@pytest.mark.parametrize("lose", [delete, replace, drop_tables])
async def test_the_next_calls_make_the_schema_and_store_into_the_file_that_is_there(
    tmp_path: Path, lose: Any
) -> None:
    path = tmp_path / "sessions.db"
    async with make(path) as repository:
        # Connections to the old file, all of them in the pool.
        await asyncio.gather(*(repository.create_session_async("alice") for _ in range(8)))
        await asyncio.gather(*(repository.count_sessions("alice") for _ in range(8)))
        for _ in range(2):
            lose(path)
            await asyncio.gather(*(repository.create_session_async("alice") for _ in range(20)))
            assert await repository.count_sessions("alice") == 20
            assert count(path) == 20 + (lose is replace)
            assert await repository.count_sessions("bob") == (lose is replace)
            assert await repository.is_healthy() is True


@pytest.mark.parametrize("lose", [delete, drop_tables])
def test_reads_and_blocking_calls_notice_it_too(tmp_path: Path, lose: Any) -> None:
    path = tmp_path / "sessions.db"
    with make(path) as repository:
        session_id = repository.create_session("alice")
        lose(path)
        assert repository.get_session_sync("alice", session_id) is None
        assert repository.get_session_history_sync("alice", session_id) == []
        assert asyncio.run(repository.count_sessions("alice")) == 0


@pytest.mark.parametrize("lose", [delete, drop_tables])
async def test_without_auto_migrate_it_is_an_error_and_nothing_is_created(tmp_path: Path, lose: Any) -> None:
    path = tmp_path / "sessions.db"
    with make(path) as repository:
        repository.create_session("alice")
    async with make(path, auto_migrate=False) as repository:
        assert await repository.count_sessions("alice") == 1
        lose(path)
        for call in (repository.create_session_async, repository.count_sessions):
            with pytest.raises(SchemaOutdatedError) as caught:
                await call("alice")
            assert str(path) in str(caught.value)
            assert "sessions db upgrade" in str(caught.value)
        assert await repository.is_healthy() is False
        assert path.exists() == (lose is drop_tables)
        with make(path) as upgrading:
            upgrading.create_session("alice")
        assert await repository.count_sessions("alice") == 1


@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_health_creates_nothing(tmp_path: Path, auto_migrate: bool) -> None:
    async with make(tmp_path / "sessions.db", auto_migrate=auto_migrate) as repository:
        assert await repository.is_healthy() is auto_migrate
        assert os.listdir(tmp_path) == []
    async with make(tmp_path / "absent" / "sessions.db") as repository:
        assert await repository.is_healthy() is False
        assert os.listdir(tmp_path) == []


async def test_health_leaves_the_file_of_another_program_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
    before = path.read_bytes()
    async with make(path) as repository:
        assert await repository.is_healthy() is True
    assert path.read_bytes() == before


@pytest.fixture
async def engine(tmp_path: Path) -> Any:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}")

    @event.listens_for(engine.sync_engine, "connect")
    def enforce(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    yield engine
    await engine.dispose()


async def test_connections_of_a_services_own_engine_are_replaced(tmp_path: Path, engine: AsyncEngine) -> None:
    path = tmp_path / "sessions.db"
    repository = make(engine=engine)
    await asyncio.gather(*(repository.create_session_async("alice") for _ in range(8)))
    delete(path)
    await asyncio.gather(*(repository.create_session_async("alice") for _ in range(8)))
    assert count(path) == 8
    await repository.aclose()


async def test_a_database_is_in_wal_mode_however_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
    async with make(path) as repository:
        await repository.create_session_async("alice")
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
