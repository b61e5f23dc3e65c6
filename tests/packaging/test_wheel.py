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
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from databases import run_in_thread

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]


def run(*command: str | Path, cwd: Path, path: Path | None = None, **environment: str) -> str:
    """Run a program, with a folder before everything that is installed, and return what it prints."""
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


@pytest.fixture(scope="module")
def backend_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which the build backend of pyproject.toml can be imported."""
    folder = tmp_path_factory.mktemp("backend")
    if importlib.util.find_spec("hatchling") is None:
        # As pip does for a build of its own.
        requires = PROJECT["build-system"]["requires"]
        run(sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, *requires, cwd=folder)
    return folder


def build(what: str, source: Path, out: Path, backend_folder: Path) -> Path:
    program = f"import sys, hatchling.build as backend; print(backend.build_{what}(sys.argv[1]))"
    printed = python("-c", program, out, cwd=source, path=backend_folder)
    return out / printed.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory, backend_folder: Path) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("dist"), backend_folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, backend_folder: Path, sdist: Path) -> Path:
    """The wheel that is published: built from the source distribution."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("wheel", source, sdist.parent, backend_folder)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A folder like site-packages with nothing but our wheel in it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"agenthub_sessions-{VERSION}.dist-info/METADATA"))


# --- what is in it ---------------------------------------------------------------------------------


def test_the_wheel_has_every_module_the_settings_and_the_migrations(wheel: Path) -> None:
    names = names_in(wheel)

    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "sessions").rglob("*.py") if file.is_file()}
    migrations = {f"sessions/{file.relative_to(ROOT)}" for file in (ROOT / "alembic").rglob("*.py")}
    assert len(migrations) >= 3
    assert modules | migrations <= names
    assert {
        "sessions/py.typed",
        "sessions/config/application-db.yaml",
        "sessions/alembic.ini",
        "sessions/alembic/env.py",
        "sessions/alembic/script.py.mako",
    } <= names


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    names = names_in(wheel)

    # A top-level alembic would replace the library of that name.
    assert {name.partition("/")[0] for name in names} == {
        "sessions",
        f"agenthub_sessions-{VERSION}.dist-info",
    }
    assert {Path(name).suffix for name in names if name.startswith("sessions/")} == {
        ".py",
        ".typed",
        ".yaml",
        ".ini",
        ".mako",
    }
    assert "sessions/alembic/__init__.py" not in names
    assert not [name for name in names if "tests/" in name or "__pycache__" in name]


def test_the_wheel_is_the_same_built_from_the_checkout(
    wheel: Path, backend_folder: Path, tmp_path: Path
) -> None:
    direct = build("wheel", ROOT, tmp_path, backend_folder)

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
        "tests/conftest.py",
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
    assert {"cli", "motor", "dev"} <= set(metadata.get_all("Provides-Extra"))
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


def test_the_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    program = """
import sessions, sessions.config, sessions.migrations, importlib.metadata
print(sessions.__file__)
print(sessions.migrations.ini_path())
print(sessions.config.config_file())
print(importlib.metadata.version("agenthub-sessions"))
print(sessions.SessionRepositoryFactory.list_repositories())
"""

    printed = python("-W", "error", "-c", program, cwd=tmp_path, path=installed).splitlines()

    assert printed == [
        str(installed / "sessions" / "__init__.py"),
        str(installed / "sessions" / "alembic.ini"),
        str(installed / "sessions" / "config" / "application-db.yaml"),
        VERSION,
        "[<SessionRepositoryType.MONGODB: 'mongodb'>, <SessionRepositoryType.POSTGRES: 'postgres'>, "
        "<SessionRepositoryType.SQLITE: 'sqlite'>]",
    ]


def test_a_first_call_of_the_installed_package_makes_its_schema(installed: Path, tmp_path: Path) -> None:
    program = """
from sessions import SessionRepositoryFactory
with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///own.db") as repository:
    session_id = repository.create_session("ann", {"title": "T"})
    print(repository.get_session_sync("ann", session_id).title)
"""

    assert python("-W", "error", "-c", program, cwd=tmp_path, path=installed) == "T\n"


def test_alembic_upgrades_with_the_ini_of_the_installed_package(
    installed: Path, tmp_path: Path, empty_postgres_url: str
) -> None:
    ini = python("-m", "sessions", "db", "ini", cwd=tmp_path, path=installed).strip()
    assert ini == str(installed / "sessions" / "alembic.ini")

    python(
        "-m",
        "alembic",
        "-c",
        ini,
        "upgrade",
        "head",
        cwd=tmp_path,
        path=installed,
        POSTGRES_URL=empty_postgres_url,
    )

    assert revision_of(empty_postgres_url) == "0002"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_the_command_of_the_installed_package_upgrades_and_checks(
    installed: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("empty_postgres_url") if kind == "postgres" else "sqlite:///own.db"

    python("-m", "sessions", "db", "upgrade", "--url", url, cwd=tmp_path, path=installed)

    python("-m", "sessions", "db", "check", "--url", url, cwd=tmp_path, path=installed)


def revision_of(url: str) -> str:
    import asyncpg

    async def read() -> str:
        connection = await asyncpg.connect(url)
        try:
            found: str = await connection.fetchval("SELECT version_num FROM sessions_alembic_version")
            return found
        finally:
            await connection.close()

    revision: str = run_in_thread(read)
    return revision
