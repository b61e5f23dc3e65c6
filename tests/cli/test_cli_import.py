"""``sessions import``: stores every conversation once, also in repeated and concurrent runs."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessions import SessionNotFoundError
from sessions.cli import importing
from sessions.cli.conversation_lines import parse_line
from sessions.cli.entries import Totals
from sessions.cli.importing import import_lines
from sessions.cli.storing import Stored, store
from sessions.cli.storing import message_id as _message_id
from tests.cli.command_line import Run, error_line, write_lines
from tests.support.databases import Backend

ID = "00000000-0000-4000-8000-00000000000"


def conversation(number: int = 1, *contents: str, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(contents)]
    line = {"session_id": f"{ID}{number}", "user_id": "alice", "title": "Tea", "metadata": {}}
    return line | {"messages": messages} | fields


def stored_contents(backend: Backend, number: int = 1) -> list[str]:
    with backend.repository() as repository:
        return [message.content for message in repository.get_session_history_sync("alice", f"{ID}{number}")]


async def differences(backend: Backend, conversations: list[dict[str, Any]]) -> list[str]:
    """Return the ids of the conversations that do not read back as they are in the file."""
    found = []
    async with backend.repository() as repository:
        for line in conversations:
            chat_session = await repository.get_session(line["user_id"], line["session_id"])
            history = await repository.get_session_history(line["user_id"], line["session_id"])
            messages = [{"role": message.role, "content": message.content} for message in history]
            same = chat_session is not None and messages == line["messages"]
            if not same or (chat_session.title, chat_session.metadata) != (line["title"], line["metadata"]):
                found.append(line["session_id"])
    return found


def test_all_conversations_read_back_as_in_the_file_and_a_second_run_stores_none(
    run: Run, backend: Backend, conversations_file: Path, conversations: list[dict[str, Any]]
) -> None:
    messages = sum(len(line["messages"]) for line in conversations)
    first = run("import", conversations_file, "--backend", backend.repository_type, "--url", backend.url)
    assert first.exit_code == 0
    assert first.stdout.splitlines() == [
        f"stored   {len(conversations)} sessions, {messages} messages",
        "skipped  0 sessions stored before",
        "failed   0 lines",
    ]
    assert first.stderr == ""
    assert asyncio.run(differences(backend, conversations)) == []

    second = run("import", conversations_file, "--url", backend.url)
    assert second.exit_code == 0
    assert second.stdout.splitlines()[:2] == [
        "stored   0 sessions, 0 messages",
        f"skipped  {len(conversations)} sessions stored before",
    ]
    assert asyncio.run(differences(backend, conversations)) == []


async def test_concurrent_imports_store_every_message_once(
    backend: Backend, conversations: list[dict[str, Any]]
) -> None:
    lines = [json.dumps(line).encode() for line in conversations[:25]]
    repositories = [backend.repository() for _ in range(4)]
    reports: list[str] = []
    await asyncio.gather(
        *(
            import_lines(repository, lines, report=reports.append, advance=lambda size, totals: None)
            for repository in repositories
        )
    )
    assert reports == []
    assert await differences(backend, conversations[:25]) == []
    await repositories[0].aclose()


async def test_a_service_appends_during_an_import(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH_MESSAGES", 200)
    lines = [
        json.dumps(conversation(1, *["text"] * 10, session_id=str(uuid.uuid4()))).encode() for _ in range(200)
    ]
    waits: list[float] = []
    async with backend.repository() as repository, backend.repository() as service:
        session_id = await service.create_session_async("bob")
        work = import_lines(repository, lines, report=pytest.fail, advance=lambda size, totals: None)
        importing_all = asyncio.ensure_future(work)
        while not importing_all.done():
            began = time.monotonic()
            await service.add_message(session_id, "user", "Hello")
            waits.append(time.monotonic() - began)
        assert (await importing_all).messages == 2000
        assert await service.count_messages("bob", session_id) == len(waits)
    # Of ten batches: nobody waits for the end of the import.
    assert len(waits) >= 3
    assert max(waits) < 10


def test_a_run_that_was_killed_between_a_session_and_its_messages_is_completed(
    run: Run, backend: Backend, tmp_path: Path
) -> None:
    with backend.repository() as repository:
        repository.ensure_session_exists_sync(f"{ID}1", "alice", {"title": "Tea"})
    result = run("import", write_lines(tmp_path / "x", conversation(1, "a", "b")), "--url", backend.url)
    assert result.exit_code == 0
    assert "1 older session got the messages not stored yet" in result.stdout
    assert stored_contents(backend) == ["a", "b"]


def test_new_messages_of_a_conversation_in_the_file_are_appended(
    run: Run, backend: Backend, tmp_path: Path
) -> None:
    file = tmp_path / "x"
    for contents in (["a", "b"], ["a", "b", "c", "d"], ["a", "b", "c", "d", "e"]):
        assert (
            run("import", write_lines(file, conversation(1, *contents)), "--url", backend.url).exit_code == 0
        )
        assert stored_contents(backend) == contents


def test_messages_are_appended_after_those_of_a_service(run: Run, backend: Backend, tmp_path: Path) -> None:
    with backend.repository() as repository:
        repository.ensure_session_exists_sync(f"{ID}1", "alice")
        for role, content in (("user", "a"), ("assistant", "b")):
            repository.add_message_sync(f"{ID}1", role, content)
    line = conversation(1, "a", "b", "c", "d")
    assert run("import", write_lines(tmp_path / "x", line), "--url", backend.url).exit_code == 0
    assert stored_contents(backend) == ["a", "b", "c", "d"]


def test_a_conversation_continued_after_the_import_is_not_changed(
    run: Run, backend: Backend, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "x", conversation(1, "a", "b"))
    assert run("import", file, "--url", backend.url).exit_code == 0
    with backend.repository() as repository:
        repository.add_message_sync(f"{ID}1", "user", "c")
    again = run("import", file, "--url", backend.url)
    assert again.exit_code == 0
    assert "skipped  1 session stored before" in again.stdout
    assert stored_contents(backend) == ["a", "b", "c"]


def test_a_long_conversation_keeps_its_order(run: Run, backend: Backend, tmp_path: Path) -> None:
    contents = [f"{place} " + "x" * (place % 7 * 3000) for place in range(200)]
    line = conversation(1, *contents)
    assert run("import", write_lines(tmp_path / "x", line), "--url", backend.url).exit_code == 0
    assert stored_contents(backend) == contents


def test_bad_lines_are_reported_by_number_and_the_others_stored(
    run: Run, sqlite_url: str, tmp_path: Path
) -> None:
    good = conversation(1, "a")
    file = write_lines(
        tmp_path / "x",
        b"\xef\xbb\xbf" + json.dumps(good).encode() + b"\r",
        "",
        "   ",
        "{not json",
        b'"\xff"',
        [],
        "[" * 100_000,
        "1" * 5000,
        {"session_id": f"{ID}2", "user_id": "alice"},
        conversation(2, "a", extra=1),
        conversation(2, "a", messages="hi"),
        conversation(2, "a", messages=["hi"]),
        conversation(2, "a", messages=[{"role": "user"}]),
        conversation(2, "a", messages=[{"role": "user", "content": "a", "timestamp": 1}]),
        conversation(2, "a", messages=[{"role": "function", "content": "a"}]),
        conversation(2, "a", messages=[{"role": "user", "content": 1}]),
        conversation(2, "a\x00"),
        conversation(2, "a", session_id="not-a-uuid"),
        conversation(2, "a", session_id={"$ne": ""}),
        conversation(2, "a", user_id=""),
        conversation(2, "a", title="t" * 256),
        conversation(2, "a", metadata=[]),
        json.dumps(conversation(2, "a", metadata={"a": float("nan")})),
        conversation(1, "another text"),
        conversation(1, "a", user_id="bob"),
        conversation(3, "a"),
    )
    result = run("import", file, "--url", sqlite_url)
    assert result.exit_code == 1
    reasons = dict(line.removeprefix("error: line ").split(": ", 1) for line in result.stderr.splitlines())
    assert list(reasons) == [str(number) for number in range(4, 26)]
    expected = {
        "4": "is not JSON",
        "5": "is not UTF-8",
        "6": "must be an object, not list",
        "7": "nested too deeply",
        "9": "has no 'messages'",
        "10": "unknown key 'extra'",
        "13": "messages[0]: has no 'content'",
        "15": "messages[0].role: must be 'user', 'assistant', 'system', 'developer' or 'tool'",
        "18": "session_id: must be a UUID",
        "24": "there with other messages",
        "25": "taken by another user's session",
    }
    for number, reason in expected.items():
        assert reason in reasons[number]
    assert result.stdout.splitlines() == [
        "stored   2 sessions, 2 messages",
        "skipped  0 sessions stored before",
        "failed   22 lines",
    ]
    # A rejected line leaves no empty session.
    listed = run("list", "alice", "--url", sqlite_url)
    assert f"{ID}1" in listed.stdout
    assert f"{ID}2" not in listed.stdout


def test_title_and_metadata_are_optional(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    line = {"session_id": f"{ID}1", "user_id": "alice", "messages": []}
    assert run("import", write_lines(tmp_path / "x", line), "--url", sqlite_url).exit_code == 0
    assert "New Chat" in run("list", "alice", "--url", sqlite_url).stdout


def test_a_database_that_cannot_be_used_stops_the_import(run: Run, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "x", "{bad", conversation(1, "a"), conversation(2, "a"))
    result = run("import", file, "--url", "postgresql://alice:hunter2@127.0.0.1:1/chat")
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("error: cannot reach PostgreSQL at 127.0.0.1:1")
    assert "hunter2" not in result.output


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_one_line(run: Run, sqlite_url: str, name: str) -> None:
    assert error_line(run("import", name, "--url", sqlite_url)).startswith(f"{name}: ")


def test_a_terminal_shows_a_progress_bar(
    run: Run, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = write_lines(tmp_path / "x", conversation(1, "a"), "{bad")
    result = run("import", file, "--url", sqlite_url)
    assert "Importing" in result.stderr
    assert "100%" in result.stderr
    assert "line 2: is not JSON" in result.stderr


async def test_the_file_is_read_one_line_at_a_time(sqlite_url: str) -> None:
    backend = Backend("sqlite", "sqlite", sqlite_url)
    read = 0

    def lines() -> Iterator[bytes]:
        nonlocal read
        for number in range(1, 4):
            read += 1
            yield json.dumps(conversation(number, "a")).encode()

    def advance(size: int, totals: Totals) -> None:
        assert totals.created == read

    async with backend.repository() as repository:
        totals = await import_lines(repository, lines(), report=print, advance=advance)
    assert totals == Totals(created=3, messages=3)


async def test_a_concurrently_deleted_session_is_reported(backend: Backend) -> None:
    line = parse_line(json.dumps(conversation(1, "a")).encode())
    async with backend.repository() as repository:
        ensure = repository.ensure_session_exists

        async def ensure_then_delete(session_id: str, user_id: str, data: Any) -> bool:
            created: bool = await ensure(session_id, user_id, data)
            await repository.delete_session_async(user_id, session_id)
            return created

        repository.ensure_session_exists = ensure_then_delete
        with pytest.raises(SessionNotFoundError, match="deleted meanwhile"):
            await store(repository, line)
        del repository.ensure_session_exists
        assert await store(repository, line) == Stored(created=True, messages=1)


def test_message_ids_are_uuid7_in_the_order_of_the_messages() -> None:
    ids = [_message_id(f"{ID}1", 1_800_000_000_000, place) for place in (0, 1, 2, 4095, 4096, 100_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    for text in ids:
        assert (uuid.UUID(text).version, uuid.UUID(text).variant) == (7, uuid.RFC_4122)
        assert int(text.replace("-", "")[:12], 16) == 1_800_000_000_000
    assert ids[0] == _message_id(f"{ID}1", 1_800_000_000_000, 0)
    assert ids[0] != _message_id(f"{ID}2", 1_800_000_000_000, 0)
