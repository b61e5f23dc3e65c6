"""Each temporary database belongs to one repository, and is deleted with it."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref
from pathlib import Path
from typing import Any

import pytest

from sessions import ConnectionFactory, SessionRepositoryFactory
from tests.support.forks import exit_status, in_child
from tests.support.programs import Programs

URLS = [{"url": "sqlite://"}, {"url": "sqlite:///:memory:"}, {"path": ":memory:"}]


@pytest.fixture(autouse=True)
def _temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def make(**options: Any) -> Any:
    return SessionRepositoryFactory.create_repository("sqlite", **options)


@pytest.mark.parametrize("options", URLS, ids=str)
def test_each_repository_has_its_own(options: dict[str, str]) -> None:
    with make(**options) as one, make(**options) as other:
        one.create_session("alice")
        assert (one.count_sessions_sync("alice"), other.count_sessions_sync("alice")) == (1, 0)


def test_an_explicit_manager_shares_one() -> None:
    manager = ConnectionFactory.get_connection_manager("sqlite", url="sqlite://")
    with make(connection_manager=manager) as one:
        one.create_session("alice")
        assert make(connection_manager=manager).count_sessions_sync("alice") == 1


def test_its_files_are_deleted_on_close_and_the_next_use_creates_new_ones(tmp_path: Path) -> None:
    repository = make(url="sqlite://")
    assert os.listdir(tmp_path) == []
    for _ in range(2):
        repository.create_session("alice")
        assert repository.count_sessions_sync("alice") == 1
        assert len(os.listdir(tmp_path)) == 1
        repository.close()
        assert os.listdir(tmp_path) == []


def test_its_files_are_deleted_when_it_is_collected(tmp_path: Path) -> None:
    async def use() -> list[weakref.ref[Any]]:
        repositories = [make(url="sqlite://") for _ in range(3)]
        for repository in repositories:
            await repository.create_session_async("alice")
        return [weakref.ref(repository._connection_manager) for repository in repositories]

    # Not closed: the end of the event loop closes their connections.
    managers = asyncio.run(use())
    gc.collect()
    assert [manager() for manager in managers] == [None] * 3
    assert os.listdir(tmp_path) == []


def test_a_folder_that_a_cleaner_has_removed_is_created_again(tmp_path: Path) -> None:
    with make(url="sqlite://") as repository:
        repository.create_session("alice")
        [folder] = tmp_path.iterdir()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        assert repository.count_sessions_sync("alice") == 0
        repository.create_session("alice")


def test_a_child_leaves_the_files_of_its_parent(tmp_path: Path) -> None:
    with make(url="sqlite://") as repository:
        session_id = repository.create_session("alice")

        def work() -> None:
            repository.add_message_sync(session_id, "user", "from the child")
            repository.close()
            gc.collect()
            # Its own from now on.
            assert repository.count_sessions_sync("alice") == 0
            repository.close()

        assert exit_status(in_child(work)) == 0
        [message] = repository.get_session_history_sync("alice", session_id)
        assert message.content == "from the child"


@pytest.mark.parametrize("end", ["", "os.fork() or sys.exit()", "repository.close()"])
def test_its_files_are_deleted_when_the_process_ends(tmp_path: Path, end: str, programs: Programs) -> None:
    program = f"""
import os, sys
from sessions import SessionRepositoryFactory
repository = SessionRepositoryFactory.create_repository("sqlite", url="sqlite://")
session_id = repository.create_session("alice")
{end}
repository.add_message_sync(session_id, "user", "Hello") if not {end.startswith("repository")} else None
"""
    ended = programs.run("-W", "error", "-c", program, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert os.listdir(tmp_path) == []
