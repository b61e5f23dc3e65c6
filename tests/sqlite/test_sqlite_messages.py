"""An error names the problem of a file, its path, and SQLite's result code."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessions import BackendUnavailableError, SessionRepositoryFactory
from sessions.backends.sqlite import errors
from tests.support.forks import exit_status, in_child

NOBODY = 65534


def failure(path: Path, **options: Any) -> str:
    repository = SessionRepositoryFactory.create_repository("sqlite", path=path, **options)
    with repository, pytest.raises(BackendUnavailableError) as caught:
        repository.create_session("alice")
    return str(caught.value)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    text = failure(tmp_path / "absent" / "x.db")
    assert text.startswith(f"cannot use SQLite at {tmp_path}/absent/x.db: ")
    assert f"there is no directory {tmp_path}/absent (SQLITE_CANTOPEN)" in text


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    assert f"the directory {tmp_path}/link is a link to nowhere" in failure(tmp_path / "link" / "x.db")


def test_a_file_where_a_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file: Not a directory" in failure(tmp_path / "file" / "x.db")


def test_a_directory_where_a_file_should_be(tmp_path: Path) -> None:
    assert f"at {tmp_path}: it is a directory (SQLITE_CANTOPEN" in failure(tmp_path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("This is not a database. " * 100)
    text = failure(path)
    assert f"at {path}: the file is not a SQLite database, or is encrypted (SQLITE_NOTADB)" in text
    assert "This is not" not in text


def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with SessionRepositoryFactory.create_repository("sqlite", path=path) as repository:
        session_id = repository.create_session("alice")
        repository.add_messages_sync(session_id, [("user", "Hello" * 500)] * 50)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    assert f"at {path}: the file is damaged; " in failure(path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_nobody(path: Path, *expected: str) -> None:
    """Fail to write as an unprivileged user, and check the text."""

    def work() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        text = failure(path)
        assert all(part in text for part in (f"at {path}: ", "SQLITE_", *expected)), text

    assert exit_status(in_child(work)) == 0


def test_a_directory_that_may_not_be_written_to(open_folder: Path) -> None:
    open_folder.chmod(0o555)
    as_nobody(open_folder / "x.db", f"permission denied to write to {open_folder}")
    open_folder.chmod(0o755)


def test_a_directory_that_may_not_be_read(open_folder: Path) -> None:
    open_folder.chmod(0o700)
    as_nobody(open_folder / "x.db", f"{open_folder}: Permission denied")


def test_a_file_that_may_not_be_read(open_folder: Path) -> None:
    path = open_folder / "x.db"
    path.touch(mode=0)
    as_nobody(path, "permission denied")


def test_a_file_that_may_not_be_written_to(open_folder: Path) -> None:
    path = open_folder / "x.db"
    with SessionRepositoryFactory.create_repository("sqlite", path=path) as repository:
        repository.create_session("alice")
    path.chmod(0o444)
    open_folder.chmod(0o777)
    as_nobody(path, "the file is read-only: permission denied")


def test_a_file_system_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.db").touch()
    monkeypatch.setattr(errors, "_is_read_only_file_system", lambda _: True)
    error = sqlite3.OperationalError()
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_READONLY, "SQLITE_READONLY"
    text = errors.reason(error, str(tmp_path / "x.db"), read_only=False)
    assert text == "the file system is read-only (SQLITE_READONLY)"


@pytest.mark.parametrize("code", [code for name, code in vars(sqlite3).items() if name == "SQLITE_IOERR"])
def test_an_extended_code_keeps_its_own_name(code: int) -> None:
    error = sqlite3.OperationalError()
    error.sqlite_errorcode, error.sqlite_errorname = code | (3 << 8), "SQLITE_IOERR_WRITE"
    assert errors.reason(error, "/x.db", read_only=False).endswith("an error (SQLITE_IOERR_WRITE)")
