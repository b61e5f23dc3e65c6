"""``sessions hash``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import TextColumn

from sessions.cli.hashing import Hashed, hash_all
from sessions.cli.running import Backend, Json, Url, print_json, progress, run
from sessions.cli.terminal import counted
from sessions.repositories import AsyncSessionRepository

__all__ = ["hash_"]


def hash_(
    user: Annotated[
        str | None, typer.Option(help="Only the sessions of this user.", show_default=False)
    ] = None,
    milliseconds: Annotated[
        bool,
        typer.Option("--milliseconds", help="Take times to the millisecond, to compare with MongoDB."),
    ] = False,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Show a hash of everything that all sessions and messages hold: equal before and after a move."""

    async def read(repository: AsyncSessionRepository) -> Hashed:
        columns = TextColumn("{task.fields[sessions]} sessions, {task.fields[messages]} messages")
        with progress("Hashing", columns) as bar:
            task = bar.add_task("", total=None, sessions=0, messages=0)
            return await hash_all(
                repository,
                user_id=user,
                milliseconds=milliseconds,
                advance=lambda found: bar.update(task, sessions=found.sessions, messages=found.messages),
            )

    found = run(backend, url, read, creates=False, takes_long=True)
    if json_:
        print_json(asdict(found))
    else:
        what = f"{counted(found.sessions, 'session')}, {counted(found.messages, 'message')}"
        typer.echo(f"{found.sha256}  {what}")
