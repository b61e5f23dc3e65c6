from __future__ import annotations

import gc
import threading
import time
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
    SessionRepositoryFactory,
    UnknownRepositoryError,
    register_connection_manager,
)

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


async def test_each_engine_of_a_service_has_its_own_manager_that_keeps_it_alive() -> None:
    # Were it told apart by its id alone, a later engine in the same place would be taken for it.
    seen: set[int] = set()
    for number in range(20):
        engine = create_async_engine(f"sqlite+aiosqlite:///{number}.db")
        manager = get("sqlite", engine=engine)
        assert get("sqlite", engine=engine) is manager
        assert id(manager) not in seen
        seen.add(id(manager))
        assert manager._given.url == engine.url  # type: ignore[union-attr]
        held = [key for key in ConnectionFactory._managers if engine in _flat(key)]
        assert len(held) == 1
        del engine
        gc.collect()


def _flat(key: object) -> list[object]:
    return [part for item in key for part in _flat(item)] if isinstance(key, tuple) else [key]


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


def test_threads_that_ask_at_once_get_one_manager() -> None:
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


def test_the_decorator_gives_the_class_back_and_may_be_repeated() -> None:
    assert register_connection_manager("own")(Manager) is Manager
    assert register_connection_manager("own")(Manager) is Manager


def test_the_same_class_again_replaces_the_one_from_before() -> None:
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


@pytest.mark.parametrize("name", ["redis", "", "Postgres"])
def test_an_unknown_type_lists_the_known_ones(name: str) -> None:
    register_connection_manager("own")(Manager)

    with pytest.raises(UnknownRepositoryError, match="known: mongodb, own, postgres, sqlite"):
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
