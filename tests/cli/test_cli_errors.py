"""However a command fails: one line on stderr, an exit status, no traceback, no secret."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

import pytest

from sessions import SessionRepositoryRegistry
from sessions.cli import running
from tests.cli.command_line import Run, error_line, write_lines

ROOT = Path(__file__).resolve().parents[2]


def start(*command: str, **options: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,  # type: ignore[call-overload]
    )


def test_python_m_sessions_is_the_command(tmp_path: Path) -> None:
    process = start("-m", "sessions", "demo", cwd=tmp_path)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert "left: 0 sessions, 0 messages" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_command_says_how_to_get_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from sessions.__main__ import main; main()"
    process = start("-c", code)
    output, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert "pip install 'agenthub-sessions[cli]'" in errors


def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    # From a pipe, so that it is certainly running when the signal arrives.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Good lines: the interrupt takes effect where the command waits for the database.
    line = json.dumps({"session_id": str(uuid.uuid4()), "user_id": "alice", "messages": []})
    command = ("-m", "sessions", "import", str(pipe), "--url", f"sqlite:///{tmp_path / 'x.db'}")
    # Background jobs of a shell ignore interrupts, and their children inherit that.
    with start(*command, preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL)) as process:
        with pipe.open("w") as writer:  # Opens as soon as the command does.
            process.send_signal(signal.SIGINT)
            writer.write(f"{line}\n" * 2)
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (130, "")
    assert errors.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://alice:hunter2@127.0.0.1:1/chat",
        "postgresql://alice:hun/ter2@127.0.0.1/chat",
        "postgresql://alice@127.0.0.1:hunter2/chat",
        "mongodb://alice:hunter2@nohost.invalid/chat?serverSelectionTimeoutMS=100",
        "mongodb://alice:hun/ter2@127.0.0.1/chat",
        "mysql://alice:hunter2@127.0.0.1/chat",
        "hunter2",
        "sqlite://hunter2",
        "",
    ],
)
def test_no_error_shows_the_url(run: Run, url: str) -> None:
    line = error_line(run("list", "alice", "--url", url))
    assert "hunter2" not in line
    assert "ter2" not in line


def test_a_backend_and_a_url_that_do_not_fit_are_one_line(run: Run) -> None:
    line = error_line(
        run("list", "alice", "--backend", "postgres", "--url", "mongodb://alice:hunter2@h/chat")
    )
    assert line.startswith("db.postgres.url: ")
    assert "hunter2" not in line


def test_bad_input_is_one_line(run: Run, sqlite_url: str) -> None:
    assert "user_id: " in error_line(run("list", "", "--url", sqlite_url))
    assert "session_id: must be a UUID" in error_line(run("show", "alice", "x\ny", "--url", sqlite_url))


@pytest.mark.parametrize(
    "arguments",
    [["bogus"], ["list"], ["list", "alice", "--limit", "0"], ["demo", "--backend", "oracle"], ["db", "x"]],
)
def test_a_usage_error_is_one_line_with_status_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert error_line(result).endswith("--help'")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["db"], ["db", "--help"]])
def test_help_is_not_an_error(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    assert "Usage: sessions" in result.stdout


def test_a_default_backend_of_another_package_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionRepositoryRegistry, "_classes", {"own": object})
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "own")
    line = error_line(run("list", "alice"))
    assert line.startswith("sessions.default_repository is 'own', which the command line cannot use")
    assert line.endswith("pass --backend postgres, mongodb, sqlite, redis")


@pytest.mark.parametrize("command", [["list", "alice"], ["db", "check"], ["import", "x.jsonl"]])
def test_an_unknown_default_backend_lists_the_known_ones(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "postgers")
    assert error_line(run(*command)) == (
        "sessions.default_repository: from SESSIONS_DEFAULT_REPOSITORY: "
        "no repository 'postgers'; known: mongodb, postgres, redis, sqlite"
    )


def test_a_wrong_variable_is_named_with_its_value(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PORT", "abc")
    line = error_line(run("list", "alice", "--backend", "postgres"))
    assert line == "POSTGRES_PORT: 'abc' is not an integer (db.postgres.port)"


def test_settings_that_cannot_be_read_are_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_CONFIG", str(write_lines(tmp_path / "x.yaml", "db: {postgres: {prot: 1}}")))
    assert "db.postgres.prot" in error_line(run("list", "alice"))


def test_an_unexpected_error_is_one_line_without_its_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("postgresql://alice:hunter2@h")

    monkeypatch.setattr(running, "backend_of", fail)
    line = error_line(run("list", "alice"))
    assert line.startswith("unexpected RuntimeError")
    assert "hunter2" not in line
    monkeypatch.setenv("SESSIONS_DEBUG", "1")
    assert isinstance(run("list", "alice").exception, RuntimeError)
