"""``sessions import --format``: files of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command_line import Run, error_line, write_lines
from tests.support.databases import Backend

CALL = {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}
OPENAI: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What time"}, {"type": "text", "text": "is it?"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
    ],
    "model": "gpt-4o",
}
SHAREGPT: dict[str, Any] = {
    "id": "x1",
    "system": "Be brief.",
    "conversations": [
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "observation", "value": "42"},
    ],
}


def node(
    parent: str | None, children: list[str], role: str = "", *parts: Any, **fields: Any
) -> dict[str, Any]:
    message = None
    if role:
        content = {"content_type": "text", "parts": list(parts)}
        message = {"author": {"role": role}, "content": content, "create_time": None} | fields
    return {"message": message, "parent": parent, "children": children}


QUESTION = "What time is it?"
CHATGPT: dict[str, Any] = {
    "title": "Noon",
    "create_time": 1_700_000_000.5,
    "update_time": 1_700_000_100.0,
    "conversation_id": "6f0e0c9e-0000-4000-8000-000000000001",
    "current_node": "second",
    "mapping": {
        "root": node(None, ["hidden"]),
        "hidden": node("root", ["question"], "system", ""),
        "question": node(
            "hidden", ["first", "second"], "user", "What time is it?", create_time=1_700_000_001
        ),
        "first": node("question", [], "assistant", "One.", create_time=1_700_000_002),
        "second": node(
            "question",
            [],
            "assistant",
            "Noon.",
            {"content_type": "image_asset_pointer", "asset_pointer": "file-service://1"},
            create_time=1_700_000_003,
            metadata={"model_slug": "gpt-4o"},
        ),
    },
}


def stored(backend: Backend) -> list[tuple[Any, list[Any]]]:
    with backend.repository() as repository:
        found = list(repository.admin.export_sync(user_id="alice"))
    return sorted(found, key=lambda item: (len(item[1]), item[1][-1].content if item[1] else ""))


@pytest.mark.parametrize("as_array", [False, True], ids=["lines", "array"])
@pytest.mark.parametrize("name", ["openai", "sharegpt", "chatgpt"])
def test_a_file_is_imported_once_as_lines_or_as_an_array(
    run: Run, sqlite_url: str, tmp_path: Path, name: str, as_array: bool
) -> None:
    value = {"openai": OPENAI, "sharegpt": SHAREGPT, "chatgpt": CHATGPT}[name]
    # A conversation without an id that occurs twice is two; one with an id is one.
    values = [value, value]
    file = write_lines(tmp_path / "x", values) if as_array else write_lines(tmp_path / "x", *values)
    options = ("--format", name, "--user", "alice", "--url", sqlite_url)
    count = 2 if name == "openai" else 1

    dry = run("import", file, *options, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "would store 2 sessions" in dry.stdout
    assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()
    first, second = (json.loads(run("import", file, *options, "--json").stdout) for _ in range(2))
    assert (first["created"], first["skipped"], first["failed"]) == (count, 2 - count, 0)
    assert (second["created"], second["messages"], second["skipped"]) == (0, 0, 2)
    assert len(stored(Backend("sqlite", "sqlite", sqlite_url))) == count


def test_what_the_formats_hold_is_kept(run: Run, backend: Backend, tmp_path: Path) -> None:
    for name, value in (("openai", OPENAI), ("sharegpt", SHAREGPT), ("chatgpt", CHATGPT)):
        file = write_lines(tmp_path / name, value)
        result = run("import", file, "--format", name, "--user", "alice", "--url", backend.url)
        assert result.exit_code == 0, result.output
    chatgpt, sharegpt, openai = stored(backend)

    chat_session, messages = openai
    assert chat_session.metadata == {"source": "openai", "model": "gpt-4o"}
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [message.content for message in messages] == [
        "Be brief.",
        "What time\nis it?",
        "",
        "12:00",
        "Noon.",
    ]
    assert [message.payload for message in messages] == [None, *OPENAI["messages"][1:4], None]

    chat_session, messages = sharegpt
    assert [(message.role, message.content) for message in messages] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("tool", "42"),
    ]

    chat_session, messages = chatgpt
    assert (chat_session.title, chat_session.created_at.timestamp()) == ("Noon", 1_700_000_000.5)
    assert chat_session.updated_at.timestamp() == 1_700_000_100
    assert [(message.role, message.content) for message in messages] == [
        ("user", "What time is it?"),
        ("assistant", "Noon."),
    ]
    assert [message.timestamp.timestamp() for message in messages] == [1_700_000_001, 1_700_000_003]
    assert messages[1].metadata == {"model": "gpt-4o"}
    assert messages[1].payload == CHATGPT["mapping"]["second"]["message"]


def test_branches_are_forks_if_asked(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    options = ("--format", "chatgpt", "--user", "alice", "--url", sqlite_url)
    file = write_lines(tmp_path / "x", [CHATGPT])
    assert "stored   2 sessions, 4 messages" in run("import", file, *options, "--forks").stdout
    found = stored(Backend("sqlite", "sqlite", sqlite_url))
    assert [messages[-1].content for _, messages in found] == ["Noon.", "One."]
    assert found[1][0].metadata["branch"] == "first"


def test_a_continued_conversation_gets_its_new_messages(run: Run, backend: Backend, tmp_path: Path) -> None:
    options = ("--format", "chatgpt", "--user", "alice", "--url", backend.url)
    later = json.loads(json.dumps(CHATGPT))
    later["mapping"]["third"] = node("second", [], "user", "Thanks", create_time=1_700_000_200)
    later["current_node"] = "third"
    for value in (CHATGPT, later, later):
        result = run("import", write_lines(tmp_path / "x", [value]), *options)
        assert result.exit_code == 0, result.output
    [(_, messages)] = stored(backend)
    assert [message.content for message in messages] == ["What time is it?", "Noon.", "Thanks"]


@pytest.mark.parametrize("expected", ["sessions", "openai", "sharegpt", "chatgpt"])
@pytest.mark.parametrize("given", ["openai", "sharegpt", "chatgpt"])
def test_a_wrong_format_is_named_once(
    run: Run, sqlite_url: str, tmp_path: Path, expected: str, given: str
) -> None:
    value = {"openai": OPENAI, "sharegpt": SHAREGPT, "chatgpt": CHATGPT}[given]
    user = () if expected == "sessions" else ("--user", "alice")
    for values in ([value] * 30, [[value] * 30]):
        file = write_lines(tmp_path / "x", *values)
        result = run("import", file, "--format", expected, *user, "--url", sqlite_url)
        if given == expected:
            assert result.exit_code == 0, result.output
        else:
            assert f"use --format {given}" in error_line(result)


def test_a_file_in_no_known_format_is_one_line(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "x.csv", *(f"{number},user,Hi" for number in range(1000)))
    assert "has another format" in error_line(run("import", file, "--url", sqlite_url))


def test_bad_conversations_are_reported_with_their_place(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    bad: list[Any] = [
        [],
        {"messages": "hi"},
        {"messages": [{"role": "robot", "content": ""}]},
        {"messages": [{"role": ["user"], "content": ""}]},
        {"messages": [{"role": "user", "content": 1}]},
    ]
    file = write_lines(tmp_path / "x", OPENAI, *bad, "{")
    result = run("import", file, "--format", "openai", "--user", "alice", "--url", sqlite_url)
    assert result.exit_code == 1
    places = [line.removeprefix("error: ").split(":")[0] for line in result.stderr.splitlines()]
    assert places == [f"line {number}" for number in range(2, 8)]
    assert "stored   1 session, 5 messages" in result.stdout

    circle = json.loads(json.dumps(CHATGPT))
    circle["mapping"]["root"]["parent"] = "second"
    lost = json.loads(json.dumps(CHATGPT)) | {"current_node": "nowhere"}
    file = write_lines(tmp_path / "y", [CHATGPT, circle, lost])
    result = run("import", file, "--format", "chatgpt", "--user", "alice", "--url", sqlite_url)
    assert [line.split(":")[1].strip() for line in result.stderr.splitlines()] == [
        "conversation 2",
        "conversation 3",
    ]


def test_the_other_formats_need_a_user_and_the_own_takes_none(run: Run, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "x", OPENAI)
    assert "needs --user" in error_line(run("import", file, "--format", "openai"))
    assert "takes no --user" in error_line(run("import", file, "--user", "alice"))
