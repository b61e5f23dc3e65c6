"""Fixtures: real servers, a fresh database for each test, and a repository on each backend."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import itertools
import os
import re
import shutil
import sys
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
from tests.support import programs as python_programs
from tests.support import servers, stray_processes
from tests.support.databases import (
    Backend,
    execute_postgres,
    in_database,
    postgres_major,
    redis_database,
    run_in_thread,
)
from tests.support.folders import folder

# Keep bytecode, whatever the environment says: without it, each worker of pytest-xdist rewrites assertions
# of all tests, and each process that a test starts compiles the package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# No test measures speed; the machine may be busy.
# Each run tries the same examples: a change fails a test, and chance does not.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
# What is left out of a quick answer: folders whose tests wait for processes of their own, for servers, or for
# what is built and installed, and files with tests that race, try many examples, or move megabytes.
SLOW = {
    *(
        "benchmarks",
        "cache",
        "docs",
        "faults",
        "limits",
        "loops",
        "migrations",
        "packaging",
        "services",
        "typing",
    ),
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
    *("redis/test_expiring_sessions.py", "redis/test_redis_cluster.py", "redis/test_redis_connections.py"),
    *("redis/test_redis_resharding.py", "redis/test_redis_urls.py"),
    *("contract/test_administration.py", "contract/test_reference_backend.py", "queries"),
    *("contract/test_payloads.py", "contract/test_round_trips.py", "contract/test_search.py"),
    *("mongodb/test_clean_up.py", "mongodb/test_edits.py", "mongodb/test_mongodb_versions.py"),
    *("postgres/test_concurrent_changes.py", "postgres/test_driver_statements.py"),
    *("postgres/test_postgres_tls.py", "sqlite/test_sqlite_plans.py", "unit/test_documented_examples.py"),
    *("contract/test_statistics.py", "integrations", "observability/test_operations.py"),
}
# Tests, and the parameters that README's command leaves to CI. It has the contract in both styles on each
# type of backend; the async one on a replica set is that of the adopted database.
AT_FULL_SIZE = (
    ("TestMongodbStandalone", "[sync"),
    ("TestMongodbReplicaSet", "[async"),
    ("test_cached_contract.py", "[sync"),
    ("TestRedisCluster", "test_"),
    # The longest ones on MongoDB's second kind.
    ("test_cancellation.py", "mongodb-standalone-timeout"),
    ("test_cli_import.py", "mongodb-standalone-real"),
    ("test_hostile_input.py", "mongodb-standalone"),
    ("test_order.py", "mongodb-standalone"),
)
# Folders and files whose tests take long, most of it to wait: pytest-xdist starts with them, in every second
# process, so that the other processes have work meanwhile and none waits for them at the end.
LONG = {
    *("benchmarks", "faults", "typing", "cache/test_schedules.py", "cli/test_cli_streams.py"),
    *("contract/test_hostile_input.py", "contract/test_many_messages.py", "contract/test_model.py"),
    *("contract/test_order.py", "contract/test_races.py"),
    *("docs/test_build.py", "docs/test_chat_service.py", "docs/test_programs.py"),
    *("loops/test_cancellation.py", "loops/test_celery.py"),
    *("loops/test_services.py", "loops/test_shutdown.py", "migrations/test_rolling.py"),
    *("migrations/test_populated.py", "mongodb/test_time_to_fail.py"),
    *("packaging/test_tests.py", "packaging/test_wheel.py", "redis/test_redis_resharding.py"),
    *("postgres/test_grouped_appends.py", "postgres/test_lost_connections.py"),
    *("services/chat/test_chat_processes.py", "services/chat/test_chat_server_kills.py"),
    *("sqlite/test_sqlite_turns.py", "unit/test_connection_factory.py"),
}


def pytest_configure(config: pytest.Config) -> None:
    """Terminate processes that tests leave, and start the servers for the workers of pytest-xdist.

    The workers find them in the environment.

    If a server is missing, the fixtures of the tests that need it fail and name the variable to set.
    """
    config.pluginmanager.register(stray_processes)
    if "PYTEST_XDIST_WORKER" in os.environ:
        gc.disable()  # Nothing that is made until the tests are collected is garbage.
        _import_share(config)
    if config.getoption("dist", "no") == "no" or config.option.collectonly:
        return
    shared = contextlib.ExitStack()
    config.add_cleanup(shared.close)
    for variable, server in servers.SERVERS.items():
        with contextlib.suppress(servers.NoServerError):
            os.environ[variable] = shared.enter_context(server())
    os.environ[python_programs.VARIABLE] = shared.enter_context(python_programs.programs())


def pytest_collection_finish() -> None:
    """Collect garbage from now on."""
    gc.enable()


def _import_share(config: pytest.Config) -> None:
    """Import the worker's share of the test modules that are not compiled yet.

    Then each of them is rewritten and compiled by one worker, and not by all of them at the same time.
    """
    worker, workers = (os.environ[f"PYTEST_XDIST_WORKER{name}"] for name in ("", "_COUNT"))
    places = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    root = Path(__file__).parent
    modules = [
        path
        for path in sorted(root.rglob("test_*.py"))
        if any(path.is_relative_to(place) for place in places)
        and not any(path.parent.glob(f"__pycache__/{path.stem}.*"))
        # Without the frameworks these cannot be imported.
        and not path.parent.is_relative_to(root / "integrations")
        and not (config.option.markexpr == "not slow" and _is_slow(path))
    ]
    for path in modules[int(worker.removeprefix("gw")) :: int(workers)]:
        # What cannot be imported is said when it is collected.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(".".join(path.relative_to(root.parent).with_suffix("").parts))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what the quick run leaves out."""
    return True if config.option.markexpr == "not slow" and _is_slow(collection_path) else None


@functools.cache
def _is_slow(path: Path) -> bool:
    file = path.relative_to(Path(__file__).parent)
    return bool({*file.parts[:1], str(file)} & SLOW)


@functools.cache
def _is_long(path: Path) -> bool:
    file = path.relative_to(Path(__file__).parent)
    return bool({*file.parts[:1], str(file)} & LONG)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # Before and after pytest chooses by marks.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark slow tests, and those of full size only; let pytest-xdist start with long ones."""
    for item in items:
        if any(name in item.nodeid and style in item.name for name, style in AT_FULL_SIZE):
            item.add_marker(pytest.mark.full_size)
        # The quick run has the contract in its async style, on one kind of MongoDB server.
        further = "test_built_in_backends.py" in item.nodeid and (
            "[sync" in item.name or "TestMongodbReplicaSet" in item.nodeid
        )
        if _is_slow(item.path) or item.get_closest_marker("full_size") or further:
            item.add_marker(pytest.mark.slow)
    yield
    if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        items[:] = _long_ones_first(items, processes)


def _long_ones_first(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """Return the tests in an order of which each process of ``--dist worksteal`` gets an equal part at first.

    The tests of a file stay together: they share fixtures.
    """
    first: list[list[pytest.Item]] = [[] for _ in range(processes)]
    every_second = first[::2]
    long_files = itertools.groupby((item for item in items if _is_long(item.path)), lambda item: item.path)
    for number, (_, tests) in enumerate(long_files):
        every_second[number % len(every_second)] += tests
    rest = [item for item in items if not _is_long(item.path)]
    ordered: list[pytest.Item] = []
    for number, long in enumerate(first):
        size = (len(items) - len(ordered)) // (processes - number)
        room = max(size - len(long), 0)
        ordered += [*long, *rest[:room]]
        del rest[:room]
    return [*ordered, *rest]


_SETTINGS = ("SESSIONS_CONFIG", *re.findall(r"\$\{(\w+)", SHIPPED.read_text("utf-8")))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the user who runs the tests from the environment."""
    for name in _SETTINGS:
        if name in os.environ:
            monkeypatch.delenv(name)


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

    run_in_thread(_make_ready, "postgres", in_database(postgres_server, name))
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
    with _copied_template(postgres_server, postgres_template, _template_strategy) as url:
        yield url


@contextlib.contextmanager
def _copied_template(server: str, template: str, strategy: str) -> Iterator[str]:
    name = f"sessions_{uuid.uuid4().hex}"
    execute_postgres(server, f"CREATE DATABASE {name} TEMPLATE {template} {strategy}")
    yield in_database(server, name)
    execute_postgres(server, f"DROP DATABASE {name} WITH (FORCE)")


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


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema at head."""
    path = tmp_path_factory.mktemp("template") / "sessions.db"
    run_in_thread(_make_ready, "sqlite", f"sqlite:///{path}")
    return path


async def _make_ready(repository_type: str, url: str) -> None:
    async with SessionRepositoryFactory.create_repository(repository_type, url=url) as repository:
        await repository.ensure_ready()


@pytest.fixture
def _ready_sqlite_url(sqlite_url: str, _sqlite_template: Path) -> str:
    shutil.copy(_sqlite_template, sqlite_url.removeprefix("sqlite:///"))
    return sqlite_url


@pytest.fixture(scope="session")
def _shared_postgres_database(
    postgres_server: str, postgres_template: str, _template_strategy: str
) -> Iterator[str]:
    with _copied_template(postgres_server, postgres_template, _template_strategy) as url:
        yield url


@pytest.fixture
def _ready_postgres_url(_shared_postgres_database: str) -> str:
    execute_postgres(_shared_postgres_database, "TRUNCATE chat_sessions, chat_messages")
    return _shared_postgres_database


def _shared_mongodb_database(server: str) -> Iterator[str]:
    url = in_database(server, f"sessions_{uuid.uuid4().hex}")
    run_in_thread(_make_ready, "mongodb", url)
    yield url
    with MongoClient[dict[str, Any]](url) as client:
        client.drop_database(client.get_default_database())


def _emptied(url: str) -> str:
    with MongoClient[dict[str, Any]](url) as client:
        database = client.get_default_database()
        for name in database.list_collection_names():
            database[name].delete_many({})
    return url


@pytest.fixture(scope="session")
def _shared_replica_set_database(mongodb_replica_set_server: str) -> Iterator[str]:
    yield from _shared_mongodb_database(mongodb_replica_set_server)


@pytest.fixture(scope="session")
def _shared_standalone_database(mongodb_standalone_server: str) -> Iterator[str]:
    yield from _shared_mongodb_database(mongodb_standalone_server)


@pytest.fixture
def _ready_mongodb_url(_shared_replica_set_database: str) -> str:
    return _emptied(_shared_replica_set_database)


@pytest.fixture
def _ready_mongodb_standalone_url(_shared_standalone_database: str) -> str:
    return _emptied(_shared_standalone_database)


@pytest.fixture
def sqlite_url() -> Iterator[str]:
    """A SQLite file that does not exist yet."""
    with folder("sqlite") as path:
        yield f"sqlite:///{path}/sessions.db"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    with servers.redis() as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """An empty database of a Valkey server."""
    with redis_database(redis_server) as url:
        yield url


@pytest.fixture(scope="session")
def redis_cluster_server() -> Iterator[str]:
    with servers.redis_cluster() as url:
        yield url


@pytest.fixture
def redis_cluster(redis_cluster_server: str) -> Backend:
    """A cluster of Valkey servers, and a prefix that no other test uses."""
    options = {"prefix": f"test-{uuid.uuid4().hex}"}
    return Backend("redis-cluster", "redis", redis_cluster_server, options)


@pytest.fixture(scope="session")
def programs() -> Iterator[python_programs.Programs]:
    """Runs Python programs."""
    with python_programs.programs() as path:
        yield python_programs.Programs(path)


# By backend: the type of its repository, and the fixtures with a new database, and with one that is ready.
_DATABASES = {
    "sqlite": ("sqlite", "sqlite_url", "_ready_sqlite_url"),
    "postgres": ("postgres", "postgres_url", "_ready_postgres_url"),
    "mongodb-replica-set": ("mongodb", "mongodb_url", "_ready_mongodb_url"),
    "mongodb-standalone": ("mongodb", "mongodb_standalone_url", "_ready_mongodb_standalone_url"),
    "redis": ("redis", "redis_url", "redis_url"),
}


@pytest.fixture(params=_DATABASES)
def new_backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend, with a new database: for a test of first calls, or one that changes the schema."""
    repository_type, new, _ = _DATABASES[request.param]
    return Backend(request.param, repository_type, request.getfixturevalue(new))


@pytest.fixture(params=_DATABASES)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend, with a database that has the schema and no data.

    Tests share it, one after another: a new one takes longer than most of them.
    """
    repository_type, _, ready = _DATABASES[request.param]
    return Backend(request.param, repository_type, request.getfixturevalue(ready))


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
