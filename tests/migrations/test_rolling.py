"""Services of the release before this one go on beside services of this one, while and after it migrates."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import tempfile
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import ChatMessage, migrations
from sessions.models.message import Role
from sessions.models.records import ChatMessageRecord
from tests.migrations import service_of_any_release
from tests.migrations.migration_helpers import migrate, postgres_rows, sqlite_rows
from tests.migrations.service_of_any_release import USER
from tests.support import previous_release
from tests.support.databases import Backend
from tests.support.folders import made_once
from tests.support.programs import Programs, Started, programs

OLD_HEAD = "0002"
# What each service writes at least between two steps of a test.
SOME = 20
# In each session before a test begins.
STORED = 1000


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the release before this one."""
    with made_once(tmp_path_factory, "previous") as (folder, made):
        if not made:
            previous_release.install(folder)
    return previous_release.installed(folder)


# By backend: the type of its repository, and the fixture with an empty database.
BACKENDS = {
    "sqlite": ("sqlite", "sqlite_url"),
    "postgres": ("postgres", "empty_postgres_url"),
    "mongodb-replica-set": ("mongodb", "mongodb_url"),
    "mongodb-standalone": ("mongodb", "mongodb_standalone_url"),
}
SQL = ("sqlite", "postgres")


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """The backend that the test names, with an empty database."""
    repository_type, fixture = BACKENDS[request.param]
    return Backend(request.param, repository_type, request.getfixturevalue(fixture))


class RunningService:
    """A process with a service in it."""

    def __init__(self, process: Started, errors: Path) -> None:
        self._process = process
        self._errors = errors

    async def answer(self, command: str | None = None) -> Any:
        """Return the answer to a command, or what the service says first."""
        if command is not None:
            print(command, file=self._process.stdin, flush=True)
        async with asyncio.timeout(120):
            line = await asyncio.to_thread(self._process.stdout.readline)
        assert line, f"the service ended:\n{self.errors()}"
        return json.loads(line)

    async def go_on(self) -> None:
        """Wait until it has written some more messages."""
        before = await self.answer("count")
        while await self.answer("count") < before + SOME:
            await asyncio.sleep(0.05)

    def errors(self) -> str:
        return self._errors.read_text()


@contextlib.asynccontextmanager
async def service(
    release: Path | None,
    backend: Backend,
    name: str,
    session_ids: list[str],
    *,
    stored: int = 0,
    converses: bool = True,
    **options: Any,
) -> AsyncIterator[RunningService]:
    """Run a service in a process of its own, which is killed at the end of the block.

    Args:
        release: The folder with another release; None for this one.
        backend: Where it stores.
        name: What its messages begin with.
        session_ids: Shared with other services.
        stored: How many messages it stores in each session before it begins.
        converses: Whether it begins at all.
        **options: Of its repository.
    """
    root = release or previous_release.ROOT
    work: dict[str, Any] = {"type": backend.repository_type, "url": backend.url, "options": options}
    work |= {"name": name, "session_ids": session_ids, "stored": stored, "converses": converses}
    command = (service_of_any_release.__file__, json.dumps(work))
    environment = previous_release.environment(root)
    with (
        tempfile.NamedTemporaryFile() as errors,
        programs() as path,
        Programs(path).start(*command, env=environment, stderr=errors) as process,
    ):
        running = RunningService(process, Path(errors.name))
        first = await running.answer()
        assert Path(first["file"]).is_relative_to(root)
        assert first["head"] == (migrations.HEAD if release is None else OLD_HEAD)
        yield running


async def go_on(*services: RunningService) -> None:
    """Wait until each service has written some more messages."""
    await asyncio.gather(*(running.go_on() for running in services))


async def stop(*services: RunningService) -> list[dict[str, list[str]]]:
    """Return what each service has written, by session."""
    return list(await asyncio.gather(*(running.answer("stop") for running in services)))


async def revision(backend: Backend) -> str | None:
    """Return the revision of a schema; None where there is none."""
    if backend.repository_type == "mongodb":
        return None
    rows = sqlite_rows if backend.repository_type == "sqlite" else postgres_rows
    found = rows(backend.url, "SELECT version_num FROM sessions_alembic_version")
    [[number]] = await found if inspect.isawaitable(found) else found
    return str(number)


async def histories(backend: Backend, session_ids: list[str]) -> dict[str, list[ChatMessage]]:
    """Return what this release reads."""
    async with backend.repository() as repository:
        return {each: await repository.get_session_history(USER, each) for each in session_ids}


def assert_in_order(history: list[ChatMessage], *written: list[str]) -> None:
    """Assert that a history holds what was written, each writer's messages in their order, and no more."""
    place = {message.message_id: number for number, message in enumerate(history)}
    assert len(place) == len(history) == sum(map(len, written))
    for ids in written:
        places = [place[message_id] for message_id in ids]
        assert places == sorted(places)


def shown(history: list[ChatMessage]) -> list[list[str]]:
    """Return what a service of any release says of a history."""
    return [
        [message.message_id, message.role, message.content, message.timestamp.isoformat()]
        for message in history
    ]


@pytest.mark.parametrize(
    "backend",
    [*SQL, "mongodb-replica-set", pytest.param("mongodb-standalone", marks=pytest.mark.full_size)],
    indirect=True,
)
async def test_services_of_the_previous_release_go_on_while_this_one_upgrades(
    release: Path, backend: Backend
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    no_migration = {} if backend.repository_type == "mongodb" else {"auto_migrate": False}
    async with (
        service(release, backend, "first", ids, stored=STORED) as first,
        service(release, backend, "second", ids, **no_migration) as second,
    ):
        await go_on(first, second)
        assert await revision(backend) in (OLD_HEAD, None)
        async with backend.repository() as repository:
            await repository.ensure_ready()
            assert await revision(backend) in (migrations.HEAD, None)
            await go_on(first, second)
            # A process that starts anew, or in a pod that was moved.
            async with (
                service(None, backend, "new", ids) as new,
                service(release, backend, "third", ids) as third,
                service(release, backend, "fourth", ids, **no_migration) as fourth,
            ):
                services = (first, second, new, third, fourth)
                await go_on(*services)
                written = await stop(*services)
                said = [running.errors() for running in services]

    found = await histories(backend, ids)
    for session_id in ids:
        assert_in_order(found[session_id], *(each[session_id] for each in written))
        assert {(str(message.metadata), message.payload) for message in found[session_id]} == {("{}", None)}
    async with service(release, backend, "reader", ids, converses=False) as reader:
        read = await reader.answer("histories")
    if backend.repository_type == "mongodb":
        # Of messages of one millisecond, this release returns those of the previous one first.
        read = {each: sorted(read[each], key=lambda row: (row[3], row[0])) for each in ids}
        found = {each: sorted(found[each], key=lambda one: (one.timestamp, one.message_id)) for each in ids}
    assert read == {each: shown(found[each]) for each in ids}
    # One line of a process that does not know the revision, and none of any other.
    warning = f"WARNING the schema is at revision {migrations.HEAD}, newer than this package"
    newer = 0 if await revision(backend) is None else 1
    assert [text.count(warning) for text in said] == [0, 0, 0, newer, newer]


@pytest.mark.parametrize("backend", SQL, indirect=True)
async def test_services_of_the_previous_release_go_on_while_this_one_is_rolled_back(
    release: Path, backend: Backend
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(2)]
    async with service(release, backend, "first", ids, stored=STORED) as first:
        await migrate(backend.url)
        async with service(release, backend, "second", ids) as second:
            await go_on(first, second)
            await migrate(backend.url, OLD_HEAD)
            assert await revision(backend) == OLD_HEAD
            await go_on(first, second)
            async with service(release, backend, "third", ids) as third:
                await migrate(backend.url)
                await go_on(first, second, third)
                written = await stop(first, second, third)

    found = await histories(backend, ids)
    for session_id in ids:
        assert_in_order(found[session_id], *(each[session_id] for each in written))


@pytest.mark.parametrize("backend", SQL, indirect=True)
async def test_the_previous_release_reads_what_only_this_one_writes(release: Path, backend: Backend) -> None:
    session_id = str(uuid.uuid4())
    async with service(release, backend, "first", [session_id], stored=10) as first:
        await migrate(backend.url)
        written = await stop(first)
    added = await add_what_agents_write(backend, session_id)

    async with service(release, backend, "second", [session_id], converses=False) as second:
        [history] = (await second.answer("histories")).values()

    assert history[: len(written[0][session_id])] == [
        row for row in history if row[0] in written[0][session_id]
    ]
    assert [row[:3] for row in history[-len(added) :]] == added


async def add_what_agents_write(backend: Backend, session_id: str) -> list[list[str]]:
    """Store a message of each role, with metadata and a payload; return their ids, roles and contents."""
    scheme = {"sqlite": "sqlite+aiosqlite", "postgres": "postgresql+asyncpg"}[backend.repository_type]
    engine = create_async_engine(f"{scheme}{backend.url[backend.url.index(':') :]}")
    now = datetime.now(UTC) + timedelta(minutes=1)
    rows = [
        {
            "message_id": str(uuid.uuid4()),
            "session_id": session_id,
            "role": role,
            "content": f"as {role}",
            "timestamp": now + timedelta(seconds=number),
            "message_metadata": {"model": "a", "usage": {"output_tokens": number}},
            "payload": '{"tool_calls":[]}',
            "write_order": number,
        }
        for number, role in enumerate(get_args(Role))
    ]
    try:
        async with engine.begin() as connection:
            await connection.execute(insert(ChatMessageRecord), rows)
    finally:
        await engine.dispose()
    return [[row["message_id"], row["role"], row["content"]] for row in rows]


@pytest.mark.parametrize("backend", SQL, indirect=True)
async def test_the_commands_of_the_previous_release_say_that_the_schema_is_newer(
    release: Path, backend: Backend, programs: Programs
) -> None:
    await migrate(backend.url)

    for command, expected in (
        ("check", f"revision {migrations.HEAD}, newer than this package, whose head is {OLD_HEAD}"),
        ("current", f"revision {migrations.HEAD} (newer than this package, whose head is {OLD_HEAD}"),
        ("upgrade", "it has all that this package needs: nothing to do)"),
    ):
        arguments = ("-m", "sessions", "db", command, "--url", backend.url)
        environment = previous_release.environment(release)
        run = partial(programs.run, *arguments, cwd=release, env=environment)
        done = await asyncio.to_thread(run)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    assert await revision(backend) == migrations.HEAD
