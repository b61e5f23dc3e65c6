"""A standard stream that is closed, full, or has no reader prevents no work and prints no traceback."""

from __future__ import annotations

import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sessions import SessionRepositoryFactory
from tests.cli.command_line import write_lines

SESSION_ID = "123e4567-e89b-12d3-a456-426614174000"
COMMANDS = {
    "help": "--help",
    "list": "list alice",
    "show": f"show alice {SESSION_ID}",
    "import": "import new.jsonl",
    "demo": "demo",
    "db": "db current",
}
NO_URL = ("help", "demo")


def full_size_except(commands: Iterable[str], *often: str) -> list[Any]:
    """Return the commands; those that README's test run leaves to CI with a mark."""
    return [one if one in often else pytest.param(one, marks=pytest.mark.full_size) for one in commands]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a database that holds one session, and a file to import another from."""
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    with SessionRepositoryFactory.create_repository("sqlite", url=url) as repository:
        repository.ensure_session_exists_sync(SESSION_ID, "alice")
        repository.add_message_sync(SESSION_ID, "user", "Hi")
    messages = [{"role": "user", "content": "Hi"}]
    write_lines(
        tmp_path / "new.jsonl",
        "no JSON",
        {"session_id": str(uuid.uuid4()), "user_id": "bob", "messages": messages},
    )
    return tmp_path


def run(folder: Path, command: str, redirection: str) -> subprocess.CompletedProcess[str]:
    url = "" if command in NO_URL else "--url sqlite:///chat.db"
    line = f"{shlex.quote(sys.executable)} -m sessions {COMMANDS.get(command, command)} {url} {redirection}"
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def stored_for(folder: Path, user_id: str) -> int:
    url = f"sqlite:///{folder / 'chat.db'}"
    with SessionRepositoryFactory.create_repository("sqlite", url=url) as repository:
        return repository.count_sessions_sync(user_id)


@pytest.mark.parametrize("command", full_size_except(COMMANDS, "import", "demo"))
def test_with_stdout_closed_a_command_does_its_work_quietly(folder: Path, command: str) -> None:
    done = run(folder, command, ">&-")

    failed_line = "error: line 1: is not JSON\n" if command == "import" else ""
    assert (done.returncode, done.stdout) == (1 if command == "import" else 0, "")
    assert done.stderr[:26] == failed_line[:26]
    assert stored_for(folder, "bob") == (command == "import")


@pytest.mark.parametrize("command", full_size_except(["list", "import", "db"], "import"))
@pytest.mark.parametrize("redirection", [">&- 2>&-", "<&- >&- 2>&-"])
def test_with_every_stream_closed_the_database_is_not_written_to_as_one_of_them(
    folder: Path, command: str, redirection: str
) -> None:
    done = run(folder, command, redirection)

    assert (done.returncode, done.stdout, done.stderr) == (1 if command == "import" else 0, "", "")
    assert stored_for(folder, "alice") == 1
    assert stored_for(folder, "bob") == (command == "import")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_errors_that_cannot_be_printed_set_the_exit_status(folder: Path, redirection: str) -> None:
    assert run(folder, "import", redirection).returncode == 1
    assert stored_for(folder, "bob") == 1
    unknown = run(folder, "bogus", redirection)
    assert (unknown.returncode, unknown.stdout, unknown.stderr) == (2, "", "")


def test_errors_that_nobody_reads_do_not_end_an_import(folder: Path) -> None:
    done = run(folder, "import", "2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}")

    assert (done.returncode, done.stderr) == (1, "")
    assert stored_for(folder, "bob") == 1


@pytest.mark.parametrize("command", full_size_except(["help", "list", "show", "demo"], "help", "list"))
def test_a_broken_pipe_is_not_an_error(folder: Path, command: str) -> None:
    done = run(folder, command, "| head -1; exit ${PIPESTATUS[0]}")

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    # The exit status of click, unless everything was written before the reader closed the pipe.
    assert done.returncode in (0, 1)


def test_a_full_disk_is_one_line(folder: Path) -> None:
    done = run(folder, "list", ">/dev/full")

    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")
