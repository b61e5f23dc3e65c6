"""The small commands: search, users, show, list, delete, retention, db size and downgrade, and their JSON."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import Chats, ChatSession, NewMessage
from sessions.cli import running
from tests.cli.command_line import Run, error_line
from tests.support.databases import Backend

NOW = datetime.now(UTC).replace(microsecond=0)


def answer(run: Run, *arguments: Any) -> Any:
    result = run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)


def test_what_is_stored_is_shown_searched_and_deleted(run: Run, backend: Backend) -> None:
    with backend.repository() as repository:
        ids = [repository.create_session("alice", {"metadata": {"n": n, "kind": "a"}}) for n in (1, 2)]
        messages = [NewMessage("user", f"Question {number}", payload=["\ud800"]) for number in range(5)]
        repository.add_messages_sync(ids[0], messages)
        repository.create_session("bob")
    url = ("--url", backend.url)

    assert answer(run, "users", *url) == {"users": ["alice", "bob"]}
    assert run("users", "--limit", "1", *url).stdout == "alice\n"
    listed = answer(run, "list", "alice", "--where", "n=1", "--where", "kind=a", *url)
    assert [item["session_id"] for item in listed["sessions"]] == [ids[0]]
    assert listed["total"] == 1
    assert answer(run, "list", "alice", "--where", "n=1", "--where", "n=2", *url)["total"] == 2
    assert "no sessions that match" in run("list", "alice", "--where", 'n="1"', *url).stdout

    for option, shown in (((), range(5)), (("--limit", 2), range(2)), (("--tail", 2), range(3, 5))):
        found = answer(run, "show", "alice", ids[0], *option, *url)
        assert [one["content"] for one in found["messages"]] == [f"Question {number}" for number in shown]
        assert (found["total"], found["messages"][0]["payload"]) == (5, ["\ud800"])
        assert datetime.fromisoformat(found["session"]["created_at"]).tzinfo is not None
    text = run("show", "alice", ids[0], "--tail", 1, *url).stdout
    assert "Question 4" in text
    assert "Question 3" not in text
    assert "1 of 5 messages" in text

    hits = answer(run, "search", "alice", "question 3", *url)["hits"]
    assert [(hit["session"]["session_id"], hit["message"]["content"]) for hit in hits] == [
        (ids[0], "Question 3")
    ]
    assert len(answer(run, "search", "alice", "question", "--limit", 3, *url)["hits"]) == 3
    assert answer(run, "search", "alice", "question", "--session", ids[1], *url) == {"hits": []}
    assert "Question 4" in run("search", "alice", "QUESTION", *url).stdout

    sizes = answer(run, "db", "size", *url)
    assert sizes["total"] == sum(sizes.values()) - sizes["total"] > 0
    assert f"{sizes['total']:,}" in run("db", "size", *url).stdout

    unanswered = run("delete", "alice", ids[0], *url)
    assert unanswered.exit_code == 1
    assert "error: nothing was changed: nobody answered; --yes answers" in unanswered.stderr
    assert answer(run, "delete", "alice", ids[0], "--yes", *url) == {"sessions": 1}
    assert "has no session" in error_line(run("delete", "alice", ids[0], "--yes", *url))
    assert run("delete", "alice", "--yes", *url).stdout == "deleted 1 session\n"
    assert answer(run, "users", *url) == {"users": ["bob"]}


def test_retention_deletes_what_is_old_and_not_among_the_newest(run: Run, backend: Backend) -> None:
    def fill() -> None:
        with backend.repository() as repository:
            for user, days in (("alice", (1, 100, 200, 300)), ("bob", (100, 200))):
                repository.delete_user_sync(user)
                for age in days:
                    moment = NOW - timedelta(age)
                    one = ChatSession(str(uuid.uuid4()), str(age), user, moment, moment)
                    repository.admin.restore_sync(one, [])

    def left() -> list[tuple[str, str]]:
        with backend.repository() as repository:
            return sorted((one.user_id, one.title) for one in repository.admin.iter_sessions_sync())

    cases: tuple[tuple[tuple[Any, ...], int], ...] = (
        (("--older-than", "150d"), 3),
        (("--keep-last", 1), 4),
        (("--older-than", "150d", "--keep-last", 3), 1),
        (("--older-than", "150d", "--keep-last", 1, "--user", "bob"), 1),
        (("--older-than", "2w", "--keep-last", 0), 5),
    )
    for options, number in cases:
        fill()
        before = left()
        options = (*options, "--url", backend.url)
        assert answer(run, "retention", "apply", *options, "--dry-run") == {
            "sessions": number,
            "dry_run": True,
        }
        assert left() == before
        assert answer(run, "retention", "apply", *options) == {"sessions": number, "dry_run": False}
        assert len(left()) == len(before) - number, options
        assert answer(run, "retention", "apply", *options)["sessions"] == 0


def test_retention_needs_a_condition(run: Run, sqlite_url: str) -> None:
    assert "is needed" in error_line(run("retention", "apply", "--url", sqlite_url))
    for wrong in ("90", "d", "-1d", "1y"):
        assert "--older-than" in error_line(
            run("retention", "apply", f"--older-than={wrong}", "--url", sqlite_url)
        )


@pytest.mark.parametrize("fixture", ["sqlite_url", "postgres_url"])
def test_a_schema_is_downgraded_and_upgraded_again(
    run: Run, fixture: str, request: pytest.FixtureRequest
) -> None:
    url = ("--url", request.getfixturevalue(fixture))
    assert run("db", "upgrade", *url).exit_code == 0
    assert run("db", "downgrade", "0002", *url).exit_code == 1
    assert "revision 0002 (downgraded from 0003)" in run("db", "downgrade", "0002", "--yes", *url).stdout
    assert "revision 0002" in run("db", "current", *url).stdout
    assert "newer than the schema" in error_line(run("db", "downgrade", "0003", "--yes", *url))
    assert "must be base, or one of 0001" in error_line(run("db", "downgrade", "latest", "--yes", *url))
    assert "0003" in run("db", "upgrade", *url).stdout
    with Chats(url[1]) as chats:
        chats.create_session("alice", messages=[("tool", "Hi"), NewMessage("user", "Hi", payload=1)])
    refused = error_line(run("db", "downgrade", "0002", "--yes", *url))
    assert "1 with a role other than user and assistant, 1 with a payload; nothing was changed" in refused
    assert "revision 0003" in run("db", "current", *url).stdout


def test_mongodb_has_nothing_to_downgrade(run: Run, mongodb_url: str) -> None:
    assert "needs no migrations" in error_line(run("db", "downgrade", "0002", "--yes", "--url", mongodb_url))


def test_the_version_is_shown(run: Run) -> None:
    assert run("--version").stdout.startswith("sessions 0.")


def test_without_a_configured_database_the_answer_comes_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens there, as on a fresh machine at MongoDB's port.
    monkeypatch.setattr(running, "DEFAULT_SERVER", ("127.0.0.1", 1))
    begun = time.monotonic()
    error = error_line(run("list", "alice"))
    assert time.monotonic() - begun < 30
    assert "no database is configured" in error
    assert "--url sqlite:///" in error


def test_statistics_are_shown(run: Run, sqlite_url: str) -> None:
    with Backend("sqlite", "sqlite", sqlite_url).repository() as repository:
        session_id = repository.create_session("alice")
        answer_ = NewMessage("assistant", "Hi", metadata={"model": "large", "usage.output_tokens": 1234})
        repository.add_messages_sync(session_id, [("user", "Hi"), answer_])
        repository.create_session("bob")
    found = answer(run, "stats", "--bucket", "hour", "--url", sqlite_url)
    assert (found["users"], found["sessions"], found["messages"]) == (2, 2, 2)
    assert sum(part["messages"] for part in found["buckets"]) == 2
    assert found["top_users"] == [{"user_id": "alice", "sessions": 1, "messages": 2}]
    assert found["turns"] == {"count": 1, "mean": 1.0, "p50": 1.0, "p95": 1.0}

    result = run("stats", "--time-zone", "Europe/Berlin", "--url", sqlite_url)
    assert (result.exit_code, result.stderr) == (0, "")
    for text in ("messages 2", "assistant 1, user 1", "Day (Europe/Berlin)", "large", "1,234 out", "alice"):
        assert text in result.stdout
    assert "none" in run("stats", "--since", "2100-01-01T00:00Z", "--url", sqlite_url).stdout
    assert "time_zone" in error_line(run("stats", "--time-zone", "Mars", "--url", sqlite_url))
    assert "--until" in error_line(run("stats", "--until", "now", "--url", sqlite_url))
