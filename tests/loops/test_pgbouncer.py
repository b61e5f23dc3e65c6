"""The complete contract through a real pgbouncer in transaction mode; 32 callers on four connections."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import ConfigurationError, SessionRepositoryFactory
from sessions.cli import database
from sessions.repositories import SessionRepositoryType
from sessions.testing import SessionRepositoryContract
from tests.loops.shapes import count_postgres, settled
from tests.migrations.migration_helpers import OLD_SCHEMA, describe_postgres
from tests.support import servers
from tests.support.databases import Backend, execute_postgres
from tests.support.every_operation import use_everything

pytestmark = pytest.mark.pgbouncer


def pgbouncer_path() -> str:
    path = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if path is None:
        raise servers.NoServerError("no pgbouncer to test through: apt-get install pgbouncer")
    return path


def pgbouncer_version() -> tuple[int, ...]:
    printed = subprocess.run(
        [pgbouncer_path(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"(\d+)\.(\d+)", printed)
    assert found, printed
    return tuple(map(int, found.groups()))


@contextmanager
def pgbouncer(database_url: str, tmp_path_factory: pytest.TempPathFactory, *settings: str) -> Iterator[str]:
    """Yield the URL of a database through a pgbouncer with a pool of four server connections.

    Args:
        database_url: URL of the database.
        tmp_path_factory: For its files.
        *settings: Additional lines of its configuration.
    """
    target = urlsplit(database_url)
    host = target.hostname or parse_qs(target.query)["host"][0]
    folder = Path(tmp_path_factory.mktemp("pgbouncer"))
    port = servers.free_port()
    (folder / "users.txt").write_text(f'"{target.username}" "{target.password or ""}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
        [databases]
        {target.path[1:]} = host={host} port={target.port or 5432}
        [pgbouncer]
        listen_addr = 127.0.0.1
        listen_port = {port}
        unix_socket_dir =
        auth_type = trust
        auth_file = {folder}/users.txt
        pool_mode = transaction
        default_pool_size = 4
        max_client_conn = 200
        logfile = {folder}/log
        """.replace("        ", "")
        + "\n".join(settings)
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o777)
    for parent in folder.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    # It refuses to run as root; the owner of the server's socket can certainly connect.
    user = Path(host).owner() if host.startswith("/") else "nobody"
    as_user = ["-u", user] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [pgbouncer_path(), *as_user, f"{folder}/pgbouncer.ini"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"postgresql://{target.username}@127.0.0.1:{port}{target.path}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                count_postgres(url)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text()) from None
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def backend(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with pgbouncer(postgres_url, tmp_path_factory) as url:
        yield Backend("pgbouncer", "postgres", url, {"pgbouncer": True})


@pytest.fixture(scope="module")
def shared_backend(
    _shared_postgres_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    """One pgbouncer for all tests of the contract."""
    with pgbouncer(_shared_postgres_database, tmp_path_factory) as url:
        yield Backend("pgbouncer", "postgres", url, {"pgbouncer": True})


class TestContractThroughPgbouncer(SessionRepositoryContract):
    """Everything that a direct connection guarantees."""

    @pytest.fixture
    async def repository(self, shared_backend: Backend, _ready_postgres_url: str) -> AsyncIterator[Any]:
        async with shared_backend.repository() as repository:
            yield repository


async def test_an_empty_database_is_migrated_through_pgbouncer(
    empty_postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pgbouncer(empty_postgres_url, tmp_path_factory) as url:
        repositories = [
            Backend("pgbouncer", "postgres", url, {"pgbouncer": True, "pool_size": size}).repository()
            for size in range(1, 6)
        ]
        await asyncio.gather(*(repository.create_session_async("user") for repository in repositories))
        assert await repositories[0].count_sessions("user") == 5
        for repository in repositories:
            await repository.aclose()


async def test_schemas_are_kept_apart_on_the_server_connections_that_they_share(
    empty_postgres_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execute_postgres(
        empty_postgres_url, "CREATE SCHEMA old", "; ".join(["SET search_path = old", *OLD_SCHEMA])
    )
    with pgbouncer(empty_postgres_url, tmp_path_factory) as url:
        repositories = [
            Backend("pgbouncer", "postgres", url, {"pgbouncer": True, "schema": schema}).repository()
            for schema in ("old", "Tenant 7", None)
        ]
        for user in ("ann", "bob", "carol"):
            await asyncio.gather(*(use_everything(repository, user) for repository in repositories))
        for repository in repositories:
            await repository.aclose()

        file = tmp_path / "settings.yaml"
        file.write_text("db: {postgres: {pgbouncer: true, schema: by_command}}")
        monkeypatch.setenv("SESSIONS_CONFIG", str(file))
        assert "upgraded from an empty" in await database.upgrade(SessionRepositoryType.POSTGRES, url)

    for schema in ("old", "Tenant 7", "by_command"):
        assert await describe_postgres(empty_postgres_url, schema) == await describe_postgres(
            empty_postgres_url
        )


async def test_32_callers_share_four_server_connections(backend: Backend, postgres_url: str) -> None:
    async with backend.repository(pool_size=32, max_overflow=0) as repository:
        session_ids = await asyncio.gather(
            *(repository.create_session_async(f"user-{number}") for number in range(32))
        )

        async def converse(number: int) -> list[str]:
            for index in range(20):
                await repository.add_message(session_ids[number], "user", str(index))
                await repository.add_messages(session_ids[number], [("assistant", f"re {index}")])
            history = await repository.get_session_history(f"user-{number}", session_ids[number])
            return [message.content for message in history]

        histories = await asyncio.gather(*map(converse, range(32)))
        assert histories == [[text for i in range(20) for text in (str(i), f"re {i}")]] * 32
        shared = str(uuid.uuid4())
        created = await asyncio.gather(*(repository.ensure_session_exists(shared, "u") for _ in range(32)))
        assert sum(created) == 1
        assert count_postgres(postgres_url) <= 4
    assert settled(lambda: count_postgres(postgres_url), 4) <= 4


async def test_the_error_behind_an_unconfigured_pooler_names_the_option(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    with pgbouncer(postgres_url, tmp_path_factory) as url:
        with pytest.raises(ConfigurationError) as caught:
            await Backend("pgbouncer", "postgres", url).repository().count_sessions("alice")
        text = str(caught.value)
        assert text.startswith(
            f"db.postgres.pgbouncer: cannot use PostgreSQL at {urlsplit(url).netloc.split('@')[1]}, "
        )
        assert "SQLSTATE 08P01: unsupported startup parameter: statement_timeout" in text
        assert isinstance(caught.value.__cause__, asyncpg.ProtocolViolationError)
        assert "attempt" not in caplog.text

        # As it says.
        async with Backend("pgbouncer", "postgres", f"{url}?pgbouncer=true").repository() as repository:
            session_id = await repository.create_session_async("alice")
            assert await repository.add_messages(session_id, [("user", str(number)) for number in range(5)])


async def test_prepared_statements_that_a_pooler_loses_name_the_option(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    lenient = ["ignore_startup_parameters = statement_timeout"]
    if pgbouncer_version() >= (1, 21):
        # Since then it can keep them apart itself.
        lenient.append("max_prepared_statements = 0")
    with pgbouncer(postgres_url, tmp_path_factory, *lenient) as url:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), pool_size=16)
        own = Backend("pgbouncer", "postgres", url, {"pool_size": 16, "max_overflow": 0}).repository()
        service = SessionRepositoryFactory.create_repository("postgres", engine=engine)

        async def call(repository: Any) -> None:
            for number in range(20):
                session_id = await repository.create_session_async("alice", {"title": str(number)})
                await repository.add_message(session_id, "user", "Hello")
                await repository.list_sessions("alice", limit=2)

        for repository in (own, service):
            results = await asyncio.gather(*(call(repository) for _ in range(16)), return_exceptions=True)
            errors = [result for result in results if isinstance(result, Exception)]
            assert errors
            for error in errors:
                assert isinstance(error, ConfigurationError), repr(error)
                assert str(error).startswith("db.postgres.pgbouncer: ")
                assert re.search("SQLSTATE (26000|42P05)", str(error)), str(error)
                assert isinstance(
                    error.__cause__,
                    asyncpg.InvalidSQLStatementNameError | asyncpg.DuplicatePreparedStatementError,
                )
            await repository.aclose()
        await engine.dispose()
    assert "attempt" not in caplog.text


async def test_a_parameter_that_the_pooler_does_not_support_is_not_lost(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pgbouncer(postgres_url, tmp_path_factory) as url:
        query = "?pgbouncer=true&connect_timeout=5&application_name=chat&channel_binding=prefer"
        async with Backend("pgbouncer", "postgres", url + query).repository() as repository:
            assert await repository.count_sessions("alice") == 0
