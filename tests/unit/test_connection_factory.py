from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import time
import tracemalloc
import weakref
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import (
    AsyncBaseConnectionManager,
    BaseConnectionManager,
    ConfigurationError,
    ConnectionFactory,
    ConnectionType,
    RetryConfig,
    SessionRepositoryFactory,
    UnknownRepositoryError,
    register_connection_manager,
)
from sessions.testing.open_connections import count_checked_out

SECRET = "hunter2-Zq9"
get = ConnectionFactory.get_connection_manager


class Manager(BaseConnectionManager):
    """Notes what happens to it."""

    def __init__(self, *, url: str = "", **options: Any) -> None:
        self.url = url
        self.options = options
        self.events: list[str] = []

    def connect(self) -> str:
        self.events.append("connect")
        return self.url

    def disconnect(self) -> None:
        self.events.append("disconnect")

    def is_healthy(self) -> bool:
        return True


class AsyncManager(AsyncBaseConnectionManager):
    """Notes what happens to it."""

    def __init__(self, *, url: str = "") -> None:
        self.url = url
        self.events: list[str] = []

    async def connect(self) -> str:
        self.events.append("connect")
        return self.url

    async def disconnect(self) -> None:
        self.events.append("disconnect")

    async def is_healthy(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _factory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ConnectionFactory, "_classes", dict(ConnectionFactory._classes))
    monkeypatch.setattr(ConnectionFactory, "_managers", {})
    monkeypatch.setattr(ConnectionFactory, "_closed", weakref.WeakValueDictionary())
    monkeypatch.chdir(tmp_path)


# --- one manager for each database -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "url", "other"),
    [
        ("postgres", "postgresql://u:p@h/a", "postgresql://u:p@h/b"),
        ("mongodb", "mongodb://h/a", "mongodb://h/b"),
        ("sqlite", "sqlite:///a.db", "sqlite:///b.db"),
    ],
)
def test_there_is_one_manager_for_each_type_and_url(name: str, url: str, other: str) -> None:
    assert get(name, url=url) is get(name, url=url)
    assert get(name, url=url) is get(ConnectionType(name), url=url)
    assert get(name, url=url) is not get(name, url=other)


def test_the_spellings_of_one_postgres_url_share_a_manager() -> None:
    spellings = ("postgresql", "postgresql+asyncpg", "postgres")

    managers = {id(get("postgres", url=f"{scheme}://u:p@h:5432/d")) for scheme in spellings}

    assert len(managers) == 1


def test_a_configured_url_and_the_same_url_given_share_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL", "postgresql+asyncpg://u:p@h/d")

    configured = get("postgres")

    assert configured is get("postgres", url="postgresql://u:p@h/d")
    monkeypatch.setenv("POSTGRES_URL", "postgresql://u:p@h/other")
    assert get("postgres") is not configured


def test_the_spellings_of_one_sqlite_file_reach_one_file(tmp_path: Path) -> None:
    relative, absolute = get("sqlite", url="sqlite:///a.db"), get("sqlite", url=f"sqlite:///{tmp_path}/a.db")

    assert relative._path == absolute._path == str(tmp_path / "a.db")  # type: ignore[union-attr]


def test_repositories_of_one_database_share_a_manager_also_across_types_of_option() -> None:
    first, second = (
        SessionRepositoryFactory.create_repository("postgres", url="postgresql://h/d", pool_size=3)
        for _ in range(2)
    )

    assert first is not second
    assert first._connection_manager is second._connection_manager


@pytest.mark.parametrize(
    ("name", "url", "options"),
    [
        ("postgres", "postgresql://h/d", {"pool_size": 3}),
        ("postgres", "postgresql://h/d", {"connect_timeout": 1.5}),
        ("postgres", "postgresql://h/d", {"auto_migrate": False}),
        ("postgres", "postgresql://h/d", {"ssl": "require"}),
        ("mongodb", "mongodb://h/d", {"pool_size": 3}),
        ("mongodb", "mongodb://h", {"database": "other"}),
        ("sqlite", "sqlite:///a.db", {"busy_timeout": 1}),
    ],
)
def test_other_options_are_another_manager(name: str, url: str, options: dict[str, Any]) -> None:
    assert get(name, url=url) is not get(name, url=url, **options)
    assert get(name, url=url, **options) is get(name, url=url, **options)


def test_an_option_that_repeats_the_default_is_the_same_manager() -> None:
    assert get("postgres", url="postgresql://h/d") is get("postgres", url="postgresql://h/d", pool_size=10)


def test_other_passwords_are_another_manager() -> None:
    first, second = (get("postgres", url=f"postgresql://u:{password}@h/d") for password in "ab")

    assert first is not second


@pytest.mark.slow
async def test_each_engine_of_a_service_has_its_own_manager_that_does_not_keep_it_alive() -> None:
    engines = []
    for number in range(20):
        # A later engine may have the memory address of an earlier one.
        engine = create_async_engine(f"sqlite+aiosqlite:///{number}.db")
        manager = get("sqlite", engine=engine)
        assert get("sqlite", engine=engine) is manager
        assert manager._given.url == engine.url  # type: ignore[union-attr]
        engines.append(weakref.ref(engine.sync_engine))
        del engine, manager
        gc.collect(1)  # What is young: all objects of the process would take half a second.
    gc.collect()
    assert [engine for engine in engines if engine() is not None] == []
    assert ConnectionFactory._managers == {}


async def test_each_client_of_a_service_is_not_kept_alive_either() -> None:
    client: Any = AsyncMongoClient("mongodb://h", connect=False)
    repository = SessionRepositoryFactory.create_repository("mongodb", client=client)
    assert repository._connection_manager is get("mongodb", client=client)
    gone = weakref.ref(client)
    await client.close()
    del client, repository
    gc.collect()
    assert gone() is None


# --- forgetting ------------------------------------------------------------------------------------


async def test_a_closed_manager_is_forgotten_once_it_is_unreferenced(tmp_path: Path) -> None:
    repository = SessionRepositoryFactory.create_repository("sqlite", url=f"sqlite:///{tmp_path}/a.db")
    manager = weakref.ref(repository._connection_manager)
    await repository.create_session_async("u")
    await repository.aclose()
    assert ConnectionFactory._managers == {}
    del repository
    gc.collect()
    assert manager() is None


async def test_a_repository_that_is_used_after_a_close_still_shares_its_manager(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    repository = SessionRepositoryFactory.create_repository("sqlite", url=url)
    await repository.aclose()
    assert await repository.count_sessions("u") == 0
    other = SessionRepositoryFactory.create_repository("sqlite", url=url)
    assert other._connection_manager is repository._connection_manager
    await ConnectionFactory.aclose_all()
    await repository.count_sessions("u")
    await ConnectionFactory.aclose_all()
    assert count_checked_out(repository) == 0
    assert repository._connection_manager._pools.resources() == []


@pytest.mark.slow
@pytest.mark.parametrize("count", [400, pytest.param(1500, marks=pytest.mark.full_size)])
def test_thousands_of_tenants_leave_nothing_behind(tmp_path: Path, count: int) -> None:
    async def tenants(numbers: range) -> None:
        for number in numbers:
            kind, url = (
                ("postgres", f"postgresql://u:p@h/tenant{number}"),
                ("mongodb", f"mongodb://h/tenant{number}"),
                ("sqlite", f"sqlite:///{tmp_path}/tenant{number}.db"),
            )[number % 3]
            async with SessionRepositoryFactory.create_repository(kind, url=url) as repository:
                if number % 999 == 2:
                    assert kind == "sqlite"
                    await repository.create_session_async("u")

    def left() -> Counter[str]:
        gc.collect()
        return Counter(type(found).__name__ for found in gc.get_objects())

    # With a margin for the caches of bounded size.
    asyncio.run(tenants(range(1500)))
    before = left()
    tracemalloc.start()
    try:
        asyncio.run(tenants(range(1500, 2000)))
        sizes = []
        for start in (2000, 2000 + count, 2000 + 2 * count, None):
            gc.collect()  # A full collection may be long ago in a process that has run many tests.
            sizes.append(tracemalloc.get_traced_memory()[0])
            if start is not None:
                asyncio.run(tenants(range(start, start + count)))
    finally:
        tracemalloc.stop()
    more = left() - before
    assert [name for name in more if name.endswith(("ConnectionManager", "Engine", "Client", "Pool"))] == []
    assert ConnectionFactory._managers == {}
    assert len(ConnectionFactory._closed) == 0
    assert max(more.values()) < 2000, more.most_common(10)
    # The least of three: the first of them leave 350,000 bytes, and a table of the whole process, such as
    # that of the interned strings, may become larger once.
    assert min(large - small for small, large in pairwise(sizes)) < 200_000 + 160 * count


# --- copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
@pytest.mark.parametrize(
    ("name", "url"),
    [("postgres", "postgresql://h/d"), ("mongodb", "mongodb://h/d"), ("sqlite", "sqlite:///a.db")],
)
def test_a_copy_of_a_repository_shares_its_manager(how: Any, name: str, url: str) -> None:
    retry = RetryConfig(max_attempts=7)
    repository = SessionRepositoryFactory.create_repository(name, url=url, pool_size=3, retry=retry)

    copied = how(repository)

    assert copied is not repository
    assert type(copied) is type(repository)
    assert copied._connection_manager is repository._connection_manager
    assert copied._chosen_retry == retry


async def test_a_copy_works_also_while_the_original_is_connected(tmp_path: Path) -> None:
    async with SessionRepositoryFactory.create_repository(
        "sqlite", url=f"sqlite:///{tmp_path}/a.db"
    ) as repository:
        session_id = await repository.create_session_async("u")
        for copied in (copy.deepcopy({"r": repository})["r"], pickle.loads(pickle.dumps(repository))):
            assert (await copied.get_session("u", session_id)).session_id == session_id


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_a_repository_on_a_services_own_says_why_it_cannot_be_copied(how: Any) -> None:
    client: Any = AsyncMongoClient("mongodb://h", connect=False)
    for name, options in (
        ("sqlite", {"engine": create_async_engine("sqlite+aiosqlite:///a.db")}),
        ("postgres", {"engine": create_async_engine("postgresql+asyncpg://u@h/d")}),
        ("mongodb", {"client": client}),
    ):
        repository = SessionRepositoryFactory.create_repository(name, **options)
        with pytest.raises(TypeError, match="engine, a client or a connection manager of a service's own"):
            how(repository)
    await client.close()


async def test_each_client_of_a_service_has_its_own_manager() -> None:
    first: Any = AsyncMongoClient("mongodb://h", connect=False)
    second: Any = AsyncMongoClient("mongodb://h", connect=False)

    assert get("mongodb", client=first) is get("mongodb", client=first)
    assert get("mongodb", client=first) is not get("mongodb", client=second)
    assert get("mongodb", client=first) is not get("mongodb", client=first, database="other")
    await first.close()
    await second.close()


def test_an_engine_of_another_database_is_refused() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")

    with pytest.raises(ConfigurationError, match="engine: is for sqlite, not postgresql"):
        get("postgres", engine=engine)


def test_a_manager_that_could_not_be_made_is_not_kept() -> None:
    with pytest.raises(ConfigurationError):
        get("postgres", url="mysql://h/d")

    assert ConnectionFactory._managers == {}


def test_concurrent_threads_get_one_manager() -> None:
    made = []

    @register_connection_manager("slow")
    class Slow(Manager):
        def __init__(self, **options: Any) -> None:
            time.sleep(0.02)
            super().__init__(**options)
            made.append(self)

    start = threading.Barrier(16)
    found: list[Any] = []

    def ask() -> None:
        start.wait()
        found.append(get("slow", url="slow://x"))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 1
    assert found == made * 16


# --- registering -----------------------------------------------------------------------------------


def test_a_registered_manager_is_made_with_the_options_of_the_caller() -> None:
    register_connection_manager("own")(Manager)

    manager = get("own", url="own://x", depth=3)

    assert isinstance(manager, Manager)
    assert (manager.url, manager.options) == ("own://x", {"depth": 3})
    assert get("own", depth=3, url="own://x") is manager


def test_the_decorator_returns_the_class_and_may_be_repeated() -> None:
    assert register_connection_manager("own")(Manager) is Manager
    assert register_connection_manager("own")(Manager) is Manager


def test_the_same_class_again_replaces_the_former_one() -> None:
    register_connection_manager("own")(Manager)
    before = ConnectionFactory.get_connection_manager("own", url="u")

    again = type("Manager", (Manager,), {"__module__": Manager.__module__})
    assert again is not Manager
    register_connection_manager("own")(again)

    after = ConnectionFactory.get_connection_manager("own", url="u")
    assert type(after) is again
    assert after is not before


def test_registering_a_taken_name_raises_and_keeps_the_first() -> None:
    register_connection_manager("own")(Manager)

    with pytest.raises(ValueError, match="'own'"):
        register_connection_manager("own")(AsyncManager)

    assert isinstance(get("own"), Manager)


@pytest.mark.parametrize("name", ConnectionType)
def test_the_built_in_names_are_taken(name: ConnectionType) -> None:
    with pytest.raises(ValueError, match=name):
        ConnectionFactory.register(name, Manager)


@pytest.mark.parametrize("name", ["oracle", "", "Postgres"])
def test_an_unknown_type_lists_the_known_ones(name: str) -> None:
    register_connection_manager("own")(Manager)

    with pytest.raises(UnknownRepositoryError, match="known: mongodb, own, postgres, redis, sqlite"):
        get(name)


# --- closing ---------------------------------------------------------------------------------------


@pytest.fixture
def managers() -> tuple[Manager, AsyncManager]:
    register_connection_manager("own")(Manager)
    register_connection_manager("own-async")(AsyncManager)
    found = get("own"), get("own-async")
    assert isinstance(found[0], Manager)
    assert isinstance(found[1], AsyncManager)
    return found


async def test_aclose_all_closes_every_manager_and_keeps_it_for_the_next_call(
    managers: tuple[Manager, AsyncManager],
) -> None:
    await ConnectionFactory.aclose_all()

    assert [manager.events for manager in managers] == [["disconnect"], ["disconnect"]]
    assert (get("own"), get("own-async")) == managers


def test_close_all_does_it_for_sync_callers(managers: tuple[Manager, AsyncManager]) -> None:
    ConnectionFactory.close_all()

    assert [manager.events for manager in managers] == [["disconnect"], ["disconnect"]]


async def test_close_all_may_be_called_while_a_loop_runs(managers: tuple[Manager, AsyncManager]) -> None:
    ConnectionFactory.close_all()

    assert [manager.events for manager in managers] == [["disconnect"], ["disconnect"]]


async def test_a_database_works_again_after_close_all(tmp_path: Path) -> None:
    repository = SessionRepositoryFactory.create_repository("sqlite", url=f"sqlite:///{tmp_path}/a.db")
    session_id = await repository.create_session_async("u")

    await ConnectionFactory.aclose_all()
    await ConnectionFactory.aclose_all()

    assert (await repository.get_session("u", session_id)).session_id == session_id
    await ConnectionFactory.aclose_all()


def test_managers_are_context_managers(managers: tuple[Manager, AsyncManager]) -> None:
    with managers[0] as entered:
        assert entered is managers[0]

    assert managers[0].events == ["connect", "disconnect"]


async def test_async_managers_are_async_context_managers(managers: tuple[Manager, AsyncManager]) -> None:
    async with managers[1] as entered:
        assert entered is managers[1]

    assert managers[1].events == ["connect", "disconnect"]


# --- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("postgres", {"url": f"postgresql://u:{SECRET}@h/d"}),
        ("postgres", {"url": f"postgresql+asyncpg://u:{SECRET}@h/d"}),
        ("postgres", {"host": "h", "password": SECRET}),
        ("mongodb", {"url": f"mongodb://u:{SECRET}@h/d"}),
        ("mongodb", {"host": "h", "username": "u", "password": SECRET}),
    ],
)
def test_no_representation_of_a_manager_its_key_or_its_repository_shows_the_password(
    name: str, options: dict[str, Any]
) -> None:
    repository = SessionRepositoryFactory.create_repository(name, **options)
    manager = repository._connection_manager

    shown = [manager, repository, manager._settings, manager.cache_key(**options)]
    shown += [ConnectionFactory._managers, *ConnectionFactory._managers]

    for value in shown:
        assert SECRET not in repr(value)
        assert SECRET not in str(value)


async def test_the_key_of_a_services_engine_shows_no_password() -> None:
    engine = create_async_engine(f"postgresql+asyncpg://u:{SECRET}@h/d")
    get("postgres", engine=engine)

    assert SECRET not in repr(ConnectionFactory._managers)
    await engine.dispose()


def test_no_error_about_an_option_shows_its_value() -> None:
    for options in ({"url": f"mysql://u:{SECRET}@h/d"}, {"password": [SECRET]}, {"port": SECRET}):
        with pytest.raises(ConfigurationError) as caught:
            get("postgres", **options)
        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value.__cause__)
