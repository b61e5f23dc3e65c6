from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sessions

ROOT = Path(__file__).resolve().parents[2]
SQL = {"sqlalchemy", "alembic", "asyncpg", "aiosqlite"}
MONGODB = {"beanie", "pymongo", "bson", "motor"}


def loaded_by(program: str) -> set[str]:
    """Return the database libraries that a new interpreter has loaded after a program."""
    report = f"\nimport sys\nprint(*({SQL | MONGODB!r} & sys.modules.keys()))\n"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + report],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "sessions",
        "sessions.connections",
        "sessions.repositories",
        "sessions.models",
        "sessions.config",
        "sessions.errors",
        "sessions.resilience",
        "sessions.validation",
    ],
)
def test_importing_the_package_loads_no_database_library(module: str) -> None:
    assert loaded_by(f"import {module}") == set()


def test_using_the_public_names_that_need_no_database_loads_none() -> None:
    assert (
        loaded_by(
            """
            import sessions
            for name in sessions.__all__:
                getattr(sessions, name)
            sessions.SessionRepositoryFactory.list_repositories()
            """
        )
        == set()
    )


def test_a_mongodb_repository_loads_no_sql_library() -> None:
    loaded = loaded_by(
        """
        from sessions import SessionRepositoryFactory
        SessionRepositoryFactory.create_repository("mongodb", url="mongodb://localhost/d")
        """
    )

    assert {"beanie", "pymongo"} <= loaded
    assert not loaded & SQL


def test_a_postgres_repository_loads_no_mongodb_library_and_no_other_driver() -> None:
    loaded = loaded_by(
        """
        from sessions import SessionRepositoryFactory
        SessionRepositoryFactory.create_repository("postgres", url="postgresql://localhost/d")
        """
    )

    assert loaded == {"sqlalchemy", "asyncpg"}


def test_a_sqlite_repository_loads_no_mongodb_library_and_no_other_driver(tmp_path: Path) -> None:
    loaded = loaded_by(
        f"""
        from sessions import SessionRepositoryFactory
        SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///{tmp_path}/a.db")
        """
    )

    assert loaded == {"sqlalchemy", "aiosqlite"}


def test_a_database_at_head_is_used_without_loading_alembic(tmp_path: Path) -> None:
    program = f"""
        from sessions import SessionRepositoryFactory
        repository = SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///{tmp_path}/a.db")
        repository.create_session("u", None)
        repository.close()
    """

    first, second = loaded_by(program), loaded_by(program)

    assert "alembic" in first
    assert second == {"sqlalchemy", "aiosqlite"}


@pytest.mark.parametrize("module", ["sessions.models.records", "sessions.migrations"])
def test_records_and_migrations_load_no_mongodb_library(module: str) -> None:
    assert loaded_by(f"import {module}") == {"sqlalchemy"}


def test_documents_load_no_sql_library() -> None:
    assert not loaded_by("import sessions.models.documents") & SQL


def test_importing_the_package_loads_nothing_but_the_standard_library() -> None:
    program = "import sys; before = set(sys.modules); import sessions; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - {"sessions"} <= sys.stdlib_module_names
    assert {name for name in done.stdout.split() if name.startswith("sessions")} == {"sessions"}


def test_each_public_name_is_what_a_type_checker_takes_it_for() -> None:
    tree = ast.parse((ROOT / "sessions" / "__init__.py").read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sessions.")
        for alias in node.names
    }

    assert sorted(typed) == sorted(sessions.__all__)
    for name, module in typed.items():
        assert getattr(sessions, name) is getattr(importlib.import_module(module or ""), name)
        assert name in dir(sessions)


def test_the_modules_of_the_public_names_are_attributes_of_the_package() -> None:
    assert (
        loaded_by(
            """
            import sessions
            for name in ("config", "connections", "errors", "models", "repositories", "resilience"):
                assert getattr(sessions, name).__name__ == f"sessions.{name}"
            """
        )
        == set()
    )


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'sessions' has no attribute 'nothing'"):
        sessions.nothing  # noqa: B018
