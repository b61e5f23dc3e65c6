"""``sessions demo``: creates, reads, updates and deletes a conversation, and leaves nothing."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sessions import AsyncSessionRepository, BackendUnavailableError, SessionRepositoryFactory
from tests.cli.command_line import Run, error_line
from tests.support.databases import Backend

STEPS = [
    "1. Create it",
    "2. Append messages",
    "3. Read them back, oldest first",
    "4. List the user's sessions",
    "5. Rename it",
    "6. Delete it, with its messages",
]


def user_of(output: str) -> str:
    found = re.search(r"^user +(demo-\w+)$", output, re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize("options", [[], ["--backend", "sqlite"]])
def test_the_default_needs_no_server_and_leaves_no_file(
    run: Run, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    result = run("demo", *options)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert [line for line in result.stdout.splitlines() if line in STEPS] == STEPS
    for shown in ("New Chat", "With oat milk, please ☕", "New Chat → Coffee for a slow morning"):
        assert shown in result.stdout
    assert "left: 0 sessions, 0 messages" in result.stdout
    assert "\x1b" not in result.stdout
    assert os.listdir() == []
    assert list(temporary.iterdir()) == []


def test_it_leaves_nothing_in_the_database(run: Run, backend: Backend) -> None:
    result = run("demo", "--backend", backend.repository_type, "--url", backend.url)
    assert result.exit_code == 0
    with backend.repository() as repository:
        assert repository.count_sessions_sync(user_of(result.stdout)) == 0


def test_it_takes_the_configured_database(
    run: Run, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    result = run("demo", "--backend", "mongodb")
    assert result.exit_code == 0
    assert "A conversation in MongoDB" in result.stdout


def test_a_demo_that_fails_cleans_up(run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: Any) -> bool:
        raise BackendUnavailableError("the plug was pulled")

    monkeypatch.setattr(AsyncSessionRepository, "update_session_async", fail)
    result = run("demo", "--url", backend.url)
    assert error_line(result) == "the plug was pulled"
    with SessionRepositoryFactory.create_repository(backend.repository_type, url=backend.url) as repository:
        assert repository.count_sessions_sync(user_of(result.stdout)) == 0


def test_a_terminal_gets_colours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("demo").stdout


def test_without_a_database_nothing_but_the_error_is_printed(run: Run) -> None:
    result = run("demo", "--url", "postgresql://127.0.0.1:1/chat")
    assert error_line(result).startswith("cannot reach PostgreSQL at 127.0.0.1:1, database chat, ")
    assert result.stdout == ""
