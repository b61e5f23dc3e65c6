"""``sessions hash``: equal before and after an export and an import."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sessions import ChatMessage, ChatSession
from tests.cli.command_line import Run
from tests.support.databases import Backend

THEN = datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC)


def conversation(messages: int) -> tuple[ChatSession, list[ChatMessage]]:
    metadata = {"b": 1.0, "a": [1]}
    owner = ChatSession(str(uuid.uuid4()), "Tee ☕", "alice", THEN, THEN + timedelta(1), metadata, 7)
    roles: list[Any] = ["user", "assistant", "system", "developer", "tool"]
    return owner, [
        ChatMessage(
            str(uuid.uuid4()),
            owner.session_id,
            roles[number % 5],
            f"Message {number}\n",
            THEN + timedelta(milliseconds=number),
            {"n": number, "model": "x"},
            {"z": "\x00\ud800", "a": 10**30},
        )
        for number in range(messages)
    ]


def hash_of(run: Run, url: str, *options: str) -> str:
    result = run("hash", "--url", url, *options)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return str(result.stdout)


def test_the_hash_is_the_same_after_an_import_into_another_backend(
    run: Run, backend: Backend, tmp_path: Path
) -> None:
    with backend.repository() as repository:
        for number in (0, 1, 12):
            repository.admin.restore_sync(*conversation(number))
        target, file = f"sqlite:///{tmp_path}/target.db", tmp_path / "all.jsonl.gz"
        before = hash_of(run, backend.url)
        assert before.endswith("  3 sessions, 13 messages\n")
        assert run("export", file, "--url", backend.url).exit_code == 0
        assert run("import", file, "--url", target).exit_code == 0
        assert hash_of(run, target) == before


@pytest.mark.parametrize("change", ["title", "metadata", "version", "content", "payload", "timestamp"])
def test_the_hash_changes_with_each_value(run: Run, sqlite_url: str, tmp_path: Path, change: str) -> None:
    owner, messages = conversation(2)
    other: Any = {
        "title": "Tea",
        "metadata": {"b": 1, "a": [1]},
        "version": 8,
        "content": "Another",
        "payload": {"a": 10**30, "z": "\x00\ud800"},
        "timestamp": THEN + timedelta(microseconds=1),
    }[change]
    changed: tuple[ChatSession, list[ChatMessage]]
    if change in ("title", "metadata", "version"):
        changed = replace(owner, **{change: other}), messages
    else:
        changed = owner, [replace(messages[0], **{change: other}), messages[1]]
    urls = sqlite_url, f"sqlite:///{tmp_path}/other.db"
    for url, held in zip(urls, ((owner, messages), changed), strict=True):
        with Backend("sqlite", "sqlite", url).repository() as repository:
            repository.admin.restore_sync(*held)
    assert hash_of(run, urls[0]) != hash_of(run, urls[1])
    # MongoDB does not store microseconds.
    same = hash_of(run, urls[0], "--milliseconds") == hash_of(run, urls[1], "--milliseconds")
    assert same is (change == "timestamp")
