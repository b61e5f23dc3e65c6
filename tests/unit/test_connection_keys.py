"""A repository is created for each request: nothing is validated twice, and every change is detected."""

from __future__ import annotations

import gc
import os
import time
import timeit
import weakref
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from sqlalchemy.ext.asyncio import create_async_engine

from sessions import ConfigurationError, ConnectionFactory, SessionRepositoryFactory
from sessions.config.models import BackendSettings
from sessions.connections import keys

get = ConnectionFactory.get_connection_manager

URLS = {
    "mongodb": "mongodb://h/d",
    "postgres": "postgresql+asyncpg://u:p@h/d",
    "sqlite": "sqlite:///chat.db",
}
# Three times the limit of a call, because the machine has other load.
MOST_MICROSECONDS = 45


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_settings(folder: Path, text: str) -> Path:
    path = folder / "resources" / "application-db.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize("with_url", [True, False])
def test_what_was_asked_for_before_is_not_validated_again(
    name: str, with_url: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"url": URLS[name] if with_url else None, "pool_size": 3}
    first = SessionRepositoryFactory.create_repository(name, **options)

    for function in ("with_overrides", "_replaced"):
        monkeypatch.setattr(BackendSettings, function, pytest.fail)
    again = SessionRepositoryFactory.create_repository(name, **options)

    assert again is not first
    assert again._connection_manager is first._connection_manager


@pytest.mark.parametrize("name", URLS)
def test_a_repository_is_made_in_microseconds(name: str) -> None:
    def create() -> None:
        SessionRepositoryFactory.create_repository(name, url=URLS[name])

    create()
    fastest = min(timeit.repeat(create, timer=time.thread_time, number=20, repeat=250)) / 20

    assert fastest * 1e6 < MOST_MICROSECONDS


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("postgres", {"engine": create_async_engine("postgresql+asyncpg://u@h/d")}),
        ("sqlite", {"engine": create_async_engine("sqlite+aiosqlite:///chat.db")}),
        ("mongodb", {"client": AsyncMongoClient[dict[str, Any]]("mongodb://h/d", connect=False)}),
    ],
)
def test_a_repository_on_a_service_s_own_engine_or_client_is_made_in_microseconds(
    name: str, own: dict[str, Any]
) -> None:
    def create() -> None:
        SessionRepositoryFactory.create_repository(name, **own)

    create()
    fastest = min(timeit.repeat(create, timer=time.thread_time, number=20, repeat=250)) / 20

    assert fastest * 1e6 < MOST_MICROSECONDS


def test_options_that_are_equal_but_of_another_type_are_told_apart() -> None:
    get("postgres", url=URLS["postgres"], pool_size=1)

    with pytest.raises(ConfigurationError, match=r"db\.postgres\.pool_size"):
        get("postgres", url=URLS["postgres"], pool_size=True)
    assert (
        get("postgres", url=URLS["postgres"], pool_size=2)
        is get("postgres", pool_size=2, url=URLS["postgres"])
        is not get("postgres", url=URLS["postgres"], pool_size=1)
    )


@pytest.mark.parametrize("name", URLS)
def test_a_change_of_a_variable_is_another_manager(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = get(name, url=URLS[name])
    monkeypatch.setenv(f"{name.upper()}_POOL_SIZE", "3")
    changed = get(name, url=URLS[name])
    monkeypatch.delenv(f"{name.upper()}_POOL_SIZE")

    assert changed is not before
    assert get(name, url=URLS[name]) is before


def test_a_change_of_the_settings_file_is_another_manager(tmp_path: Path) -> None:
    without = get("postgres")
    path = write_settings(tmp_path, "db: {postgres: {host: a}}")
    first = get("postgres")
    path.write_text("db: {postgres: {host: b}}")
    os.utime(path, ns=(1, 1))
    second = get("postgres")
    path.unlink()

    assert len({without, first, second}) == 3
    assert get("postgres") is without


def test_a_change_of_directory_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        write_settings(tmp_path / folder, f"db: {{postgres: {{host: {folder}}}}}")
    managers = []
    for folder in ("one", "two", "one"):
        monkeypatch.chdir(tmp_path / folder)
        managers.append((get("postgres"), get("sqlite", url=URLS["sqlite"])))

    assert managers[0] == managers[2]
    assert managers[0][0] is not managers[1][0]
    assert managers[0][1] is not managers[1][1]


def test_a_change_of_the_home_directory_is_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    managers = []
    for home in ("/home/one", "/home/two"):
        monkeypatch.setenv("HOME", home)
        managers.append(get("sqlite", path="~/chat.db"))

    assert managers[0] is not managers[1]


def test_unhashable_options_are_rejected() -> None:
    with pytest.raises(ConfigurationError, match=r"db\.postgres\.host"):
        get("postgres", host=["a"])


def test_a_service_s_own_engine_and_client_are_not_kept_here() -> None:
    engine = create_async_engine("postgresql+asyncpg://u@h/d")
    client: Any = AsyncMongoClient("mongodb://h/d", connect=False)
    get("postgres", engine=engine, schema="chat")
    get("mongodb", client=client, database="d")
    assert not any(value in (engine, client) for asked in keys._remembered for value in asked)

    # The factory's own references do not count.
    ConnectionFactory._managers.clear()
    gone = weakref.ref(engine.sync_engine)
    del engine
    gc.collect()
    assert gone() is None


def test_the_options_of_many_tenants_are_forgotten() -> None:
    for number in range(3 * keys.MAX_REMEMBERED):
        get("sqlite", url=f"sqlite:///{number}.db")

    assert len(keys._remembered) <= keys.MAX_REMEMBERED


@pytest.mark.parametrize("name", URLS)
async def test_a_wrong_url_of_a_variable_is_named_by_the_variable_and_not_shown(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"{name.upper()}_URL"
    monkeypatch.setenv(variable, "nonsense://user:hunter2@h/d")

    with pytest.raises(ConfigurationError) as caught:
        # MongoDB's URL is checked when the client is created.
        await SessionRepositoryFactory.create_repository(name).ensure_ready()

    assert str(caught.value).startswith(f"{variable}: must start with ")
    assert str(caught.value).endswith(f" (db.{name}.url)")
    assert "hunter2" not in str(caught.value)


def test_a_wrong_url_of_the_caller_is_no_variable_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_URL", URLS["postgres"])

    with pytest.raises(ConfigurationError, match=r"^db\.postgres\.url: must start with"):
        get("postgres", url="nonsense://h/d")
