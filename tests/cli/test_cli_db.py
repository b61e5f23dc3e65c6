"""``sessions db``: maintain the schema, even if ``auto_migrate`` is off."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import alembic.command
import pytest
from pymongo import MongoClient

from sessions import SchemaOutdatedError, SessionRepositoryFactory
from sessions.core.failures import upgrade_command
from sessions.migrations import HEAD, alembic_config
from tests.cli.command_line import Run, error_line
from tests.support.databases import execute_postgres, in_database


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database without any table."""
    name = {"sqlite": "sqlite_url", "postgres": "empty_postgres_url"}[request.param]
    url: str = request.getfixturevalue(name)
    return url


def test_upgrade_brings_an_empty_database_to_head(run: Run, empty_url: str) -> None:
    backend = "sqlite" if empty_url.startswith("sqlite") else "postgres"
    if backend == "sqlite":
        Path(empty_url.removeprefix("sqlite:///")).touch()  # An absent file has its own test.
    outdated = run("db", "check", "--url", empty_url)
    assert outdated.exit_code == 1
    # The command repeats the option, without the password of the URL.
    expected = f"the database has no schema yet; run: {upgrade_command(backend, url=empty_url)}"
    assert error_line(outdated) == expected
    assert "--url" in expected
    # The check has not migrated.
    assert "no revision" in run("db", "current", "--url", empty_url).stdout

    upgraded = run("db", "upgrade", "--url", empty_url)
    assert upgraded.exit_code == 0
    assert f"revision {HEAD} (upgraded from an empty database)" in upgraded.stdout
    assert f"revision {HEAD} (was there already)" in run("db", "upgrade", "--url", empty_url).stdout

    for command in ("check", "current"):
        result = run("db", command, "--url", empty_url)
        assert result.exit_code == 0
        assert f"revision {HEAD}" in result.stdout
    repository = SessionRepositoryFactory.create_repository(backend, url=empty_url, auto_migrate=False)
    assert repository.count_sessions_sync("alice") == 0
    repository.close()


def test_a_newer_schema_is_said_to_be_newer_and_is_left_as_it_is(run: Run, empty_url: str) -> None:
    run("db", "upgrade", "--url", empty_url)
    execute(empty_url, "UPDATE sessions_alembic_version SET version_num = '9999'")

    newer = f"newer than this package, whose head is {HEAD}; it has all that this package needs"
    for command, expected in (
        ("upgrade", f"revision 9999 ({newer}: nothing to do)\n"),
        ("check", f"revision 9999, {newer}\n"),
        ("current", f"revision 9999 ({newer})\n"),
    ):
        result = run("db", command, "--url", empty_url)
        assert result.exit_code == 0
        assert result.stdout.endswith(expected)

    execute(empty_url, "ALTER TABLE chat_messages RENAME COLUMN content TO contents")
    for command in ("upgrade", "check"):
        result = run("db", command, "--url", empty_url)
        assert result.exit_code == 1
        assert "revision 9999" in error_line(result)
        assert "pip install --upgrade agenthub-sessions" in error_line(result)
    current = run("db", "current", "--url", empty_url)
    assert current.stdout.endswith(f"revision 9999 (unknown to this package, whose head is {HEAD})\n")


def execute(url: str, statement: str) -> None:
    """Execute a statement on either database."""
    if not url.startswith("sqlite"):
        execute_postgres(url, statement)
        return
    with contextlib.closing(
        sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    ) as connection:
        connection.execute(statement)


def test_the_configured_database_is_the_default(
    run: Run, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POSTGRES_URL", empty_postgres_url)
    monkeypatch.setenv("SQLITE_PATH", str(tmp_path / "configured.db"))
    assert "PostgreSQL" in run("db", "upgrade", "--backend", "postgres").stdout
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "postgres")
    assert f"PostgreSQL schema: revision {HEAD}" in run("db", "current").stdout
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "sqlite")
    assert f"SQLite schema: revision {HEAD}" in run("db", "upgrade").stdout


def test_mongodb_needs_no_migrations(run: Run, mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    upgraded = run("db", "upgrade")
    assert upgraded.exit_code == 0
    assert "collections and indexes are ready; it needs no migrations" in upgraded.stdout
    for command in ("check", "current"):
        result = run("db", command, "--url", mongodb_url)
        assert result.exit_code == 0
        assert "it needs no migrations" in result.stdout


def test_check_removes_orphaned_messages_in_mongodb(run: Run, mongodb_standalone_url: str) -> None:
    repository = SessionRepositoryFactory.create_repository("mongodb", url=mongodb_standalone_url)
    kept, gone = (repository.create_session("alice") for _ in range(2))
    for session_id in (kept, gone):
        repository.add_messages_sync(session_id, [("user", "Hello"), ("assistant", "Hi!")])
    with MongoClient[dict[str, Any]](mongodb_standalone_url) as client:
        client.get_default_database()["chat_sessions"].delete_one({"session_id": gone})
    for expected in ("; 2 orphaned messages removed\n", "; no orphaned messages\n"):
        result = run("db", "check", "--url", mongodb_standalone_url)
        assert result.exit_code == 0
        assert result.stdout.endswith(expected)
    assert len(repository.get_session_history_sync("alice", kept)) == 2
    repository.close()


@pytest.mark.parametrize("command", ["upgrade", "current", "check"])
def test_a_database_that_cannot_be_used_is_one_line(run: Run, command: str, postgres_server: str) -> None:
    urls = [
        "postgresql://alice:hunter2@127.0.0.1:1/chat",
        "mongodb://alice:hunter2@nohost.invalid/chat?serverSelectionTimeoutMS=100",
        "sqlite:////no/such/folder/chat.db",
        in_database(postgres_server, "no_such_database"),
    ]
    for url in urls:
        result = run("db", command, "--url", url)
        assert "hunter2" not in error_line(result)
        assert result.stdout == ""


@pytest.mark.parametrize(
    "command",
    [("db", "check"), ("db", "current"), ("list", "alice"), ("show", "alice", str(uuid.UUID(int=4)))],
)
@pytest.mark.parametrize("name", ["missing.db", "missing folder/missing.db"])
def test_a_command_that_only_reads_creates_no_sqlite_file(
    run: Run, tmp_path: Path, command: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("SQLITE_PATH", str(folder / name))
    url = f"sqlite:///{folder / name}".replace(" ", "%20")
    for option in (("--url", url), ("--backend", "sqlite")):
        result = run(*command, *option)
        assert result.exit_code == 1
        assert str(folder / name) in error_line(result)
        assert result.stdout == ""
        assert list(folder.iterdir()) == []


def test_a_command_that_only_reads_leaves_an_empty_sqlite_file_empty(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "data" / "empty.db"
    path.parent.mkdir()
    path.touch()
    assert run("db", "check", "--url", f"sqlite:///{path}").exit_code == 1
    assert "no revision" in run("db", "current", "--url", f"sqlite:///{path}").stdout
    assert [file.name for file in path.parent.iterdir()] == ["empty.db"]
    assert path.stat().st_size == 0


def test_alembic_current_creates_no_sqlite_file_and_upgrade_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "sqlite")
    monkeypatch.setenv("SQLITE_PATH", str(tmp_path / "sessions.db"))
    with pytest.raises(SchemaOutdatedError, match=str(tmp_path)):
        alembic.command.current(alembic_config())
    assert list(tmp_path.iterdir()) == []
    alembic.command.upgrade(alembic_config(), "head")
    assert [file.name for file in tmp_path.iterdir()] == ["sessions.db"]


def test_ini_is_a_file_alembic_can_use(run: Run) -> None:
    path = Path(run("db", "ini").stdout.removesuffix("\n"))
    assert path.name == "alembic.ini"
    assert "script_location" in path.read_text()
