"""Whether a database is usable: `ensure_ready` raises the reason, `is_healthy` logs it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessions import (
    BackendUnavailableError,
    ConfigurationError,
    RetryConfig,
    SchemaOutdatedError,
    SessionRepositoryFactory,
    SessionsError,
)
from tests.support.databases import Backend, execute_postgres, in_database, mongodb_client

SECRET = "hunter2-Zq9"
ONCE = RetryConfig(max_attempts=1)

create = SessionRepositoryFactory.create_repository


@pytest.fixture
def backend(new_backend: Backend) -> Backend:
    """Each backend, with a database whose schema these tests may change."""
    return new_backend


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port without a listener, while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def unusable(name: str, port: int, folder: Path) -> Any:
    """Return a repository whose database cannot be reached."""
    urls = {
        "postgres": f"postgresql://user:{SECRET}@127.0.0.1:{port}/chats",
        "mongodb": f"mongodb://user:{SECRET}@127.0.0.1:{port}/chats",
        "sqlite": f"sqlite:///{folder}/absent/chats.db",
    }
    timeouts = {"connect_timeout": 1} if name != "sqlite" else {}
    return create(name, url=urls[name], retry=ONCE, **timeouts)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [item.getMessage() for item in caplog.records if item.levelno == logging.WARNING]


async def test_the_schema_is_created_and_nothing_is_stored(backend: Backend) -> None:
    async with backend.repository() as repository:
        await repository.ensure_ready()
        await repository.ensure_ready()

        assert await repository.is_healthy()
        assert await repository.count_sessions("alice") == 0


async def test_the_blocking_twin_does_the_same_from_within_a_loop(backend: Backend) -> None:
    with backend.repository() as repository:
        repository.ensure_ready_sync()

        assert repository.is_healthy_sync()


@pytest.mark.parametrize("name", ["postgres", "mongodb", "sqlite"])
async def test_an_absent_database_is_an_error_and_the_reason_is_logged(
    name: str, closed_port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with unusable(name, closed_port, tmp_path) as repository:
        with pytest.raises(SessionsError) as caught:
            await repository.ensure_ready()
        assert not warnings_of(caplog)

        assert await repository.is_healthy() is False

    [logged] = warnings_of(caplog)
    assert isinstance(caught.value, BackendUnavailableError | ConfigurationError)
    assert logged.startswith("is_healthy: no, ")
    assert len(logged) > len("is_healthy: no, as a write would fail: ")
    assert SECRET not in caplog.text + str(caught.value)


async def test_an_outdated_schema_without_auto_migrate_is_an_error_that_names_the_command(
    empty_postgres_url: str, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name, url in (("postgres", empty_postgres_url), ("sqlite", sqlite_url)):
        caplog.clear()
        async with create(name, url=url, auto_migrate=False) as repository:
            with pytest.raises(SchemaOutdatedError, match="sessions db upgrade"):
                await repository.ensure_ready()
            assert await repository.is_healthy() is False

        [logged] = warnings_of(caplog)
        assert "sessions db upgrade" in logged


async def test_a_role_that_may_not_create_the_schema_is_the_logged_reason(
    empty_postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with create("postgres", url=read_only(empty_postgres_url)) as repository:
        assert await repository.is_healthy() is False

    [logged] = warnings_of(caplog)
    assert "may not bring it up to date" in logged


async def test_a_dropped_database_is_detected(postgres_url: str) -> None:
    repository = create("postgres", url=in_database(postgres_url, "gone_"), retry=ONCE)
    execute_postgres(postgres_url, "CREATE DATABASE gone_")
    try:
        await repository.ensure_ready()
    finally:
        execute_postgres(postgres_url, "DROP DATABASE gone_ WITH (FORCE)")

    with pytest.raises(SessionsError):
        await repository.ensure_ready()
    await repository.aclose()


async def test_dropped_tables_and_collections_are_created_again(backend: Backend) -> None:
    async with backend.repository() as repository:
        await repository.ensure_ready()
        await drop_everything(backend)

        await repository.ensure_ready()

        session_id = await repository.create_session_async("alice")
        assert [await repository.ensure_session_exists(session_id, "alice") for _ in range(2)] == [False] * 2
        assert await repository.is_healthy()


def read_only(url: str) -> str:
    """Return the URL of a database for connections that may only read."""
    return f"{url}{'&' if '?' in url else '?'}default_transaction_read_only=on"


async def drop_everything(backend: Backend) -> None:
    if backend.repository_type == "mongodb":
        async with mongodb_client(backend.url) as client:
            await client.drop_database(client.get_default_database().name)
    elif backend.repository_type == "postgres":
        execute_postgres(
            backend.url, "DROP TABLE chat_messages, chat_sessions", "DROP TABLE sessions_alembic_version"
        )
    else:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(backend.url.removeprefix("sqlite:///") + suffix).unlink()
