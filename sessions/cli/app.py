"""The command line, ``sessions``: its commands, and what they have in common."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from sessions.cli import database
from sessions.cli.commands import copying, hashing, looking, maintenance, schema, statistics, transfer
from sessions.cli.demo import run_demo
from sessions.cli.errors import OneLineErrors
from sessions.cli.running import Backend, Url, backend_of, run
from sessions.cli.terminal import make_console
from sessions.repositories import SessionRepositoryType

__all__ = ["app"]

app = typer.Typer(
    cls=OneLineErrors,
    help="Chat conversations in PostgreSQL, MongoDB, SQLite or Redis.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
db = typer.Typer(help="Check, upgrade and measure the database.", rich_markup_mode=None)
retention = typer.Typer(help="Delete old sessions.", rich_markup_mode=None)
app.add_typer(retention, name="retention")
app.add_typer(db, name="db")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sessions {version('agenthub-sessions')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _help(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    _show_help(context)


@db.callback(invoke_without_command=True)
@retention.callback(invoke_without_command=True)
def _show_help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(backend: Backend = None, url: Url = None) -> None:
    """Create, read, update and delete one conversation, and show each step.

    Without options it runs on a temporary SQLite database; no server is needed.
    """
    if url is None and backend in (None, SessionRepositoryType.SQLITE):
        backend, url, where = SessionRepositoryType.SQLITE, "sqlite://", "a temporary SQLite database"
    else:
        backend = backend_of(backend, url)
        where = database.NAMES[backend]
    console = make_console(fixed_width=True)
    run(backend, url, lambda repository: run_demo(repository, console, where))


app.command("import")(transfer.import_)
app.command()(transfer.export)
app.command()(copying.copy)
app.command("hash")(hashing.hash_)
app.command("list")(looking.list_)
app.command()(looking.show)
app.command()(looking.search)
app.command()(looking.users)
app.command()(statistics.stats)
app.command()(maintenance.delete)
retention.command()(maintenance.apply)
db.command()(schema.upgrade)
db.command()(schema.downgrade)
db.command()(schema.current)
db.command()(schema.check)
db.command()(schema.size)
db.command()(schema.ini)
