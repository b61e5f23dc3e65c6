"""Every program of README and of the manual runs, and prints the output below it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.documents import DOCS, EXAMPLES, Program, example_programs, pages
from tests.support.programs import Programs

# The environment variables of a program, and their fixtures.
NEEDS = {"MONGODB_URL": "mongodb_url", "POSTGRES_URL": "postgres_url", "REDIS_URL": "redis_url"}
PYTEST_OPTIONS = ("-q", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")

PAGES = pages()
IN_PAGES = [program for page in PAGES for program in page.programs()]
EXAMPLE_PROGRAMS = list(example_programs())
EXAMPLE_TESTS = sorted(EXAMPLES.rglob("test_*.py"))


def _output(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def _run_pytest(file: str, *, cwd: Path) -> int:
    """Run pytest and return how many tests passed."""
    command = [sys.executable, "-W", "error", "-m", "pytest", *PYTEST_OPTIONS, file]
    printed = _output(
        subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", timeout=120, check=False)
    )
    found = re.search(r"^(\d+) passed in", printed, re.MULTILINE)
    assert found, printed
    return int(found[1])


def _for_this_beanie(code: str) -> str:
    """Return a program with Motor's client, where the extra [motor] is installed."""
    if not version("beanie").startswith("1."):
        return code
    for pymongo, motor in (
        ("from pymongo import AsyncMongoClient", "from motor.motor_asyncio import AsyncIOMotorClient"),
        ("AsyncMongoClient(", "AsyncIOMotorClient("),
        ("await client.close()", "client.close()"),
        ("async with client.start_session()", "async with await client.start_session()"),
        ("await client_session.start_transaction()", "client_session.start_transaction()"),
    ):
        code = code.replace(pymongo, motor)
    return code


@pytest.mark.parametrize("program", [*IN_PAGES, *EXAMPLE_PROGRAMS], ids=str)
def test_a_program_prints_what_is_shown_below_it(
    program: Program,
    programs: Programs,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert program.output, "shows no output"
    if program.marker:
        needs, _, variable = program.marker.partition(": ")
        assert needs == "needs"
        monkeypatch.setenv(variable, request.getfixturevalue(NEEDS[variable]))
    Path(tmp_path, "program.py").write_text(_for_this_beanie(program.code))
    assert _output(programs.run("-W", "error", "program.py", cwd=tmp_path)) == program.output


@pytest.mark.parametrize("file", EXAMPLE_TESTS, ids=lambda file: str(file.relative_to(EXAMPLES)))
def test_the_tests_of_an_example_pass(file: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(file.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    # A contract class has its tests from `sessions.testing`.
    shown = file.read_text("utf-8").count("def test_") or 15
    assert _run_pytest(file.name, cwd=copy) >= shown


def test_every_example_is_on_a_page_with_its_output() -> None:
    shown = [path for page in PAGES for path in page.included()]
    files = [
        path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".txt") or path.name == "Dockerfile"
    ]
    assert set(files) == set(shown)
    for program in EXAMPLE_PROGRAMS:
        code = shown.index(DOCS.parent / program.page)
        assert shown[code + 1] == shown[code].with_suffix(".txt"), program.page
