"""Fixtures: real servers, a fresh database for each test, and a repository on each backend."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from pymongo import MongoClient

from sessions import ConnectionFactory, SessionRepositoryFactory
from sessions.config.files import SHIPPED
from tests.support import conversations as conversations_to_test_on
from tests.support import servers, stray_processes
from tests.support.databases import (
    Backend,
    execute_postgres,
    in_database,
    postgres_major,
    redis_database,
    run_in_thread,
)

# No test measures speed; the machine may be busy.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# What is left out of a quick answer: folders whose tests wait for processes of their own, for servers, or for
# what is built and installed, and files with tests that race, try many examples, or move megabytes.
SLOW = {
    *("benchmarks", "docs", "faults", "limits", "loops", "migrations", "packaging", "services", "typing"),
    *("contract/test_adopted_backends.py", "contract/test_hostile_input.py", "contract/test_memory.py"),
    *("contract/test_model.py", "contract/test_order.py", "contract/test_races.py", "unit/test_imports.py"),
    *("sqlite/test_sqlite_forks.py", "sqlite/test_sqlite_temporary.py", "sqlite/test_sqlite_turns.py"),
    *("postgres/test_postgres_messages.py", "unit/test_forks.py", "unit/test_steps.py"),
    *("cli/test_cli_streams.py", "mongodb/test_time_to_fail.py", "postgres/test_lost_connections.py"),
    *("cli/test_cli_errors.py", "cli/test_cli_import.py", "contract/test_batches.py"),
    *("cli/test_cli_commands.py", "cli/test_cli_copy.py", "cli/test_cli_formats.py"),
    *("contract/test_contract_finds_faults.py", "contract/test_many_messages.py"),
    *("mongodb/test_former_release.py", "mongodb/test_lost_collections.py", "mongodb/test_query_plans.py"),
    *("postgres/test_plans.py", "postgres/test_postgres_schema_setting.py"),
    "redis/test_redis_connections.py",
    *("contract/test_administration.py", "contract/test_reference_backend.py", "queries"),
}
MEMORY_FOR_FILES = 2**30
BACKENDS = ("sqlite", "postgres", "mongodb-replica-set", "mongodb-standalone", "redis")


def pytest_configure(config: pytest.Config) -> None:
    """Terminate processes that tests leave, and start the servers for the workers of pytest-xdist.

    The workers find them in the environment.

    If a server is missing, the fixtures of the tests that need it fail and name the variable to set.
    """
    config.pluginmanager.register(stray_processes)
    if config.getoption("dist", "no") == "no" or config.option.collectonly:
        return
    shared = contextlib.ExitStack()
    config.add_cleanup(shared.close)
    for variable, server in servers.SERVERS.items():
        with contextlib.suppress(servers.NoServerError):
            os.environ[variable] = shared.enter_context(server())


@pytest.hookimpl(tryfirst=True)  # Before pytest chooses by marks.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests."""
    for item in items:
        file = item.path.relative_to(Path(__file__).parent)
        # The quick run has the contract in its blocking style on SQLite, and on one kind of MongoDB server.
        further = file.name == "test_built_in_backends.py" and (
            ("[sync" in item.name and "TestSqlite" not in item.nodeid)
            or "TestMongodbReplicaSet" in item.nodeid
        )
        if {file.parts[0], str(file)} & SLOW or item.get_closest_marker("full_size") or further:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the user who runs the tests from the environment."""
    shipped = re.findall(r"\$\{(\w+)", SHIPPED.read_text("utf-8"))
    for name in ("SESSIONS_CONFIG", *shipped):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(
    params=[
        pytest.param(file, id=name, marks=[pytest.mark.slow] if name == "real" else [])
        for name, file in conversations_to_test_on.files().items()
    ]
)
def conversations_file(request: pytest.FixtureRequest) -> Path:
    """Each file of conversations, one per line."""
    file: Path = request.param
    if not file.exists():
        pytest.fail(f"with CI=true the real conversations must be at {file}")
    return file


@pytest.fixture
def conversations(conversations_file: Path) -> list[dict[str, Any]]:
    """The conversations of each file."""
    return conversations_to_test_on.read(conversations_file)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def mongodb_replica_set_server() -> Iterator[str]:
    with servers.mongodb(replica_set=True) as url:
        yield url


@pytest.fixture(scope="session")
def mongodb_standalone_server() -> Iterator[str]:
    with servers.mongodb(replica_set=False) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """Name of a migrated database, the template of each test's database."""
    name = f"sessions_template_{uuid.uuid4().hex}"
    execute_postgres(postgres_server, f"CREATE DATABASE {name}")

    async def migrate() -> None:
        repository = SessionRepositoryFactory.create_repository(
            "postgres", url=in_database(postgres_server, name)
        )
        await repository._ensure_connection()
        await repository.aclose()

    run_in_thread(migrate)
    yield name
    execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """A PostgreSQL database without any table."""
    name = f"sessions_{uuid.uuid4().hex}"
    execute_postgres(postgres_server, f"CREATE DATABASE {name}")
    yield in_database(postgres_server, name)
    execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _template_strategy(postgres_server: str) -> str:
    """The fastest strategy to copy a template; the default of PostgreSQL 14, which has no such option."""
    return "STRATEGY FILE_COPY" if postgres_major(postgres_server) >= 15 else ""


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str, _template_strategy: str) -> Iterator[str]:
    """A PostgreSQL database with the schema at head."""
    name = f"sessions_{uuid.uuid4().hex}"
    execute_postgres(
        postgres_server, f"CREATE DATABASE {name} TEMPLATE {postgres_template} {_template_strategy}"
    )
    yield in_database(postgres_server, name)
    execute_postgres(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


def _mongodb_database(server: str) -> Iterator[str]:
    name = f"sessions_{uuid.uuid4().hex}"
    yield in_database(server, name)
    with MongoClient(server) as client:
        client.drop_database(name)


@pytest.fixture
def mongodb_url(mongodb_replica_set_server: str) -> Iterator[str]:
    """An empty database on a replica set."""
    yield from _mongodb_database(mongodb_replica_set_server)


@pytest.fixture
def mongodb_standalone_url(mongodb_standalone_server: str) -> Iterator[str]:
    """An empty database on a standalone server."""
    yield from _mongodb_database(mongodb_standalone_server)


@pytest.fixture
def sqlite_url() -> Iterator[str]:
    """A SQLite file that does not exist yet; in memory where there is room: a commit waits for the disk."""
    memory = "/dev/shm"
    has_room = os.path.isdir(memory) and shutil.disk_usage(memory).free > MEMORY_FOR_FILES
    with tempfile.TemporaryDirectory(prefix="sessions-", dir=memory if has_room else None) as folder:
        yield f"sqlite:///{folder}/sessions.db"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    with servers.redis() as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """An empty database of a Valkey server."""
    with redis_database(redis_server) as url:
        yield url


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend, with an empty database."""
    fixture, repository_type = {
        "sqlite": ("sqlite_url", "sqlite"),
        "postgres": ("postgres_url", "postgres"),
        "mongodb-replica-set": ("mongodb_url", "mongodb"),
        "mongodb-standalone": ("mongodb_standalone_url", "mongodb"),
        "redis": ("redis_url", "redis"),
    }[request.param]
    return Backend(request.param, repository_type, request.getfixturevalue(fixture))


@pytest.fixture
async def repository(backend: Backend) -> AsyncIterator[Any]:
    """A repository on each backend."""
    async with backend.repository() as repository:
        yield repository


@pytest.fixture(autouse=True)
def _no_manager_outlives_its_test() -> Iterator[None]:
    yield
    ConnectionFactory.close_all()
    ConnectionFactory._managers.clear()
