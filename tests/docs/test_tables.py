"""The tables of the manual contain every setting, operation, command, error, table and column."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import typer.main
from pydantic import BaseModel, SecretStr

import sessions
from sessions import AsyncChats, AsyncSessionRepository, Chats, RetryConfig, RetryStrategy
from sessions.administration import Admin, AsyncAdmin, RepositoryAdmin
from sessions.cli.app import app
from sessions.config import DatabaseSettings, SessionsSettings
from sessions.errors import SessionsError
from sessions.models.records import Base
from tests.support.documents import DOCS, README, ROOT, page
from tests.support.postgres import WHEELS

SHIPPED_SETTINGS = (ROOT / "sessions" / "config" / "application-db.yaml").read_text()
REFERENCE = DOCS / "reference"
SETTINGS, SCHEMA = page(REFERENCE / "settings.md"), page(REFERENCE / "schema.md")
OPERATIONS, COMMANDS = page(REFERENCE / "operations.md"), page(REFERENCE / "cli.md")
ERRORS, BACKENDS = page(REFERENCE / "errors.md"), page(REFERENCE / "backends.md")
INSTALLATION, SPEED = page(DOCS / "installation.md"), page(DOCS / "explanation" / "speed.md")


def _settings() -> Iterator[tuple[str, Any]]:
    """Yield each key and its default, as the table writes it."""

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
    table = {key: default for key, _, default, *_ in SETTINGS.rows("Settings")}
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
    table = {key: (variable, default) for key, variable, default, *_ in SETTINGS.rows("Settings")}
    for key in table:
        if key.startswith("sessions.retry."):
            # Without a default in the file: unset, each backend has its own.
            table[key] = (table[key][0], "")
    assert table == shipped


def _documented(call: str) -> tuple[str, list[str]]:
    """Return the name and the parameters of a call, as a table writes it."""
    found = re.fullmatch(r"(\w+)\((.*)\)", call)
    assert found, call
    return found[1], re.findall(r"(\w+)(?:=[^,]+)?(?:, |$)", found[2])


def _public(kind: type) -> dict[str, list[str]]:
    """Return the parameters of each operation."""
    # The others are shown under the tables.
    others = ("load_and_validate_connection", "run_in_transaction", "using")
    return {
        name: [parameter for parameter in inspect.signature(member).parameters if parameter != "self"]
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name not in others
    }


def test_the_repository_table_has_every_operation_both_ways() -> None:
    documented: dict[str, list[str]] = {}
    for call, twin, _ in OPERATIONS.rows("The repository"):
        name, parameters = _documented(call)
        documented[name] = documented[twin] = parameters
    assert documented == _public(AsyncSessionRepository)


def test_the_table_of_plain_names_has_every_operation_of_both_classes() -> None:
    table = dict(_documented(call) for call, _ in OPERATIONS.rows("AsyncChats and Chats"))
    assert table == _public(AsyncChats)
    close = {"close" if name == "aclose" else name: parameters for name, parameters in table.items()}
    assert close == _public(Chats)


def test_the_table_across_users_has_every_operation_in_each_style() -> None:
    documented: dict[str, list[str]] = {}
    plain: dict[str, list[str]] = {}
    for call, twin, _ in OPERATIONS.rows("Across users"):
        name, parameters = _documented(call)
        documented[name] = documented[twin] = plain[name] = parameters
    assert documented == _public(RepositoryAdmin)
    assert plain == _public(AsyncAdmin) == _public(Admin)


def test_the_command_table_has_every_command_with_its_arguments() -> None:
    def walk(name: str, command: Any) -> Iterator[str]:
        for child in getattr(command, "commands", {}).values():
            yield from walk(f"{name} {child.name}", child)
        if not hasattr(command, "commands"):
            arguments = [item for item in command.params if item.param_type_name == "argument"]
            yield " ".join([name, *(item.metavar for item in arguments)])

    # The sections of the page have tables, too.
    rows = COMMANDS.rows("Command line")
    table = [command for command, *_ in rows if command.startswith("sessions ")]
    assert table == list(walk("sessions", typer.main.get_command(app)))


def test_the_options_table_has_every_option_of_every_command() -> None:
    def walk(name: str, command: Any) -> Iterator[tuple[str, str]]:
        for each, nested in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {each}".strip(), nested)
        for item in command.params if not hasattr(command, "commands") else ():
            if item.param_type_name == "option" and item.name not in ("backend", "url"):
                yield name, ", ".join(sorted(item.opts))

    table = [
        (name.replace("`", ""), ", ".join(sorted(re.findall(r"--[\w-]+", options))))
        for name, options, _ in COMMANDS.rows("Options")
    ]
    assert sorted(table) == sorted(walk("", typer.main.get_command(app)))


def test_the_errors_table_has_every_error_and_its_builtin_base() -> None:
    table = {name: base for name, base, _ in ERRORS.rows("Errors")}
    public = {
        name: ", ".join(base.__name__ for base in member.__bases__ if base.__module__ == "builtins")
        for name in sessions.__all__
        if isinstance(member := getattr(sessions, name), type)
        and issubclass(member, SessionsError)
        and member is not SessionsError
    }
    assert table == public


def test_the_schema_section_has_every_table_column_and_index() -> None:
    rows = {table: (columns, indexes) for table, columns, indexes in SCHEMA.rows("Schema")[:2]}
    assert rows.keys() == Base.metadata.tables.keys()
    for name, table in Base.metadata.tables.items():
        columns, indexes = rows[name]
        assert {column.name for column in table.columns} <= set(re.findall(r"`(\w+)`", columns))
        assert {index.name for index in table.indexes} <= set(re.findall(r"`(\w+)`", indexes))


def test_the_backends_table_names_every_postgresql_that_ci_runs_on() -> None:
    [row] = [line for line in BACKENDS.text.splitlines() if line.startswith("| tested with |")]
    named = set(map(int, re.findall(r"\d+", row.split("|")[3].partition("; once on")[0])))
    assert named == {15, *WHEELS}


def test_the_table_of_extras_has_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = [extra.strip("[]") for extra, _ in INSTALLATION.rows("Installation")]
    assert sorted(table) == sorted(project["optional-dependencies"])


def test_the_numbers_of_readme_are_those_of_the_measurements() -> None:
    rows = [line for line in page(README).section("Speed").splitlines() if re.search(r"\d \|$", line)]
    assert len(rows) == 4
    for row in rows:
        for ratio in (cell.strip() for cell in row.split("|")[2:4]):
            assert f"| {ratio} |" in SPEED.text, row
