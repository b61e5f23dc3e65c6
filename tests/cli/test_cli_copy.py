"""``sessions copy``: between any two backends, again and again, and after it was killed."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from sessions import BackendUnavailableError, ChatMessage, ChatSession
from sessions.cli import copying
from sessions.cli.copying import Copied, Copy
from tests.cli.command_line import Run, error_line
from tests.support.databases import Backend

# Whole milliseconds, which every backend stores.
THEN = datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC)


def fill(repository: Any, count: int, *, messages: int = 3) -> list[ChatSession]:
    stored = []
    for number in range(count):
        owner = ChatSession(
            str(uuid.uuid4()),
            f"Chat {number}",
            f"user {number % 3}",
            THEN,
            THEN + timedelta(1),
            {"n": number},
            4,
        )
        rows = [
            ChatMessage(
                str(uuid.uuid4()),
                owner.session_id,
                "user",
                f"{place}",
                THEN,
                {"place": place},
                [place, "\x00"],
            )
            for place in range(messages)
        ]
        repository.admin.restore_sync(owner, rows)
        stored.append(owner)
    return stored


def held(repository: Any) -> dict[str, tuple[ChatSession, list[ChatMessage]]]:
    found: dict[str, tuple[ChatSession, list[ChatMessage]]] = {}
    for chat_session, part in repository.admin.export_sync():
        found.setdefault(chat_session.session_id, (chat_session, []))[1].extend(part)
    return found


@pytest.fixture
def target(tmp_path: Path) -> Backend:
    return Backend("sqlite", "sqlite", f"sqlite:///{tmp_path}/target.db")


@pytest.fixture
def urls(backend: Backend, target: Backend) -> tuple[str, ...]:
    return "--from", backend.url, "--to", target.url


def totals(run: Run, *options: str, status: int = 0) -> dict[str, Any]:
    result = run("copy", *options, "--json")
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_second_run_brings_over_what_changed(
    run: Run, backend: Backend, target: Backend, urls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAGE", 4)
    with backend.repository() as one:
        stored = fill(one, 9)
        fill(one, 1, messages=9)  # More than a page of messages.
        first = totals(run, *urls, "--verify")
        assert (first["sessions"], first["messages"], first["unchanged"]) == (10, 36, 0)
        assert first["different"] == 0
        with target.repository() as other:
            assert held(other) == held(one)
        again = totals(run, *urls)
        assert (again["sessions"], again["unchanged"]) == (0, 10)

        user = [item.user_id for item in stored]
        ids = [item.session_id for item in stored]
        one.add_message_sync(ids[0], "assistant", "New")
        one.pop_message_sync(user[1], ids[1])
        one.update_session(user[2], ids[2], {"title": "Renamed"})
        one.delete_session(user[3], ids[3])
        one.create_session("new")
        assert totals(run, *urls, "--verify", status=1)["different"] == 1
        pruned = totals(run, *urls, "--verify", "--prune")
        assert (pruned["extra"], pruned["deleted"], pruned["different"]) == (1, 1, 0)


async def test_a_run_that_fails_at_any_write_loses_and_doubles_nothing(
    backend: Backend, target: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAGE", 2)
    monkeypatch.setattr(copying, "BATCH_MESSAGES", 2)

    def work(source: Any, written: Any) -> Copy:
        return Copy(
            source, written, prunes=False, milliseconds=True, report=pytest.fail, advance=lambda *_: None
        )

    def prepare() -> None:
        with backend.repository() as repository:
            for messages in (0, 1, 1, 5):
                fill(repository, 1, messages=messages)

    await anyio.to_thread.run_sync(prepare)
    async with backend.repository() as source, target.repository() as written:
        restore, restore_many = written.admin.restore, written.admin.restore_many
        for dies_at in range(30):
            left = dies_at

            async def failing(call: Any, *arguments: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise BackendUnavailableError("killed")
                left -= 1
                return await call(*arguments)

            monkeypatch.setattr(written.admin, "restore", lambda *given: failing(restore, *given))
            monkeypatch.setattr(written.admin, "restore_many", lambda *given: failing(restore_many, *given))
            try:
                await work(source, written).run()
            except BackendUnavailableError:
                assert left == 0
            if left:
                break
        else:
            pytest.fail("the copy has more writes")
        check = work(source, written)
        await check.compare()
        assert check.totals == Copied(different=0)


def test_what_the_target_cannot_store_is_reported(run: Run, target: Backend, mongodb_url: str) -> None:
    source = Backend("mongodb-replica-set", "mongodb", mongodb_url)
    with source.repository() as repository:
        good, other = fill(repository, 2)
        repository.admin.restore_sync(replace(good, session_id="not a UUID"), [])
    with target.repository() as repository:
        repository.admin.restore_sync(replace(other, user_id="somebody else"), [])
    result = run("copy", "--from", source.url, "--to", target.url)
    assert result.exit_code == 1
    reports = sorted(result.stderr.splitlines())
    assert len(reports) == 2
    assert "must be a UUID" in "".join(reports)
    assert "another user" in "".join(reports)
    assert "failed    2 sessions" in result.stdout
    assert "copied    1 session, 3 messages" in result.stdout


def test_a_database_is_not_copied_to_itself_or_from_nowhere(
    run: Run, target: Backend, tmp_path: Path
) -> None:
    assert "--to" in error_line(run("copy", "--from", target.url, "--to", target.url))
    nowhere = f"sqlite:///{tmp_path}/absent.db"
    assert "absent.db" in error_line(run("copy", "--from", nowhere, "--to", target.url))
    assert not (tmp_path / "absent.db").exists()
