"""``sessions export``, and ``sessions import`` of what it wrote."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sessions import ChatMessage, ChatSession
from sessions.cli import exporting
from sessions.cli.exported_lines import format_line, parse_exported_line
from tests.cli.command_line import Run, error_line, write_lines
from tests.support.databases import Backend

THEN = datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC)
ROLES = ("user", "assistant", "system", "developer", "tool")
PAYLOADS: tuple[Any, ...] = (
    None,
    {"z": 1, "a": [2**100, -0.0, math.inf]},
    "NUL \x00 and a lone surrogate \ud800",
    [{"role": "user", "content": "not a message"}, {"created_at": 1}],
    False,
)


def stored(repository: Any, count: int = 5, user: str = "alice") -> tuple[ChatSession, list[ChatMessage]]:
    """Store a session with everything that a session and its messages can hold."""
    owner = ChatSession(
        str(uuid.uuid4()), "Tea \u2028 🌍", user, THEN, THEN + timedelta(1), {"created_at": None}, 12
    )
    messages = [
        ChatMessage(
            str(uuid.uuid4()),
            owner.session_id,
            ROLES[number % 5],
            f'Line\n{number} "created_at" é',
            THEN + timedelta(seconds=number // 2),
            {"usage.input_tokens": number} if number else {},
            PAYLOADS[number % 5],
        )
        for number in range(count)
    ]
    repository.admin.restore_sync(owner, messages)
    return owner, messages


@pytest.fixture
def target_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/target.db"


def test_an_export_is_imported_exactly_and_may_be_imported_again(
    run: Run, backend: Backend, target_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    with backend.repository() as repository:
        given = [stored(repository, count, f"user {count}") for count in (0, 5, 7)]
        repository.create_session("bob")
        everything = sorted(repository.admin.export_sync(), key=lambda item: item[0].session_id)

    result = run("export", file, "--url", backend.url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "exported 4 sessions, 12 messages\n"
    assert [path.name for path in tmp_path.glob("chats*")] == ["chats.jsonl"]

    for _ in range(2):
        result = run("import", file, "--url", target_url)
        assert result.exit_code == 0, result.output
        assert "restored 4 sessions, 12 messages" in result.stdout.splitlines()
        with Backend("sqlite", "sqlite", target_url).repository() as target:
            found = sorted(target.admin.export_sync(), key=lambda item: item[0].session_id)
        assert found == everything
        assert all(item in found for item in given)


def test_a_session_with_many_messages_takes_several_lines(
    run: Run, sqlite_url: str, target_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        owner, messages = stored(repository, 2001)

    assert run("export", file, "--url", sqlite_url).stdout == "exported 1 session, 2001 messages\n"
    lines = file.read_bytes().splitlines(keepends=True)
    assert [len(json.loads(line)["messages"]) for line in lines] == [1000, 1000, 1]
    assert "restored 1 session, 2001 messages" in run("import", file, "--url", target_url).stdout
    with Backend("sqlite", "sqlite", target_url).repository() as target:
        assert target.get_session_history_sync("alice", owner.session_id) == messages
        assert target.get_session_sync("alice", owner.session_id) == owner


def test_options_choose_the_sessions(run: Run, sqlite_url: str) -> None:
    with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        owner, messages = stored(repository, 2)
        stored(repository, 3, "bob")
        late = replace(owner, session_id=str(uuid.uuid4()), updated_at=THEN + timedelta(2))
        repository.admin.restore_sync(late, [])

    def lines(*options: str) -> list[bytes]:
        result = run("export", "-", "--url", sqlite_url, *options)
        assert result.exit_code == 0, result.output
        assert result.stderr.startswith("exported ")
        return sorted(result.stdout_bytes.splitlines(keepends=True))

    assert len(lines()) == 3
    of_alice = sorted([format_line(owner, messages), format_line(late, [])])
    assert lines("--user", "alice") == of_alice
    assert lines("--updated-since", late.updated_at.isoformat()) == [format_line(late, [])]
    assert lines("--user", "nobody") == []


def test_an_export_that_cannot_be_written_is_one_line(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        stored(repository)
    error_line(run("export", tmp_path / "absent" / "chats.jsonl", "--url", sqlite_url))
    for since in ("yesterday", "2026-01-31"):
        wrong = error_line(run("export", tmp_path / "x", "--url", sqlite_url, "--updated-since", since))
        assert "since" in wrong
    error_line(run("export", tmp_path / "x", "--url", f"sqlite:///{tmp_path}/absent.db"))
    assert list(tmp_path.glob("x*")) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_an_interrupted_export_is_continued(
    run: Run, sqlite_url: str, target_url: str, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "CHECKPOINT_MESSAGES", 10)
    with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        for number in range(12):
            stored(repository, 4, f"user {number}")
        everything = list(repository.admin.export_sync())
    file = tmp_path / f"chats{suffix}"
    written: list[str] = []

    def failing(chat_session: ChatSession, messages: Any) -> bytes:
        written.append(chat_session.session_id)
        if len(written) == 8:
            raise OSError(28, "No space left on device")
        return format_line(chat_session, messages)

    monkeypatch.setattr(exporting, "format_line", failing)
    assert error_line(run("export", file, "--url", sqlite_url)).endswith("No space left on device")
    assert not file.exists()
    # Another choice is another export.
    assert (
        json.loads(
            run("export", file, "--url", sqlite_url, "--json", "--since", THEN.isoformat(), "--resume").stdout
        )["sessions"]
        == 12
    )
    written.clear()
    error_line(run("export", file, "--url", sqlite_url))
    result = run("export", file, "--url", sqlite_url, "--resume")
    assert result.stdout == "exported 12 sessions, 48 messages\n"
    assert len(written) < 8 + 12
    assert [path.name for path in tmp_path.glob("chats*")] == [file.name]

    assert "restored 12 sessions, 48 messages" in run("import", file, "--url", target_url).stdout
    with Backend("sqlite", "sqlite", target_url).repository() as target:
        assert list(target.admin.export_sync()) == everything


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_damaged_file_is_one_line(run: Run, sqlite_url: str, tmp_path: Path, suffix: str) -> None:
    with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        stored(repository, 50)
    file = tmp_path / f"chats{suffix}"
    assert run("export", file, "--url", sqlite_url).exit_code == 0
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"{}", b"x" * 100):
        file.write_bytes(broken)
        assert "is damaged, or truncated" in error_line(run("import", file, "--url", sqlite_url))


def test_bad_lines_of_an_export_are_reported(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        owner, messages = stored(repository, 2)
    good = json.loads(format_line(owner, messages))
    message = good["messages"][0]
    lines = [
        good | {"created_at": "yesterday"},
        {key: value for key, value in good.items() if key != "version"},
        good | {"more": 1},
        good | {"messages": {}},
        good | {"messages": [message | {"timestamp": 7}]},
        good | {"messages": [message | {"role": "robot"}]},
        good | {"user_id": "bob"},
        good | {"session_id": str(uuid.uuid4())},
        b'{"created_at": ',
    ]
    result = run("import", write_lines(tmp_path / "x", *lines, good), "--url", sqlite_url)
    assert result.exit_code == 1
    reports = result.stderr.splitlines()
    assert [report.partition(": ")[2][:7] for report in reports] == [f"line {n}:" for n in range(1, 10)]
    assert "restored 1 session, 2 messages" in result.stdout
    assert "failed   9 lines" in result.stdout


def test_a_line_of_another_file_is_none_of_an_export() -> None:
    for line in (b"", b"{}", b'{"metadata": {"created_at": 1}}', b'["created_at"]', b'{"created_at": \xff}'):
        assert parse_exported_line(line) is None
