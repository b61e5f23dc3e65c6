from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessions import (
    BaseSessionRepository,
    ChatMessage,
    ChatSession,
    ConfigurationError,
    MissingDependencyError,
    SessionRepositoryFactory,
    SessionRepositoryRegistry,
    SessionRepositoryType,
    UnknownRepositoryError,
    register_repository,
)
from tests.support.programs import Programs

BUILT_IN = ["mongodb", "postgres", "sqlite", "redis"]


class NoRepository(BaseSessionRepository):
    """The minimum of a repository that can be registered."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def _create_tables_if_not_exist(self) -> None: ...

    def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
        raise NotImplementedError

    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        raise NotImplementedError

    def update_session(self, user_id: str, session_id: str, data: dict[str, Any]) -> bool:
        raise NotImplementedError

    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        raise NotImplementedError

    def delete_session(self, user_id: str, session_id: str) -> bool:
        raise NotImplementedError

    async def add_message(self, session_id: str, role: str, content: str) -> str:
        raise NotImplementedError


class OtherRepository(NoRepository):
    """Another class."""


@pytest.fixture(autouse=True)
def _registry_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BUILT_IN:
        SessionRepositoryRegistry.get_repository_class(name)  # A module registers once, when it is loaded.
    monkeypatch.setattr(SessionRepositoryRegistry, "_classes", dict(SessionRepositoryRegistry._classes))


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one module and one entry point on ``sys.path``."""

    def write(name: str, module: str, source: str, attribute: str = "Backend") -> None:
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        metadata = tmp_path / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(
            f"[sessions.repositories]\n{name} = {module}:{attribute}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return write


# --- registering -----------------------------------------------------------------------------------


def test_a_registered_class_is_created_with_the_options_of_the_caller() -> None:
    register_repository("own")(NoRepository)

    created = SessionRepositoryFactory.create_repository("own", url="own://x", depth=3)

    assert type(created) is NoRepository
    assert created.options == {"url": "own://x", "depth": 3}
    assert SessionRepositoryRegistry.get_repository_class("own") is NoRepository


def test_the_decorator_returns_the_class() -> None:
    assert register_repository("own")(NoRepository) is NoRepository
    assert SessionRepositoryRegistry.register_repository("own2")(NoRepository) is NoRepository


def test_each_call_creates_a_new_repository() -> None:
    register_repository("own")(NoRepository)

    first, second = (SessionRepositoryFactory.create_repository("own") for _ in range(2))

    assert first is not second


def test_registering_a_taken_name_raises_and_keeps_the_first() -> None:
    register_repository("own")(NoRepository)

    with pytest.raises(ValueError, match="'own'"):
        register_repository("own")(OtherRepository)

    assert SessionRepositoryRegistry.get_repository_class("own") is NoRepository


def test_registering_the_same_class_again_changes_nothing() -> None:
    register_repository("own")(NoRepository)
    register_repository("own")(NoRepository)

    assert SessionRepositoryRegistry.get_repository_class("own") is NoRepository


CELL = """
@register_repository("own")
class InACell(NoRepository):
    depth = {depth}
"""


def test_a_notebook_cell_that_is_run_twice_replaces_its_class() -> None:
    notebook = {"register_repository": register_repository, "NoRepository": NoRepository, "__name__": "cell"}
    for depth in (1, 2):
        exec(CELL.format(depth=depth), notebook)

    assert SessionRepositoryRegistry.get_repository_class("own") is notebook["InACell"]
    assert SessionRepositoryFactory.create_repository("own").depth == 2


@pytest.mark.parametrize(
    "other", [{"__name__": "another cell"}, {"__name__": "cell", "__qualname__": "Outer.InACell"}]
)
def test_a_class_of_the_same_name_from_elsewhere_does_not_replace_it(other: dict[str, str]) -> None:
    notebook = {"register_repository": register_repository, "NoRepository": NoRepository, "__name__": "cell"}
    exec(CELL.format(depth=1), notebook)

    elsewhere = type("InACell", (NoRepository,), {"__module__": other.pop("__name__"), **other})
    with pytest.raises(ValueError, match="'own'"):
        register_repository("own")(elsewhere)

    assert SessionRepositoryFactory.create_repository("own").depth == 1


@pytest.mark.parametrize("name", SessionRepositoryType)
def test_a_built_in_module_that_is_loaded_again_replaces_its_class(name: SessionRepositoryType) -> None:
    before = SessionRepositoryRegistry.get_repository_class(name)
    again = type(before.__name__, (before,), {"__module__": before.__module__})

    assert register_repository(name)(again) is again
    assert SessionRepositoryRegistry.get_repository_class(name) is again


@pytest.mark.parametrize("name", SessionRepositoryType)
def test_the_built_in_names_are_taken_loaded_or_not(name: SessionRepositoryType) -> None:
    SessionRepositoryRegistry._classes.pop(name, None)

    with pytest.raises(ValueError, match=name):
        register_repository(name)(NoRepository)
    with pytest.raises(ValueError, match=name):
        register_repository(str(name))(NoRepository)


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SessionRepositoryType)
def test_a_type_and_its_name_are_the_same(name: SessionRepositoryType) -> None:
    found = SessionRepositoryRegistry.get_repository_class(name)

    assert SessionRepositoryRegistry.get_repository_class(name.value) is found
    assert (
        found.__name__
        == {
            "mongodb": "MongoSessionRepository",
            "postgres": "PostgresSessionRepository",
            "sqlite": "SqliteSessionRepository",
            "redis": "RedisSessionRepository",
        }[name.value]
    )


@pytest.mark.parametrize("name", ["oracle", "", "Postgres", "x" * 10_000])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    register_repository("own")(NoRepository)

    with pytest.raises(UnknownRepositoryError) as caught:
        SessionRepositoryFactory.create_repository(name)

    assert "known: mongodb, own, postgres, redis, sqlite" in str(caught.value)
    assert isinstance(caught.value, LookupError)
    assert len(str(caught.value)) < 300


def test_the_list_has_the_built_in_names_first_and_then_the_others_in_order() -> None:
    for name in ("zebra", "apple", "milk"):
        register_repository(name)(NoRepository)

    assert SessionRepositoryFactory.list_repositories() == [*BUILT_IN, "apple", "milk", "zebra"]
    assert SessionRepositoryRegistry.list_repositories() == SessionRepositoryFactory.list_repositories()


def test_the_built_in_names_in_the_list_are_members_of_the_enum() -> None:
    assert [type(name) for name in SessionRepositoryFactory.list_repositories()[:3]] == [
        SessionRepositoryType
    ] * 3


# --- the default -----------------------------------------------------------------------------------


def test_the_default_is_the_repository_that_the_settings_name(monkeypatch: pytest.MonkeyPatch) -> None:
    register_repository("own")(NoRepository)
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "own")

    assert type(SessionRepositoryFactory.get_default_repository()) is NoRepository


def test_the_default_is_mongodb_where_nothing_is_configured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    assert type(SessionRepositoryFactory.get_default_repository()).__name__ == "MongoSessionRepository"


def test_the_default_takes_the_options_of_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    register_repository("own")(NoRepository)
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "own")
    assert SessionRepositoryFactory.get_default_repository(depth=3).options == {"depth": 3}  # type: ignore[attr-defined]

    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "sqlite")
    repository = SessionRepositoryFactory.get_default_repository(url="sqlite:///a.db", pool_size=3)
    same = SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///a.db", pool_size=3)
    assert repository._connection_manager is same._connection_manager
    with pytest.raises(ConfigurationError, match=r"db\.sqlite\.depth: unknown key"):
        SessionRepositoryFactory.get_default_repository(depth=3)


def test_an_unknown_default_is_a_configuration_error_that_lists_the_known_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "oracle")

    with pytest.raises(
        ConfigurationError,
        match=r"^sessions\.default_repository: from SESSIONS_DEFAULT_REPOSITORY: "
        r"no repository 'oracle'; known: mongodb, postgres, redis, sqlite$",
    ) as caught:
        SessionRepositoryFactory.get_default_repository()

    assert isinstance(caught.value.__cause__, UnknownRepositoryError)


# --- entry points ----------------------------------------------------------------------------------

PLAIN = """
    class Backend:
        def __init__(self, **options):
            self.options = options
"""


def test_an_installed_package_registers_its_repository_by_entry_point(install: Install) -> None:
    install("plugged", "plugin_plain", PLAIN)

    assert SessionRepositoryFactory.list_repositories() == [*BUILT_IN, "plugged"]
    assert "plugin_plain" not in sys.modules
    created = SessionRepositoryFactory.create_repository("plugged", url="u")
    assert (type(created).__module__, created.options) == ("plugin_plain", {"url": "u"})
    assert SessionRepositoryRegistry.get_repository_class("plugged") is type(created)


def test_an_entry_point_whose_module_also_uses_the_decorator_is_one_registration(install: Install) -> None:
    install(
        "plugged",
        "plugin_decorated",
        """
        from sessions import register_repository

        @register_repository("plugged")
        class Backend:
            pass
        """,
    )

    found = SessionRepositoryRegistry.get_repository_class("plugged")

    assert found.__module__ == "plugin_decorated"
    assert SessionRepositoryFactory.list_repositories() == [*BUILT_IN, "plugged"]


def test_two_packages_that_register_one_name_by_entry_point_are_an_error(install: Install) -> None:
    install("plugged", "plugin_one", PLAIN)
    install("plugged", "plugin_two", PLAIN)

    with pytest.raises(ValueError, match="'plugged'"):
        SessionRepositoryFactory.create_repository("plugged")


def test_an_entry_point_does_not_replace_a_built_in_repository(install: Install) -> None:
    install("sqlite", "plugin_greedy", PLAIN)

    assert SessionRepositoryRegistry.get_repository_class("sqlite").__module__.startswith("sessions.")
    assert SessionRepositoryFactory.list_repositories() == BUILT_IN


def test_an_entry_point_whose_package_lacks_something_says_what(install: Install) -> None:
    install("plugged", "plugin_broken", "import no_such_driver\n")

    with pytest.raises(MissingDependencyError) as caught:
        SessionRepositoryFactory.create_repository("plugged")

    assert str(caught.value) == "plugged needs no_such_driver, which is not installed"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


# --- drivers ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("mongodb", "beanie"),
        ("mongodb", "pymongo"),
        ("postgres", "asyncpg"),
        ("sqlite", "aiosqlite"),
    ],
)
def test_a_missing_driver_is_named_with_the_command_that_installs_it(
    name: str, module: str, programs: Programs
) -> None:
    program = f"""
        import sys
        sys.modules[{module!r}] = None
        import sessions

        try:
            sessions.SessionRepositoryFactory.create_repository({name!r})
        except sessions.MissingDependencyError as error:
            assert isinstance(error.__cause__, ModuleNotFoundError), error.__cause__
            print(error)
    """
    done = programs.run("-c", textwrap.dedent(program))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{name} needs {module}; install it with: pip install agenthub-sessions\n"
