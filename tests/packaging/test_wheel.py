from __future__ import annotations

import email
import email.message
import importlib.util
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from tests.migrations.migration_helpers import describe_postgres, printed_statements
from tests.support.databases import execute_postgres, run_in_thread
from tests.support.folders import made_once

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]


def run(*command: str | Path, cwd: Path, path: Path | None = None, **environment: str) -> str:
    """Run a program, with a folder before all installed packages, and return its output."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **({} if path is None else {"PYTHONPATH": str(path)}), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


def python(*arguments: str | Path, cwd: Path, path: Path, **environment: str) -> str:
    return run(sys.executable, *arguments, cwd=cwd, path=path, **environment)


def build(what: str, source: Path, out: Path, backend_folder: Path) -> Path:
    program = f"import sys, hatchling.build as backend; print(backend.build_{what}(sys.argv[1]))"
    printed = python("-c", program, out, cwd=source, path=backend_folder)
    return out / printed.splitlines()[-1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel built from it, as they are published."""
    with made_once(tmp_path_factory, "distributions") as (folder, made):
        if not made:
            backend = folder / "backend"
            backend.mkdir()
            if importlib.util.find_spec("hatchling") is None:
                # As pip does for a build of its own.
                requires = PROJECT["build-system"]["requires"]
                pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", backend]
                run(*pip, *requires, cwd=folder)
            with tarfile.open(build("sdist", ROOT, folder, backend)) as archive:
                archive.extractall(folder / "source", filter="data")
            (source,) = (folder / "source").iterdir()
            build("wheel", source, folder, backend)
    return folder


@pytest.fixture(scope="module")
def sdist(distributions: Path) -> Path:
    (found,) = distributions.glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    """The wheel that is published: built from the source distribution."""
    (found,) = distributions.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The folder of programs of an environment with only our wheel and its dependencies."""
    with made_once(tmp_path_factory, "clean") as (folder, made):
        programs = folder / "bin"
        if not made:
            base = folder.parent
            run(sys.executable, "-m", "venv", "--clear", "--without-pip", folder, cwd=base)
            pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet"]
            run(*pip, "--no-compile", f"{wheel}[cli]", cwd=base)
    return programs


def program(installed: Path, *command: str, cwd: Path, **environment: str) -> str:
    """Run a program of the clean environment as a shell there would, outside of the repository."""
    path = f"{installed}{os.pathsep}{os.environ['PATH']}"
    return run(
        installed / command[0], *command[1:], cwd=cwd, PYTHONPATH="", VIRTUAL_ENV="", PATH=path, **environment
    )


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"agenthub_sessions-{VERSION}.dist-info/METADATA"))


# --- what is in it ---------------------------------------------------------------------------------


def test_the_wheel_has_every_module_the_settings_and_the_migrations_and_nothing_else(wheel: Path) -> None:
    modules = {
        str(file.relative_to(ROOT))
        for pattern in ("*.py", "*.lua")
        for file in (ROOT / "sessions").rglob(pattern)
    }
    revisions = {
        f"sessions/{file.relative_to(ROOT)}" for file in (ROOT / "alembic" / "versions").glob("*.py")
    }
    assert len(revisions) >= 2

    # No tests, and no alembic at the top, which would replace the library of that name.
    assert names_in(wheel) == modules | revisions | {
        "sessions/py.typed",
        "sessions/config/application-db.yaml",
        "sessions/alembic.ini",
        "sessions/alembic/env.py",
        "sessions/alembic/script.py.mako",
        *(
            f"agenthub_sessions-{VERSION}.dist-info/{name}"
            for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
        ),
    }


def test_the_wheel_is_the_same_built_from_the_checkout(
    wheel: Path, distributions: Path, tmp_path: Path
) -> None:
    direct = build("wheel", ROOT, tmp_path, distributions / "backend")

    assert direct.name == wheel.name == f"agenthub_sessions-{VERSION}-py3-none-any.whl"
    assert names_in(direct) == names_in(wheel)


def test_the_source_distribution_has_what_is_needed_to_build_and_test(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "alembic.ini",
        "alembic/env.py",
        "sessions/py.typed",
        "docs/conf.py",
        "docs/examples/quick_start_async.py",
        "docs/tutorial.md",
        "tests/conftest.py",
        "tests/data/conversations.jsonl",
        "tests/packaging/test_wheel.py",
    } <= names
    assert not [name for name in names if name.endswith((".pyc", ".db"))]


def test_the_metadata_names_licence_python_extras_and_dependencies(wheel: Path) -> None:
    metadata = metadata_of(wheel)

    assert (metadata["Name"], metadata["Version"]) == ("agenthub-sessions", VERSION)
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert f"agenthub_sessions-{VERSION}.dist-info/licenses/LICENSE" in names_in(wheel)
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert {"cli", "motor", "uvloop", "dev"} <= set(metadata.get_all("Provides-Extra"))
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()
    base = [one.partition(";")[0] for one in metadata.get_all("Requires-Dist") if "extra ==" not in one]
    assert len(base) == len(PROJECT["project"]["dependencies"])
    assert not [one for one in base if one.startswith(("typer", "rich", "pytest", "motor"))]


def test_the_sessions_command_is_an_entry_point(wheel: Path) -> None:
    parser = ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        parser.read_string(archive.read(f"agenthub_sessions-{VERSION}.dist-info/entry_points.txt").decode())

    assert dict(parser["console_scripts"]) == {"sessions": "sessions.__main__:main"}


# --- used from anywhere ----------------------------------------------------------------------------

# The clean environment takes a minute. README's command unpacks the wheel, and uses the dependencies of the
# tests.
in_the_clean_environment = pytest.mark.full_size


@pytest.fixture(params=["unpacked", pytest.param("installed", marks=in_the_clean_environment)])
def packaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[str], str]]:
    """Where the package is that a user has, and a function that runs code with it."""
    code = ("python", "-W", "error", "-c")
    if request.param == "installed":
        programs: Path = request.getfixturevalue("installed")
        return programs.parent, lambda text: program(programs, *code, text, cwd=tmp_path)
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(request.getfixturevalue("wheel")) as archive:
        archive.extractall(folder)
    return folder, lambda text: python(*code[1:], text, cwd=tmp_path, path=folder)


def test_the_installed_package_is_the_one_that_runs(packaged: tuple[Path, Callable[[str], str]]) -> None:
    code = """
import sessions, sessions.config, sessions.migrations, importlib.metadata
from pathlib import Path
package = Path(sessions.__file__).parent
print(package.parent)
print(sessions.migrations.ini_path().relative_to(package))
print(Path(sessions.config.config_file()).relative_to(package))
print(importlib.metadata.version("agenthub-sessions"))
print(*sessions.SessionRepositoryFactory.list_repositories())
"""

    folder, run_code = packaged
    place, *printed = run_code(code).splitlines()

    assert Path(place).is_relative_to(folder)
    assert printed == [
        "alembic.ini",
        "config/application-db.yaml",
        VERSION,
        "mongodb postgres sqlite redis",
    ]


def test_a_first_call_of_the_installed_package_makes_its_schema(
    packaged: tuple[Path, Callable[[str], str]],
) -> None:
    code = """
from sessions import SessionRepositoryFactory
with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///own.db") as repository:
    session_id = repository.create_session("ann", {"title": "T"})
    print(repository.get_session_sync("ann", session_id).title)
"""

    _, run_code = packaged
    assert run_code(code) == "T\n"


def describe(url: str) -> dict[str, Any]:
    found: dict[str, Any] = run_in_thread(describe_postgres, url)
    return found


@in_the_clean_environment
def test_the_command_of_the_installed_package_brings_an_empty_postgresql_to_head_and_back(
    installed: Path, tmp_path: Path, empty_postgres_url: str, postgres_url: str
) -> None:
    def sessions_db(command: str) -> str:
        return program(installed, "sessions", "db", command, "--url", empty_postgres_url, cwd=tmp_path)

    assert "upgraded from an empty database" in sessions_db("upgrade")
    assert "revision 0003 (head)" in sessions_db("current")
    assert "revision 0003, as this package needs it" in sessions_db("check")
    head = describe(postgres_url)
    assert describe(empty_postgres_url) == head

    (ini,) = installed.parent.glob("lib/*/site-packages/sessions/alembic.ini")
    alembic = ("alembic", "-c", str(ini))
    program(installed, *alembic, "downgrade", "base", cwd=tmp_path, POSTGRES_URL=empty_postgres_url)
    assert describe(empty_postgres_url)["columns"] == []
    assert "upgraded from an empty database" in sessions_db("upgrade")
    assert describe(empty_postgres_url) == head
    assert list(tmp_path.iterdir()) == []


@in_the_clean_environment
def test_alembic_brings_an_empty_postgresql_to_head_with_the_ini_of_the_installed_package(
    installed: Path, tmp_path: Path, empty_postgres_url: str, postgres_url: str
) -> None:
    # Word for word what the manual says.
    line = 'alembic -c "$(python -m sessions db ini)" upgrade head'
    environment = {
        "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",
        "POSTGRES_URL": empty_postgres_url,
    }

    script = run("sh", "-c", f"{line} --sql", cwd=tmp_path, **environment)
    run("sh", "-c", line, cwd=tmp_path, **environment)

    head = describe(postgres_url)
    assert describe(empty_postgres_url) == head
    # The printed SQL is complete: on an empty database it creates the same schema.
    nothing = "DROP TABLE chat_messages, chat_sessions, sessions_alembic_version"
    execute_postgres(empty_postgres_url, nothing, *printed_statements(script))
    assert describe(empty_postgres_url) == head
    assert list(tmp_path.iterdir()) == []


@in_the_clean_environment
def test_the_command_of_the_installed_package_upgrades_sqlite(installed: Path, tmp_path: Path) -> None:
    printed = program(installed, "sessions", "db", "upgrade", "--url", "sqlite:///own.db", cwd=tmp_path)

    assert "upgraded from an empty database" in printed
    assert (tmp_path / "own.db").exists()
