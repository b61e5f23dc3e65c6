"""``sessions list`` and ``sessions show``."""

from __future__ import annotations

import pytest

from tests.cli.command_line import Run, error_line
from tests.support.databases import Backend

NASTY = "[bold]x[/bold] :smile: \x1b]0;owned\x07 \x9b31m \u202egnirts"


def add_sessions(backend: Backend, count: int, user: str = "alice") -> list[str]:
    """Create sessions one after the other and return their ids, newest first."""
    with backend.repository() as repository:
        ids = [repository.create_session(user, {"title": f"Chat {number}"}) for number in range(count)]
        for session_id in ids:  # One after the other also for clocks of milliseconds.
            repository.add_message_sync(session_id, "user", "hi")
    return ids[::-1]


def shown_ids(output: str) -> list[str]:
    return [line.split()[0] for line in output.splitlines() if line.count("-") >= 4]


@pytest.fixture
def sqlite(sqlite_url: str) -> Backend:
    return Backend("sqlite", "sqlite", sqlite_url)


def test_list_shows_the_newest_first_and_says_when_there_are_more(run: Run, backend: Backend) -> None:
    ids = add_sessions(backend, 5)
    result = run("list", "alice", "--url", backend.url)
    assert result.exit_code == 0
    assert sorted(shown_ids(result.stdout)) == sorted(ids)
    assert "5 of 5 sessions\n" in result.stdout
    few = run("list", "alice", "--limit", "2", "--backend", backend.repository_type, "--url", backend.url)
    assert shown_ids(few.stdout) == shown_ids(result.stdout)[:2]
    assert "2 of 5 sessions; --limit 5 shows all" in few.stdout


def test_list_reads_all_pages(run: Run, sqlite: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions.cli.commands.looking.PAGE_SIZE", 2)
    ids = add_sessions(sqlite, 5)
    assert shown_ids(run("list", "alice", "--limit", "5", "--url", sqlite.url).stdout) == ids


def test_list_of_an_unknown_user_is_not_an_error(run: Run, sqlite: Backend) -> None:
    run("db", "upgrade", "--url", sqlite.url)
    result = run("list", "nobody", "--url", sqlite.url)
    assert (result.exit_code, result.stdout) == (0, "nobody has no sessions.\n")


def test_list_truncates_nothing_in_a_pipe(run: Run, sqlite: Backend) -> None:
    title = "t" * 255
    with sqlite.repository() as repository:
        session_id = repository.create_session("alice", {"title": title})
    row = next(
        line for line in run("list", "alice", "--url", sqlite.url).stdout.splitlines() if "ttt" in line
    )
    assert session_id in row
    assert title in row


def test_show_prints_the_session_and_its_messages_oldest_first(run: Run, backend: Backend) -> None:
    contents = ["Hi\n\n\tthere", "def f():\n    return [1, 2]", "[red]done[/red] :smile: 💬"]
    with backend.repository() as repository:
        session_id = repository.create_session("alice", {"title": "Tea", "metadata": {"tag": "späť"}})
        for role, content in zip(("user", "assistant", "user"), contents, strict=True):
            repository.add_message_sync(session_id, role, content)
    result = run("show", "alice", session_id, "--url", backend.url)
    assert result.exit_code == 0
    places = [result.stdout.index(text) for text in ("Tea", session_id, '{"tag": "späť"}', *contents)]
    assert places == sorted(places)
    assert [line.split()[0] for line in result.stdout.splitlines() if line.endswith(" UTC")] == [
        *("created", "updated"),
        *("user", "assistant", "user"),
    ]


def test_show_of_a_foreign_session_is_the_same_as_of_an_absent_one(run: Run, backend: Backend) -> None:
    session_id = add_sessions(backend, 1, "bob")[0]
    absent = "00000000-0000-4000-8000-000000000000"
    for wanted in (session_id, absent):
        result = run("show", "alice", wanted, "--url", backend.url)
        assert result.exit_code == 1
        assert error_line(result) == f"alice has no session {wanted}"


def test_show_of_an_empty_session_says_so(run: Run, sqlite: Backend) -> None:
    with sqlite.repository() as repository:
        session_id = repository.create_session("alice", None)
    assert "No messages yet." in run("show", "alice", session_id, "--url", sqlite.url).stdout


def test_stored_text_is_neither_markup_nor_terminal_control(run: Run, sqlite: Backend) -> None:
    user = f"u{NASTY}"
    with sqlite.repository() as repository:
        session_id = repository.create_session(user, {"title": NASTY, "metadata": {"k": NASTY}})
        repository.add_message_sync(session_id, "user", f"{NASTY}\rx\r\ny")
    shown = r"[bold]x[/bold] :smile: \x1b]0;owned\x07 \x9b31m \u202egnirts"
    outputs = [
        run("list", user, "--url", sqlite.url).stdout,
        run("show", user, session_id, "--url", sqlite.url).stdout,
    ]
    for output in outputs:
        assert shown in output
        assert not set(output) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}
    assert f"{shown}\\rx\ny\n" in outputs[1]
    assert "\x1b" not in run("list", "\x1b[31m", "--url", sqlite.url).stdout
    assert "\x1b" not in error_line(run("show", "\x1b[31m", session_id, "--url", sqlite.url))
