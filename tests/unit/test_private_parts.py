"""Private or undocumented parts of dependencies are used only where allowed, and behave as the code expects.

Those of a driver are in ``test_internals.py`` of its backend's folder.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.core
import uvloop
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from pymongo import AsyncMongoClient
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

import sessions
from alembic import command
from sessions import migrations
from sessions.config.environment import Variables
from sessions.connections.factory import kept_by
from sessions.core.internals import hide, no_running_loop
from sessions.core.loops import kept_on
from tests.support.programs import Programs

PACKAGE = Path(sessions.__file__).parent
# Modules that use a private part of a dependency, and name the reason.
INTERNALS = {
    "backends/mongodb/internals.py",
    "backends/postgres/internals.py",
    "backends/redis/internals.py",
    "backends/sqlite/internals.py",
    "config/environment.py",
    "core/internals.py",
    "integrations/agent_framework/provider.py",
    "integrations/agent_framework/reading.py",
}
# Private names of the package's own objects, or attributes that it sets on objects of others.
OWN_PARTS = {
    "cache/repository.py": {"_connection_manager", "vars"},
    "connections/factory.py": {"vars"},
    "chats/async_chats.py": {"_calls"},
    "repositories/async_session_repository.py": {"vars"},
    "testing/open_connections.py": {"_connection_manager"},
}
# Importable, but not public.
UNDOCUMENTED = {"sqlalchemy.util", "sqlalchemy.util.concurrency", "sqlalchemy.util.langhelpers"}


def parsed(file: Path) -> ast.Module:
    # CPython counts the depth of a tree in the interpreter: a finalizer or a thread that parses meanwhile, as
    # the garbage collector lets it, makes a SystemError of it.
    gc.disable()
    try:
        return ast.parse(file.read_text("utf-8"))
    finally:
        gc.enable()


def is_private(name: object) -> bool:
    return isinstance(name, str) and name.startswith("_") and not name.endswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """Return the names of attributes and methods of a module's own classes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    names.add(target.id)
                elif isinstance(target, ast.Attribute):
                    names.add(target.attr)
    return names


def foreign_parts(tree: ast.Module) -> Iterator[str]:
    """Yield the private names of other modules' objects that a module uses."""
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            holder = node.value
            of_super = isinstance(holder, ast.Call) and getattr(holder.func, "id", None) == "super"
            if not of_super and getattr(holder, "id", None) not in ("self", "cls"):
                yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("getattr", "setattr", "vars"):
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (str(name) for name in names if is_private(name) and name not in own)
            if getattr(node.func, "id", None) == "vars" and getattr(node.args[0], "id", None) != "self":
                yield "vars"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (name for name in names if is_private(name))
            if node.module in UNDOCUMENTED:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in UNDOCUMENTED)


def test_private_parts_are_used_in_the_modules_for_them_alone() -> None:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        module = file.relative_to(PACKAGE).as_posix()
        parts = set(foreign_parts(parsed(file))) - OWN_PARTS.get(module, set())
        if parts and module not in INTERNALS:
            found[module] = parts
    assert found == {}


def test_each_module_for_private_parts_uses_some() -> None:
    for module in INTERNALS:
        assert set(foreign_parts(parsed(PACKAGE / module))), module


# -- asyncio ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_hidden_task_runs_and_is_not_among_all_tasks(loop_factory: type[asyncio.AbstractEventLoop]) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 3

    async def main() -> None:
        task = asyncio.create_task(work())
        assert task in asyncio.all_tasks()
        hide(task)
        assert task not in asyncio.all_tasks()
        assert await task == 3

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


async def test_a_thread_can_be_out_of_its_event_loop_for_a_moment() -> None:
    loop = asyncio.get_running_loop()
    with no_running_loop():
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        assert asyncio.run(asyncio.sleep(0, "of another loop")) == "of another loop"
    assert asyncio.get_running_loop() is loop


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_event_loop_keeps_an_attribute(loop_factory: type[asyncio.AbstractEventLoop]) -> None:
    loop = loop_factory()
    try:
        assert kept_on(loop) is kept_on(loop)
    finally:
        loop.close()


# -- os.environ ------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="the public way is taken there")
def test_the_dict_behind_the_environment_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(os.environ._data) is dict  # type: ignore[comparison-overlap]
    monkeypatch.setenv("SESSIONS_TEST_SET", "ä")
    monkeypatch.delenv("SESSIONS_TEST_UNSET", raising=False)
    variables = Variables(["SESSIONS_TEST_SET", "SESSIONS_TEST_UNSET"])
    assert variables.raw() == ("ä".encode(), None)
    monkeypatch.setenv("SESSIONS_TEST_UNSET", "now")
    monkeypatch.delenv("SESSIONS_TEST_SET")
    assert variables.raw() == (None, b"now")


def test_without_that_dict_the_environment_is_read_in_the_public_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"SESSIONS_TEST_SET": "ä"})
    variables = Variables(["SESSIONS_TEST_SET", "SESSIONS_TEST_UNSET"])
    assert variables.decoded(variables.raw()) == {"SESSIONS_TEST_SET": "ä", "SESSIONS_TEST_UNSET": None}


# -- Alembic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "looks"),
    [
        (command.current, True),
        (lambda config: command.upgrade(config, "head"), False),
        (lambda config: command.downgrade(config, "base"), False),
        (lambda config: command.stamp(config, "head"), False),
    ],
    ids=["current", "upgrade", "downgrade", "stamp"],
)
def test_alembic_says_whether_a_command_only_reads(
    run: object, looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []

    def run_env(_scripts: ScriptDirectory) -> None:
        # ``alembic.context`` is the environment that a command has entered.
        context = environments[-1]
        context.configure(dialect_name="sqlite")
        said.append(migrations.only_looks(context.get_context()))

    environments: list[EnvironmentContext] = []
    enter = EnvironmentContext.__enter__

    def entering(self: EnvironmentContext) -> EnvironmentContext:
        environments.append(self)
        return enter(self)

    monkeypatch.setattr(ScriptDirectory, "run_env", run_env)
    monkeypatch.setattr(EnvironmentContext, "__enter__", entering)
    assert callable(run)
    run(migrations.alembic_config())
    assert said == [looks]


def test_reading_a_sqlite_file_that_is_not_there_creates_none(tmp_path: Path, programs: Programs) -> None:
    path = tmp_path / "sessions.db"
    environment = os.environ | {"SESSIONS_DEFAULT_REPOSITORY": "sqlite", "SQLITE_PATH": str(path)}
    done = programs.run(
        "-m", "alembic", "-c", migrations.ini_path(), "current", cwd=tmp_path, env=environment
    )
    assert done.returncode != 0
    assert "SchemaOutdatedError" in done.stderr
    assert not path.exists()


# -- SQLAlchemy ------------------------------------------------------------------------------------


def test_a_migration_that_waits_pauses_with_a_blocking_driver_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "LOCK_POLL_SECONDS", 0.0)
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        migrations._wait_for(connection, "SELECT CASE WHEN random() % 4 = 0 THEN 1 ELSE 0 END")
    engine.dispose()


# -- Typer -----------------------------------------------------------------------------------------


def test_typer_runs_a_group_by_the_method_that_the_command_line_extends() -> None:
    names = list(inspect.signature(typer.core.TyperGroup.main).parameters)
    assert names[:6] == [
        "self",
        "args",
        "prog_name",
        "complete_var",
        "standalone_mode",
        "windows_expand_args",
    ]


# -- Attributes set on objects of others ------------------------------------------------------------


async def test_an_engine_and_a_client_keep_what_is_hung_on_them() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    assert kept_by(engine) is kept_by(engine)
    async with AsyncMongoClient("mongodb://localhost:1") as client:
        assert kept_by(client) is kept_by(client)
