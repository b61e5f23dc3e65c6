"""The command line: ``sessions demo``, ``import``, ``export``, ``list``, ``show`` and ``db``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sessions.cli import database
from sessions.cli.demo import run_demo
from sessions.cli.errors import INTERRUPTED, OneLineErrors
from sessions.cli.exporting import STANDARD_OUTPUT, Exported, export_lines, output, parse_time
from sessions.cli.importing import Totals, import_lines
from sessions.cli.terminal import (
    counted,
    make_console,
    print_error,
    print_message,
    print_session,
    printable,
    sessions_table,
)
from sessions.errors import ConfigurationError, SessionNotFoundError
from sessions.migrations import ini_path
from sessions.models import ChatSession
from sessions.repositories import AsyncSessionRepository, SessionRepositoryFactory, SessionRepositoryType
from sessions.repositories.session_repository_factory import default_repository_class
from sessions.repositories.urls import repository_type_of

__all__ = ["app"]

R = TypeVar("R")

PAGE_SIZE = 1000

Backend = Annotated[
    SessionRepositoryType | None,
    typer.Option(help="The backend; by default that of the URL or the settings."),
]
Url = Annotated[
    str | None, typer.Option(help="URL of the database, instead of the configured one.", show_default=False)
]
User = Annotated[str, typer.Argument(metavar="USER", help="Id of the user.", show_default=False)]

app = typer.Typer(
    cls=OneLineErrors,
    help="Chat conversations in PostgreSQL, MongoDB, SQLite or Redis.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
db = typer.Typer(help="Check and upgrade the database schema.", rich_markup_mode=None)
app.add_typer(db, name="db")


@app.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@db.callback(invoke_without_command=True)
def _db_help(context: typer.Context) -> None:
    _help(context)


@app.command()
def demo(backend: Backend = None, url: Url = None) -> None:
    """Create, read, update and delete one conversation, and show each step.

    Without options it runs on a temporary SQLite database; no server is needed.
    """
    if url is None and backend in (None, SessionRepositoryType.SQLITE):
        backend, url, where = SessionRepositoryType.SQLITE, "sqlite://", "a temporary SQLite database"
    else:
        backend = _backend(backend, url)
        where = database.NAMES[backend]
    console = make_console(fixed_width=True)
    _run(backend, url, lambda repository: run_demo(repository, console, where))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="JSON Lines: one session per line.")],
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Store the conversations of a JSON Lines file.

    A line is an object with session_id, user_id, title, metadata and messages, a list of objects with role
    and content. The import is idempotent: it stores nothing twice. It reports lines that cannot be stored,
    and the exit status is then 1.

    The lines of an export are restored exactly, over what the database holds of these sessions.
    """

    async def store(repository: AsyncSessionRepository) -> Totals:
        console = make_console(stderr=True, fixed_width=True)
        columns = (
            TextColumn("Importing"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[sessions]} sessions"),
            TimeRemainingColumn(),
        )
        with (
            file.open("rb") as lines,
            Progress(*columns, console=console, disable=not console.is_terminal) as bar,
        ):
            # The size of a pipe is unknown; its bar only pulses.
            task = bar.add_task("", total=os.fstat(lines.fileno()).st_size or None, sessions=0)
            return await import_lines(
                repository,
                lines,
                report=lambda fault: print_error(fault, console),
                advance=lambda size, totals: bar.update(task, advance=size, sessions=totals.sessions),
            )

    totals = _run(_backend(backend, url), url, store)
    typer.echo(f"stored   {counted(totals.created, 'session')}, {counted(totals.messages, 'message')}")
    if totals.completed:
        typer.echo(f"         {counted(totals.completed, 'older session')} got the messages not stored yet")
    if totals.restored:
        restored = counted(totals.restored, "session"), counted(totals.restored_messages, "message")
        typer.echo(f"restored {restored[0]}, {restored[1]}")
    typer.echo(f"skipped  {counted(totals.skipped, 'session')} stored before")
    typer.echo(f"failed   {counted(totals.failed, 'line')}")
    if totals.failed:
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="The file to write; - for the output.")],
    user: Annotated[
        str | None, typer.Option(help="Only the sessions of this user.", show_default=False)
    ] = None,
    updated_since: Annotated[
        str | None,
        typer.Option(
            help="Only sessions changed at this time or later, such as 2026-01-31T00:00Z.", show_default=False
        ),
    ] = None,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Write the conversations of all users to a JSON Lines file, which import restores exactly."""
    since = parse_time(updated_since)

    async def write(repository: AsyncSessionRepository) -> Exported:
        console = make_console(stderr=True, fixed_width=True)
        columns = TextColumn("Exporting"), BarColumn(), TextColumn("{task.fields[sessions]} sessions")
        with (
            output(file) as lines,
            Progress(*columns, console=console, disable=not console.is_terminal) as bar,
        ):
            task = bar.add_task("", total=None, sessions=0)
            return await export_lines(
                repository,
                lines,
                user_id=user,
                updated_since=since,
                advance=lambda totals: bar.update(task, sessions=totals.sessions),
            )

    totals = _run(_backend(backend, url), url, write, creates=False)
    written = f"{counted(totals.sessions, 'session')}, {counted(totals.messages, 'message')}"
    typer.echo(f"exported {written}", err=file == STANDARD_OUTPUT)


@app.command("list")
def list_(
    user: User,
    limit: Annotated[int, typer.Option(min=1, help="How many sessions to show.")] = 20,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Show a user's sessions, newest first."""
    found, total = _run(
        _backend(backend, url),
        url,
        lambda repository: _newest_sessions(repository, user, limit),
        creates=False,
    )
    if not found:
        typer.echo(f"{printable(user)} has no sessions.")
        return
    console = make_console()
    console.print(sessions_table(found))
    more = f"; --limit {total} shows all" if total > len(found) else ""
    console.print(f"{len(found)} of {counted(total, 'session')}{more}", style="dim")


async def _newest_sessions(
    repository: AsyncSessionRepository, user: str, limit: int
) -> tuple[list[ChatSession], int]:
    found: list[ChatSession] = []
    cursor = None
    while len(found) < limit:
        page = await repository.list_sessions(user, limit=min(limit - len(found), PAGE_SIZE), cursor=cursor)
        found += page.sessions
        cursor = page.next_cursor
        if cursor is None:
            return found, len(found)
    return found, max(len(found), await repository.count_sessions(user))


@app.command()
def show(
    user: User,
    session_id: Annotated[str, typer.Argument(metavar="SESSION_ID", help="Id of the session.")],
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Show a session and its messages, oldest first."""

    async def read(repository: AsyncSessionRepository) -> None:
        chat_session = await repository.get_session(user, session_id)
        if chat_session is None:
            raise SessionNotFoundError(f"{user} has no session {session_id}")
        history = await repository.get_session_history(user, session_id)
        console = make_console()
        print_session(console, chat_session)
        for message in history:
            print_message(console, message)
        if not history:
            console.print("\nNo messages yet.", style="dim")

    _run(_backend(backend, url), url, read, creates=False)


@db.command()
def upgrade(backend: Backend = None, url: Url = None) -> None:
    """Upgrade the schema to head."""
    typer.echo(_finish(database.upgrade(_backend(backend, url), url)))


@db.command()
def current(backend: Backend = None, url: Url = None) -> None:
    """Show the current revision of the schema."""
    typer.echo(_finish(database.current(_backend(backend, url), url)))


@db.command()
def check(backend: Backend = None, url: Url = None) -> None:
    """Fail if the schema is not at head; change nothing.

    On MongoDB, which has no migrations, remove the orphaned messages of interrupted operations.
    """
    typer.echo(_finish(database.check(_backend(backend, url), url)))


@db.command()
def ini() -> None:
    """Show the path of the packaged alembic.ini, for Alembic's own commands."""
    typer.echo(ini_path())


def _run(
    backend: SessionRepositoryType,
    url: str | None,
    work: Callable[[AsyncSessionRepository], Coroutine[Any, Any, R]],
    *,
    creates: bool = True,
) -> R:
    """Call a function with a repository, close everything, and return its result.

    Args:
        backend: Type of the database.
        url: Its URL; None for the configured one.
        work: The function.
        creates: Whether it may create a database that does not exist.
    """

    async def with_repository() -> R:
        if not creates:
            database.require(backend, url)
        async with SessionRepositoryFactory.create_repository(backend, url=url) as repository:
            return await work(repository)

    return _finish(with_repository())


def _finish(work: Coroutine[Any, Any, R]) -> R:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        print_error("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def _backend(backend: SessionRepositoryType | None, url: str | None) -> SessionRepositoryType:
    """Return the named backend, else the URL's, else the configured one."""
    if backend is not None:
        return backend
    if url is not None:
        return repository_type_of(url, argument="--url")
    name, _ = default_repository_class()
    try:
        return SessionRepositoryType(name)
    except ValueError:
        raise ConfigurationError(
            f"sessions.default_repository is {name!r}, which the command line cannot use; "
            f"pass --backend {', '.join(SessionRepositoryType)}"
        ) from None
