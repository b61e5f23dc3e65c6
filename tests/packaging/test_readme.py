"""README shows only what works: its programs run, its tables are complete, its commands are CI's."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel, SecretStr
from readme_renderer import markdown

import sessions
from sessions import AsyncSessionRepository, RetryConfig, RetryStrategy
from sessions.cli.app import app
from sessions.config import DatabaseSettings, SessionsSettings
from sessions.errors import SessionsError
from sessions.models.records import Base

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SHIPPED_SETTINGS = (ROOT / "sessions" / "config" / "application-db.yaml").read_text()

RUN = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[cli]' && .venv/bin/sessions demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest"
TEST += " -n 6 --dist worksteal"
PYTEST_STEP = TEST.split(" && ")[-1].removeprefix(".venv/bin/")

# A step of CI where there is a pgbouncer.
HAS_PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None
THROUGH_PGBOUNCER = ["python -m pytest -m pgbouncer"] if HAS_PGBOUNCER else []

NEEDS_MONGODB = "needs: MONGODB_URL"
PYTEST = "pytest"
PYTEST_OPTIONS = ("-q", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
PYTEST_AFTER = "pytest, with the program above as "


@dataclass(frozen=True)
class Program:
    """A Python block of README.

    Attributes:
        heading: The heading it stands under.
        marker: The HTML comment right above it, or nothing.
        code: The program.
        output: The text block right below it, or nothing.
    """

    heading: str
    marker: str
    code: str
    output: str


def _programs() -> Iterator[Program]:
    blocks = re.compile(
        r"(?:<!-- (?P<marker>[^\n]*) -->\n)?```python\n(?P<code>.*?)```\n"
        r"(?:\n```text\n(?P<output>.*?)```\n)?",
        re.DOTALL,
    )
    for found in blocks.finditer(README):
        heading = re.findall(r"^#+ (.*)$", README[: found.start()], re.MULTILINE)[-1]
        yield Program(heading, found["marker"] or "", found["code"], found["output"] or "")


PROGRAMS = list(_programs())
COMPLETE = [program for program in PROGRAMS if not program.marker.startswith(PYTEST)]


def _run(*arguments: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=os.environ,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def _for_this_beanie(code: str) -> str:
    """Return a program with the client that README names for the extra [motor], where that is installed."""
    if not version("beanie").startswith("1."):
        return code
    for pymongo, motor in (
        ("from pymongo import AsyncMongoClient", "from motor.motor_asyncio import AsyncIOMotorClient"),
        ("AsyncMongoClient(", "AsyncIOMotorClient("),
        ("await client.close()", "client.close()"),
    ):
        code = code.replace(pymongo, motor)
    return code


@pytest.mark.parametrize("program", COMPLETE, ids=lambda program: program.heading)
def test_a_program_prints_what_is_shown_below_it(
    program: Program, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program.output, "shows no output"
    assert program.marker in ("", NEEDS_MONGODB)
    if program.marker == NEEDS_MONGODB:
        monkeypatch.setenv("MONGODB_URL", request.getfixturevalue("mongodb_url"))
    Path(tmp_path, "program.py").write_text(_for_this_beanie(program.code))
    assert _run("program.py", cwd=tmp_path) == program.output


def test_the_backend_that_is_shown_passes_the_contract(tmp_path: Path) -> None:
    [test] = [program for program in PROGRAMS if program.marker.startswith(PYTEST_AFTER)]
    backend = PROGRAMS[PROGRAMS.index(test) - 1]
    assert backend.heading == test.heading == "Add a backend"
    Path(tmp_path, test.marker.removeprefix(PYTEST_AFTER)).write_text(backend.code)
    Path(tmp_path, "test_backend.py").write_text(test.code)
    printed = _run("-m", "pytest", *PYTEST_OPTIONS, "test_backend.py", cwd=tmp_path)
    assert re.search(r"^\d+ passed in", printed, re.MULTILINE), printed


def test_the_tests_that_are_shown_pass(tmp_path: Path) -> None:
    [shown] = [program for program in PROGRAMS if program.marker == PYTEST]
    Path(tmp_path, "test_shown.py").write_text(shown.code)
    printed = _run("-m", "pytest", *PYTEST_OPTIONS, "test_shown.py", cwd=tmp_path)
    assert re.search(r"^1 passed in", printed, re.MULTILINE), printed


def test_it_renders_as_on_a_package_index() -> None:
    html = markdown.render(README)
    assert html is not None
    assert html.count("<table>") == len(re.findall(r"^\|[-|]+\|$", README, re.MULTILINE)) > 5
    assert html.count("<pre") == README.count("```") / 2 > 15
    assert "```" not in html


def test_every_kind_of_program_is_there() -> None:
    headings = [program.heading for program in PROGRAMS]
    assert headings.count("Quick start") == 2
    assert headings.count("Using it from …") == 4
    assert {"Closing", "Retries", "Your own engine, and the records", "Add a backend"} <= set(headings)
    [with_mongodb] = [program for program in PROGRAMS if program.marker == NEEDS_MONGODB]
    assert with_mongodb.heading == "Your own client, and the documents"


# -- Commands ------------------------------------------------------------------------------------------


def ci_steps(*options: str) -> list[str]:
    command = ["bash", ".ci/run", *options, "--dry-run"]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout.splitlines()


def test_ci_runs_the_two_commands_as_they_stand_in_readme() -> None:
    assert README.splitlines().count(RUN) == README.splitlines().count(TEST) == 1
    assert ci_steps() == [
        *RUN.split(" && "),
        *TEST.split(" && ")[:-1],
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy",
        ".venv/bin/pyright --pythonpath .venv/bin/python",
        ".venv/bin/lint-imports",
        ".venv/bin/hatchling build -d .venv/dist",
        ".venv/bin/twine check --strict .venv/dist/*",
        ".venv/bin/pip install -q --dry-run --ignore-installed --only-binary :all: .venv/dist/*.whl",
        TEST.split(" && ")[-1],
        *(f".venv/bin/{step}" for step in THROUGH_PGBOUNCER),
        "python3 -m venv .venv-motor",
        ".venv-motor/bin/pip install -q -e '.[dev,motor]'",
        f".venv-motor/bin/{PYTEST_STEP} -k 'mongo or client'",
        "python3 -m venv .venv-lowest",
        ".venv-lowest/bin/python .ci/lowest.py > .venv-lowest/lowest.txt",
        ".venv-lowest/bin/pip install -q -e '.[dev]' -c .venv-lowest/lowest.txt",
        f".venv-lowest/bin/{PYTEST_STEP} tests/unit",
    ]


def test_ci_runs_every_test_with_each_python_and_the_lowest_versions_when_asked() -> None:
    added = ci_steps("--all-pythons")[len(ci_steps()) :]
    minors = [minor for minor in (11, 12, 13) if works(f"python3.{minor}")]
    for minor in minors:
        assert f".venv-3.{minor}/bin/{PYTEST_STEP}" in added
    assert f".venv-lowest-3.11/bin/{PYTEST_STEP} tests" in added
    assert f".venv-lowest-beanie-2/bin/{PYTEST_STEP} -k 'mongo or client'" in added
    assert len(added) == 3 * len(minors) + 8


def works(python: str) -> bool:
    if shutil.which(python) is None:
        return False
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    printed = subprocess.run(
        [sys.executable, ".ci/lowest.py", "beanie==2.0.0"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout.split()
    assert {"sqlalchemy==2.0.41", "beanie==2.0.0", "typer==0.26", "motor==3.7"} <= set(printed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[>]", requirement)[0] for requirement in project["dependencies"]}
    assert names < {line.partition("==")[0] for line in printed}


def test_ci_says_so_when_a_command_is_missing(tmp_path: Path) -> None:
    Path(tmp_path, ".ci").mkdir()
    Path(tmp_path, ".ci", "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    Path(tmp_path, "README.md").write_text(README.replace(TEST, "make test"))
    result = subprocess.run(
        ["bash", ".ci/run", "--dry-run"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert "python -m pytest" in result.stderr


@pytest.mark.parametrize("failing", ["", "mypy", "sessions"])
def test_ci_runs_its_steps_in_a_venv_of_its_own_until_one_fails(failing: str, tmp_path: Path) -> None:
    # In place of Python, a script whose "virtual environment" holds programs that only tell their arguments.
    python, temporary = tmp_path / "python", tmp_path / "with a space"
    temporary.mkdir()
    python.write_text(
        """#!/bin/sh
        mkdir -p "$3/bin"
        for name in pip sessions ruff mypy pyright lint-imports hatchling twine python; do
          printf '#!/bin/sh\\necho "ran: %s $*"\\n[ %s != "$FAILING" ]\\n' $name $name > "$3/bin/$name"
          chmod +x "$3/bin/$name"
        done
        """
    )
    python.chmod(0o755)
    result = subprocess.run(
        ["bash", ".ci/run"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": str(python), "TMPDIR": str(temporary), "FAILING": failing},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    ran = [line.split()[1:3] for line in result.stdout.splitlines() if line.startswith("ran: ")]
    programs = [step.partition("/bin/")[2] for step in ci_steps() if "/bin/" in step and ">" not in step]
    every = [shlex.split(program)[:2] for program in programs]
    assert len(every) >= 15
    stops_after = next((index for index, step in enumerate(every) if step[0] == failing), len(every))
    assert ran == every[: stops_after + 1], result.stderr
    assert (result.returncode == 0) == (failing == "")
    assert ("FAILED" in result.stderr) == (failing != "")
    assert list(temporary.iterdir()) == []


# -- Tables --------------------------------------------------------------------------------------------


def _section(heading: str) -> str:
    found = re.search(rf"^(#+) {re.escape(heading)}$", README, re.MULTILINE)
    assert found, f"no section {heading!r}"
    rest = README[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of a section's table rows, without the backticks around a whole cell."""
    return [
        [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in line.strip("|").split(" |")]
        for line in _section(heading).splitlines()
        if line.startswith("| `")
    ]


def _settings() -> Iterator[tuple[str, Any]]:
    """Yield each key and its default, as README writes it."""

    def walk(key: str, model: BaseModel) -> Iterator[tuple[str, Any]]:
        for attribute, field in type(model).model_fields.items():
            name, value = field.alias or attribute, getattr(model, attribute)
            if isinstance(value, BaseModel):
                yield from walk(f"{key}.{name}", value)
            elif f"{key}.{name}" == "sessions.retry":
                for part in RetryConfig.__dataclass_fields__:
                    yield f"sessions.retry.{part}", getattr(RetryConfig(), part)
            else:
                yield f"{key}.{name}", value

    yield from walk("db", DatabaseSettings())
    yield from walk("sessions", SessionsSettings())


def _written(default: Any) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, RetryStrategy):
        return default.value
    assert not isinstance(default, SecretStr)
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_settings_table_has_every_key_with_its_default() -> None:
    table = {key: default for key, _, default, *_ in _rows("Settings")}
    assert table == {key: _written(default) for key, default in _settings()}


def test_the_settings_table_has_the_variables_of_the_shipped_file() -> None:
    shipped: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in SHIPPED_SETTINGS.splitlines():
        found = re.match(r"( *)(\w+):(?: \$\{(\w+):(.*?)\})?(?:\s|$)", line)
        if found:
            path[len(found[1]) // 2 :] = [found[2]]
            if found[3]:
                shipped[".".join(path)] = (found[3], found[4])
    table = {key: (variable, default) for key, variable, default, *_ in _rows("Settings")}
    for key in table:
        if key.startswith("sessions.retry."):
            # Without a default in the file: nothing of it set is each backend's own.
            table[key] = (table[key][0], "")
    assert table == shipped


def test_the_operations_table_has_every_operation_in_both_colours() -> None:
    signature = re.compile(r"(\w+)\((.*)\)")
    documented: dict[str, list[str]] = {}
    for call, twin, _ in _rows("Operations"):
        found = signature.fullmatch(call)
        assert found, call
        documented[found[1]] = re.findall(r"(\w+)(?:=[^,]+)?(?:, |$)", found[2])
        documented[twin] = documented[found[1]]
    public = {
        name: [parameter for parameter in inspect.signature(member).parameters if parameter != "self"]
        for name, member in inspect.getmembers(AsyncSessionRepository, inspect.isfunction)
        if not name.startswith("_") and name != "load_and_validate_connection"
    }
    assert documented == public


def test_the_command_table_has_every_command_with_its_arguments() -> None:
    def walk(name: str, command: Any) -> Iterator[str]:
        for child in getattr(command, "commands", {}).values():
            yield from walk(f"{name} {child.name}", child)
        if not hasattr(command, "commands"):
            arguments = [item for item in command.params if item.param_type_name == "argument"]
            yield " ".join([name, *(item.metavar for item in arguments)])

    table = [command for command, _ in _rows("Command line")]
    assert table == list(walk("sessions", typer.main.get_command(app)))


def test_the_errors_table_has_every_error_and_its_builtin_base() -> None:
    table = {name: base for name, base, _ in _rows("Errors")}
    public = {
        name: ", ".join(base.__name__ for base in member.__bases__ if base.__module__ == "builtins")
        for name in sessions.__all__
        if isinstance(member := getattr(sessions, name), type)
        and issubclass(member, SessionsError)
        and member is not SessionsError
    }
    assert table == public


def test_the_schema_section_has_every_table_column_and_index() -> None:
    rows = {table: (columns, indexes) for table, columns, indexes in _rows("Schema")[:2]}
    assert rows.keys() == Base.metadata.tables.keys()
    for name, table in Base.metadata.tables.items():
        columns, indexes = rows[name]
        assert {column.name for column in table.columns} <= set(re.findall(r"`(\w+)`", columns))
        assert {index.name for index in table.indexes} <= set(re.findall(r"`(\w+)`", indexes))


def test_every_file_that_is_linked_is_there() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text()):
            assert (ROOT / target).exists(), f"{document}: {target}"


def test_every_section_that_is_linked_is_there() -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors
