"""``sessions copy``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sessions.cli import database
from sessions.cli.copying import Copied, Copy
from sessions.cli.running import Json, backend_of, finish, patient, print_json, progress
from sessions.cli.terminal import counted, print_error
from sessions.errors import InvalidInputError
from sessions.repositories import SessionRepositoryFactory, SessionRepositoryType

__all__ = ["copy"]


def copy(
    source: Annotated[str, typer.Option("--from", help="URL of the database to read.", show_default=False)],
    target: Annotated[str, typer.Option("--to", help="URL of the database to write.", show_default=False)],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare everything that both hold afterwards.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete sessions of the target that the source does not have.")
    ] = False,
    json_: Json = False,
) -> None:
    """Copy the conversations of all users to another database, which may be of another kind.

    Services may go on writing meanwhile. Run again, it copies what changed since, and continues a run that
    was interrupted.
    """
    if source == target:
        raise InvalidInputError("--to", "is the database that --from names")
    totals = finish(_copy(source, target, verify=verify, prune=prune))
    if json_:
        print_json(asdict(totals))
    else:
        _print(totals)
    if totals.failed or totals.different:
        raise typer.Exit(1)


async def _copy(source: str, target: str, *, verify: bool, prune: bool) -> Copied:
    backends = [backend_of(None, url) for url in (source, target)]
    database.require(backends[0], source)
    create = SessionRepositoryFactory.create_repository
    async with (
        create(backends[0], url=source) as read_soon,
        create(backends[1], url=target) as written_soon,
        await patient(read_soon, backends[0], source) as read,
        await patient(written_soon, backends[1], target) as written,
    ):
        total = (await read.admin.statistics()).sessions
        with _bar("Copying") as bar:
            task = bar.add_task("", total=total, sessions=0, messages=0, rate=0.0)
            work = Copy(
                read,
                written,
                prunes=prune,
                milliseconds=SessionRepositoryType.MONGODB in backends,
                report=lambda fault: print_error(fault, bar.console),
                advance=lambda done, totals: _show(bar, task, done, totals),
            )
            await work.run()
            if verify:
                bar.reset(task, total=total, sessions=0, messages=0, rate=0.0)
                await work.compare()
        return work.totals


def _bar(name: str) -> Progress:
    rate = TextColumn("{task.fields[messages]} messages, {task.fields[rate]:.0f}/s")
    return progress(name, TaskProgressColumn(), rate, TimeRemainingColumn())


def _show(bar: Progress, task: TaskID, done: int, totals: Copied) -> None:
    rate = totals.messages / max(bar.tasks[0].elapsed or 0, 1e-3)
    bar.update(task, completed=done, messages=totals.messages, rate=rate)


def _print(totals: Copied) -> None:
    typer.echo(f"copied    {counted(totals.sessions, 'session')}, {counted(totals.messages, 'message')}")
    typer.echo(f"unchanged {counted(totals.unchanged, 'session')}")
    if totals.extra:
        what = f"{counted(totals.extra, 'session')} of the target that the source does not have"
        typer.echo(f"deleted   {totals.deleted} of {what}" if totals.deleted else f"left      {what}")
    if totals.failed:
        typer.echo(f"failed    {counted(totals.failed, 'session')}")
    if totals.different is not None:
        same = "both hold the same" if not totals.different else counted(totals.different, "session")
        typer.echo(f"verified  {same}" if not totals.different else f"different {same}")
