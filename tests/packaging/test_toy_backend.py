"""A backend is one folder, and three places outside it: counted with a toy in a copy of the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import sessions

PACKAGE = Path(sessions.__file__).parent

CONNECTION = """
from sessions.config import load_settings
from sessions.connections import AsyncBaseConnectionManager


class ToyConnectionManager(AsyncBaseConnectionManager):
    def __init__(self, *, url=None, **settings):
        self.settings = load_settings().backend("toy", url=url, **settings)
        self.sessions, self.messages = {}, {}

    async def connect(self):
        return self

    async def disconnect(self):
        pass

    async def is_healthy(self):
        return True
"""
REPOSITORY = """
from sessions import ChatMessage, ChatSession, validation
from sessions.core.identifiers import utc_now
from sessions.core.port import Backend
from sessions.resilience import RetryConfig


class ToyBackend(Backend):
    DEFAULT_RETRY = RetryConfig(max_attempts=1)

    def check_id(self, argument, value):
        return validation.check_id(argument, value)

    async def create(self, new, rows):
        self.manager.sessions[new.session_id, new.user_id] = new
        self.manager.messages[new.session_id] = []

    async def get(self, session_id, user_id):
        if new := self.manager.sessions.get((session_id, user_id)):
            return ChatSession(session_id, new.title, user_id, new.created_at, new.created_at, new.metadata)

    async def append(self, session_id, user_id, rows, merge, expected_version):
        self.manager.messages[session_id] += [
            ChatMessage(row.message_id, session_id, row.role, row.content, utc_now()) for row in rows
        ]
        return True

    async def history(self, session_id, user_id, part):
        return self.manager.messages[session_id]


ToyBackend.__abstractmethods__ = frozenset()  # Enough for this test.
"""
# What is added to the package: the file, a text in it, and the line before that text.
PLACES = [
    ("connections/base.py", '    SQLITE = "sqlite"\n', '    TOY = "toy"\n'),
    (
        "connections/built_in.py",
        "BUILT_IN = {\n",
        '    ConnectionType.TOY: BuiltIn("toy", "ToyConnectionManager", "ToyBackend", "toy"),\n',
    ),
    (
        "config/models.py",
        "    sqlite: SqliteSettings = SqliteSettings()\n",
        "    toy: ToySettings = ToySettings()\n",
    ),
]
SETTINGS = """class ToySettings(BackendSettings, frozen=True):
    KEY = "db.toy"
    PARTS = frozenset()
    url: str | None = None


"""
PROGRAM = """
import asyncio
import pickle

import sessions
from sessions import AsyncChats, SessionRepositoryFactory


async def converse(chats):
    session_id = await chats.create_session("alice", title="Toys")
    await chats.add_message("alice", session_id, "user", "Hello")
    [message] = await chats.get_session_history("alice", session_id)
    found = await chats.get_session("alice", session_id)
    return found.title, message.content


assert "toy" in SessionRepositoryFactory.list_repositories()
assert asyncio.run(converse(AsyncChats("toy://box"))) == ("Toys", "Hello")
assert asyncio.run(converse(AsyncChats(backend="toy"))) == ("Toys", "Hello")
repository = SessionRepositoryFactory.create_repository("toy", url="toy://box")
repository.create_session("alice")
again = pickle.loads(pickle.dumps(repository))
assert type(again) is type(repository)
assert again._connection_manager is repository._connection_manager
"""


def test_a_backend_needs_three_places_of_the_package_outside_its_folder(tmp_path: Path) -> None:
    copy = tmp_path / "sessions"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, added in PLACES:
        text = (copy / file).read_text("utf-8")
        assert before in text, file
        (copy / file).write_text(text.replace(before, before + added, 1), "utf-8")
    models = (copy / "config/models.py").read_text("utf-8")
    database = "class DatabaseSettings("
    (copy / "config/models.py").write_text(models.replace(database, SETTINGS + database, 1), "utf-8")
    folder = copy / "backends" / "toy"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "connection.py").write_text(CONNECTION)
    (folder / "repository.py").write_text(REPOSITORY)

    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert len({file for file, *_ in PLACES}) == 3


def test_contributing_lists_them() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text("utf-8")
    section = text.partition("## Add a backend")[2].partition("\n## ")[0]
    for file, *_ in PLACES:
        assert f"`{file}`" in section, file
