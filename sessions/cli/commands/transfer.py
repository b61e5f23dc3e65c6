"""``sessions import`` and ``sessions export``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sessions.cli.entries import Entry, Totals, read_lines
from sessions.cli.exporting import Exported, export_file, parse_time
from sessions.cli.files import STANDARD_STREAM, Source, open_source
from sessions.cli.formats.reading import Format, check_format, read_entries
from sessions.cli.importing import count_entries, import_entries
from sessions.cli.running import Backend, Json, Url, finish, print_json, progress, run
from sessions.cli.terminal import counted, print_error
from sessions.errors import InvalidInputError
from sessions.repositories import AsyncSessionRepository

__all__ = ["export", "import_"]

RATE = "{task.fields[messages]} messages, {task.fields[rate]:.0f}/s"


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The file; .gz and .zst are decompressed, - is the input.",
            show_default=False,
        ),
    ],
    format: Annotated[
        Format, typer.Option("--format", help="Format of the file; sessions is this package's own.")
    ] = Format.SESSIONS,
    user: Annotated[
        str | None,
        typer.Option(help="Owner of the conversations of another program's file.", show_default=False),
    ] = None,
    forks: Annotated[
        bool, typer.Option("--forks", help="Store branches of ChatGPT's that are not shown, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check the file, and store nothing.")
    ] = False,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Store the conversations of a file.

    Of the format sessions, a line is an object with session_id, user_id, title, metadata and messages, a
    list of objects with role and content; or it is a line of an export, which is restored exactly, over what
    the database holds of its session. The other formats need --user.

    The import is idempotent: it stores nothing twice, and after an interruption it is run again. It reports
    lines that cannot be stored, and the exit status is then 1.
    """
    if (format is Format.SESSIONS) is (user is not None):
        needed = "takes no --user" if user is not None else "needs --user"
        raise InvalidInputError("--format", f"{format} {needed}")

    async def read(repository: AsyncSessionRepository | None) -> Totals:
        with open_source(file) as source:
            entries = _entries(source, format, user, forks=forks)
            if repository is None:
                return _dry_run(source, entries)
            return await _import(repository, source, entries)

    totals = finish(read(None)) if dry_run else run(backend, url, read, takes_long=True)
    if json_:
        fields = asdict(totals)
        del fields["last_restored"]
        print_json(fields | {"dry_run": dry_run})
    else:
        _print_totals(totals, dry_run=dry_run)
    if totals.failed:
        raise typer.Exit(1)


def _entries(source: Source, format: Format, user: str | None, *, forks: bool) -> Iterator[Entry]:
    lines = check_format(source.lines, format)
    return read_lines(lines) if user is None else read_entries(lines, format, user, forks=forks)


def _bar(name: str) -> Progress:
    columns = TextColumn("{task.fields[sessions]} sessions, " + RATE), TimeRemainingColumn()
    return progress(name, TaskProgressColumn(), *columns)


def _show(bar: Progress, task: TaskID, source: Source, totals: Totals) -> None:
    messages = totals.messages + totals.restored_messages
    rate = messages / max(bar.tasks[0].elapsed or 0, 1e-3)
    # The size of a pipe is unknown; its bar only pulses.
    bar.update(task, completed=source.position, sessions=totals.sessions, messages=messages, rate=rate)


async def _import(repository: AsyncSessionRepository, source: Source, entries: Iterator[Entry]) -> Totals:
    with _bar("Importing") as bar:
        task = bar.add_task("", total=source.size, sessions=0, messages=0, rate=0.0)
        return await import_entries(
            repository,
            entries,
            report=lambda fault: print_error(fault, bar.console),
            advance=lambda _, totals: _show(bar, task, source, totals),
        )


def _dry_run(source: Source, entries: Iterator[Entry]) -> Totals:
    with _bar("Reading") as bar:
        task = bar.add_task("", total=source.size, sessions=0, messages=0, rate=0.0)
        return count_entries(
            entries,
            report=lambda fault: print_error(fault, bar.console),
            advance=lambda _, totals: _show(bar, task, source, totals),
        )


def _print_totals(totals: Totals, *, dry_run: bool) -> None:
    stored = "would store" if dry_run else "stored  "
    typer.echo(f"{stored} {counted(totals.created, 'session')}, {counted(totals.messages, 'message')}")
    if totals.completed:
        typer.echo(f"         {counted(totals.completed, 'older session')} got the messages not stored yet")
    if totals.restored:
        restored = counted(totals.restored, "session"), counted(totals.restored_messages, "message")
        typer.echo(f"{'would restore' if dry_run else 'restored'} {restored[0]}, {restored[1]}")
    if not dry_run:
        typer.echo(f"skipped  {counted(totals.skipped, 'session')} stored before")
    typer.echo(f"failed   {counted(totals.failed, 'line')}")


def export(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The file to write; .gz and .zst are compressed, - is the output."
        ),
    ],
    user: Annotated[
        str | None, typer.Option(help="Only the sessions of this user.", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            "--updated-since",
            help="Only sessions changed at this time or later, such as 2026-01-31T00:00Z.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted export to this file.")
    ] = False,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Write the conversations of all users to a JSON Lines file, which import restores exactly."""
    moment = parse_time(since)

    async def write(repository: AsyncSessionRepository) -> Exported:
        with progress("Exporting", TextColumn("{task.fields[sessions]} sessions, " + RATE)) as bar:
            total = None if user or moment else (await repository.admin.statistics()).sessions
            task = bar.add_task("", total=total, sessions=0, messages=0, rate=0.0)

            def advance(totals: Exported) -> None:
                rate = totals.messages / max(bar.tasks[0].elapsed or 0, 1e-3)
                bar.update(
                    task,
                    completed=totals.sessions,
                    sessions=totals.sessions,
                    messages=totals.messages,
                    rate=rate,
                )

            return await export_file(
                repository, file, user_id=user, updated_since=moment, resume=resume, advance=advance
            )

    totals = run(backend, url, write, creates=False, takes_long=True)
    if json_:
        typer.echo(json.dumps(asdict(totals)), err=file == STANDARD_STREAM)
        return
    written = f"{counted(totals.sessions, 'session')}, {counted(totals.messages, 'message')}"
    typer.echo(f"exported {written}", err=file == STANDARD_STREAM)
