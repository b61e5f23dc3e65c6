"""What the commands share: their common options, and how they run."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from sessions.cli import database
from sessions.cli.errors import INTERRUPTED
from sessions.cli.terminal import make_console, print_error
from sessions.config import MongoSettings, load_settings
from sessions.errors import ConfigurationError, InvalidInputError
from sessions.repositories import AsyncSessionRepository, SessionRepositoryFactory, SessionRepositoryType
from sessions.repositories.session_repository_factory import default_repository_class
from sessions.repositories.urls import repository_type_of
from sessions.resilience import RetryConfig

__all__ = [
    "Backend",
    "Json",
    "Url",
    "User",
    "backend_of",
    "finish",
    "patient",
    "print_json",
    "progress",
    "require_confirmation",
    "run",
    "where_of",
]

R = TypeVar("R")

# Where the default backend is looked for if nothing is configured, and for how long.
DEFAULT_SERVER = (MongoSettings().host, MongoSettings().port)
PROBE_SECONDS = 1.0
# For work on all of a database, of which a statement may take long. A run that is killed may leave a
# transaction open on a replica set of MongoDB, for which the next run waits: by default at most a minute.
PATIENCE = RetryConfig(max_attempts=4, max_elapsed=3600.0)
STATEMENT_SECONDS = 1800.0

Backend = Annotated[
    SessionRepositoryType | None,
    typer.Option(help="The backend; by default that of the URL or the settings."),
]
Url = Annotated[
    str | None, typer.Option(help="URL of the database, instead of the configured one.", show_default=False)
]
User = Annotated[str, typer.Argument(metavar="USER", help="Id of the user.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]


def run(
    backend: SessionRepositoryType | None,
    url: str | None,
    work: Callable[[AsyncSessionRepository], Coroutine[Any, Any, R]],
    *,
    creates: bool = True,
    takes_long: bool = False,
) -> R:
    """Call a function with a repository, close everything, and return its result.

    Args:
        backend: Type of the database; None for that of the URL or the settings.
        url: Its URL; None for the configured one.
        work: The function.
        creates: Whether it may create a database that does not exist.
        takes_long: Whether it works on all of the database.
    """
    chosen = backend_of(backend, url)

    async def with_repository() -> R:
        if not creates:
            database.require(chosen, url)
        async with SessionRepositoryFactory.create_repository(chosen, url=url) as repository:
            if not takes_long:
                return await work(repository)
            async with await patient(repository, chosen, url) as long:
                return await work(long)

    return finish(with_repository())


async def patient(
    repository: AsyncSessionRepository, backend: SessionRepositoryType, url: str | None
) -> AsyncSessionRepository:
    """Return a repository of the same database for long work; the caller closes it.

    The database is reached with the time limits of the settings before.
    """
    await repository.ensure_ready()
    options: dict[str, Any] = {}
    if backend is SessionRepositoryType.POSTGRES:
        options["statement_timeout"] = STATEMENT_SECONDS
    found: Any = SessionRepositoryFactory.create_repository(backend, url=url, retry=PATIENCE, **options)
    assert isinstance(found, AsyncSessionRepository)
    return found


def finish(work: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        print_error("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def backend_of(backend: SessionRepositoryType | None, url: str | None) -> SessionRepositoryType:
    """Return the named backend, else the URL's, else the configured one."""
    if backend is not None:
        return backend
    if url is not None:
        return repository_type_of(url, argument="--url")
    name, _ = default_repository_class()
    try:
        chosen = SessionRepositoryType(name)
    except ValueError:
        raise ConfigurationError(
            f"sessions.default_repository is {name!r}, which the command line cannot use; "
            f"pass --backend {', '.join(SessionRepositoryType)}"
        ) from None
    if chosen is SessionRepositoryType.MONGODB and load_settings().db.mongodb == MongoSettings():
        _require_default_server()
    return chosen


def _require_default_server() -> None:
    """Require that a server listens where nothing is configured, without the wait for one that is.

    Raises:
        ConfigurationError: None does.
    """
    host, port = DEFAULT_SERVER
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError:
        raise ConfigurationError(
            f"no database is configured, and the default, MongoDB at {host}:{port}, cannot be reached; "
            "pass --url, such as --url sqlite:///chat.db, or set SESSIONS_DEFAULT_REPOSITORY"
        ) from None


def print_json(document: Any) -> None:
    """Print a JSON document on one line; times are in ISO 8601."""
    try:
        text = json.dumps(document, ensure_ascii=False, default=_plain)
        text.encode()
    except UnicodeEncodeError:  # A payload may hold lone surrogates.
        text = json.dumps(document, default=_plain)
    typer.echo(text)


def _plain(value: Any) -> str:
    return str(value.isoformat())


def where_of(values: list[str] | None) -> dict[str, Any] | None:
    """Return the condition of ``--where key=value`` options; a value that is JSON is taken as such.

    Raises:
        InvalidInputError: An option has no "=".
    """
    accepted: dict[str, list[Any]] = {}
    for item in values or ():
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise InvalidInputError("--where", "must be KEY=VALUE")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        accepted.setdefault(key, []).append(value)
    return accepted or None


def progress(name: str, *columns: ProgressColumn) -> Progress:
    """Return a progress bar on standard error; it is shown in a terminal alone.

    Args:
        name: What is done: "Importing".
        *columns: What it shows after the bar.
    """
    console = make_console(stderr=True, fixed_width=True)
    return Progress(
        TextColumn(name),
        BarColumn(),
        *columns,
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def require_confirmation(yes: bool, question: str) -> None:
    """Ask before something is deleted, unless ``--yes`` is given.

    Raises:
        Exit: The answer is no, or nobody can answer.
    """
    if yes:
        return
    try:
        confirmed = typer.confirm(question, err=True)
    except typer.Abort:
        # Of Ctrl-C, or at the end of the input, as in a pipeline.
        typer.echo(err=True)
        print_error("nothing was changed: nobody answered; --yes answers in a script")
        confirmed = False
    if not confirmed:
        raise typer.Exit(1)
