"""Each part of a SQLite URL is honoured, has a documented lack of effect, or is rejected by name."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sessions import (
    BackendUnavailableError,
    ConfigurationError,
    SchemaOutdatedError,
    SessionRepositoryFactory,
)


def make(url: str | None = None, **options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("sqlite", url=url, **options)


def target(url: str | None = None, **options: Any) -> Any:
    repository = make(url, **options)
    return repository._connection_manager._target


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////absolute/chat.db", "/absolute/chat.db"),
        ("sqlite+aiosqlite:////absolute/chat.db", "/absolute/chat.db"),
        ("sqlite:///relative.db", "{cwd}/relative.db"),
        ("sqlite:///../up.db", "{up}/up.db"),
        ("sqlite:////a%20b/%C3%A9%3F%23%25.db", "/a b/é?#%.db"),
        ("sqlite:////plain/a+b&c=d.db", "/plain/a+b&c=d.db"),
        ("sqlite:///file:/absolute/chat.db?uri=true", "/absolute/chat.db"),
        ("sqlite:///file:relative.db?uri=true&mode=rwc", "{cwd}/relative.db"),
        ("file:relative.db", "{cwd}/relative.db"),
        ("file:/absolute/chat.db", "/absolute/chat.db"),
        ("file:///absolute/chat.db", "/absolute/chat.db"),
        ("file://localhost/absolute/chat.db", "/absolute/chat.db"),
        ("sqlite:////chat.db?timeout=5&cache=private&check_same_thread=false", "/chat.db"),
    ],
)
def test_the_file_is_what_the_url_says(
    url: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert target(url).path == path.format(cwd=os.getcwd(), up=os.path.dirname(os.getcwd()))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:any?mode=memory&uri=true",
        "sqlite:///chat.db?mode=memory",
        "file::memory:",
    ],
)
def test_a_database_in_memory_is_a_temporary_one(url: str) -> None:
    assert target(url).path is None
    assert not target(url).read_only


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite:///x.db?mode=wr", "mode"),
        ("sqlite:///x.db?mode=", "mode"),
        ("sqlite:///x.db?mode=ro&mode=rw", "mode"),
        ("sqlite://?mode=ro", "mode"),
        ("sqlite://?mode=rw", "mode"),
        ("sqlite:///:memory:?immutable=1", "immutable"),
        ("sqlite:///x.db?immutable=maybe", "immutable"),
        ("sqlite:///x.db?timeout=soon", "timeout"),
        ("sqlite:///x.db?timeout=0", "timeout"),
        ("sqlite:///x.db?timeout=-1", "timeout"),
        ("sqlite:///x.db?timeout=nan", "timeout"),
        ("sqlite:///x.db?timeout=inf", "timeout"),
        ("sqlite:///x.db?timeout", "timeout"),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", "cache"),
        ("sqlite:///x.db?vfs=unix-none", "vfs"),
        ("sqlite:///x.db?nolock=1", "nolock"),
        ("sqlite:///x.db?uri=false", "uri"),
        ("sqlite:///x.db?check_same_thread=perhaps", "check_same_thread"),
        ("sqlite:///x.db?detect_types=1", "detect_types"),
        ("sqlite:///x.db?isolation_level=DEFERRED", "isolation_level"),
        ("sqlite:///x.db?cached_statements=1", "cached_statements"),
        ("sqlite:///x.db?sslmode=require", "sslmode"),
        ("sqlite:///x.db?file%20mode=1", "file mode"),
        ("sqlite:///x.db#fragment", "fragment"),
        ("sqlite:///x.db?mode=ro#fragment", "fragment"),
        ("sqlite:///100%.db", "%25"),
        ("sqlite:///x%00.db", "NUL"),
        ("sqlite:///C:/chats/x.db", "Windows"),
        ("sqlite:///C:\\chats\\x.db", "Windows"),
        ("file:///C:/chats/x.db", "Windows"),
        ("file://elsewhere/x.db", "another host"),
        ("sqlite://relative.db", "three slashes"),
        ("sqlite+pysqlite:///x.db", "must start with"),
        ("postgresql://alice:hunter2@db/chat", "must start with"),
    ],
)
def test_unsupported_parts_are_rejected_by_name(
    url: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        make(url)
    assert named in str(caught.value)
    assert str(caught.value).startswith("db.sqlite.url: ")
    assert "hunter2" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_path_is_a_path_and_no_url(tmp_path: Path) -> None:
    odd = tmp_path / "100% sure? #1.db"
    with make(path=odd) as repository:
        repository.create_session("alice")
    assert os.listdir(tmp_path) == [odd.name]
    with make(f"sqlite:///{tmp_path}/100%25%20sure%3F%20%231.db") as repository:
        assert repository.count_sessions_sync("alice") == 1
    with pytest.raises(ConfigurationError, match=r"db\.sqlite\.path: is a URL"):
        make(path="sqlite:///chat.db")
    assert target(path=f"file:{tmp_path}/x.db?mode=ro").read_only


def test_the_timeout_of_a_url_wins_over_the_setting(tmp_path: Path) -> None:
    with make(f"sqlite:///{tmp_path}/x.db?timeout=0.25", busy_timeout=30.0) as repository:
        session_id = repository.create_session("alice")
        with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BackendUnavailableError, match="SQLITE_BUSY"):
                repository.add_message_sync(session_id, "user", "Hello")
            other.execute("ROLLBACK")
        repository.add_message_sync(session_id, "user", "Hello")
    assert sorted(os.listdir(tmp_path)) == ["x.db"]


@pytest.mark.parametrize("parameter", ["mode=ro", "immutable=1"])
def test_a_database_that_is_opened_to_read_refuses_every_write(tmp_path: Path, parameter: str) -> None:
    path = tmp_path / "x.db"
    with make(f"sqlite:///{path}") as repository:
        session_id = repository.create_session("alice")
        repository.add_message_sync(session_id, "user", "Hello")
    with make(f"sqlite:///{path}?{parameter}") as repository:
        [message] = repository.get_session_history_sync("alice", session_id)
        assert message.content == "Hello"
        assert repository.is_healthy_sync() is False
        for write in (
            lambda: repository.add_message_sync(session_id, "user", "Hello"),
            lambda: repository.create_session("alice"),
            lambda: repository.delete_session("alice", session_id),
        ):
            with pytest.raises(BackendUnavailableError, match="mode=ro") as caught:
                write()
            assert str(path) in str(caught.value)
        assert repository.count_sessions_sync("alice") == 1


def test_an_old_schema_is_not_upgraded_in_a_read_only_database(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    sqlite3.connect(path).close()
    with make(f"sqlite:///{path}?mode=ro") as repository, pytest.raises(SchemaOutdatedError) as caught:
        repository.count_sessions_sync("alice")
    assert str(path) in str(caught.value)
    assert path.stat().st_size == 0


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_a_file_that_is_not_to_be_created_is_named_if_it_is_missing(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "missing.db"
    with make(f"sqlite:///{path}?mode={mode}") as repository:
        assert repository.is_healthy_sync() is False
        with pytest.raises(BackendUnavailableError, match="there is no such file") as caught:
            repository.create_session("alice")
        assert str(path) in str(caught.value)
        assert os.listdir(tmp_path) == []
        with make(f"sqlite:///{path}") as creating:
            creating.create_session("alice")
        assert repository.count_sessions_sync("alice") == 1
