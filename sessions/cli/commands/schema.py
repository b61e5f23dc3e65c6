"""``sessions db``."""

from __future__ import annotations

from typing import Annotated

import typer

from sessions.cli import database
from sessions.cli.running import Backend, Json, Url, backend_of, finish, print_json, require_confirmation, run
from sessions.migrations import ini_path
from sessions.repositories import AsyncSessionRepository

__all__ = ["check", "current", "downgrade", "ini", "size", "upgrade"]


def upgrade(backend: Backend = None, url: Url = None) -> None:
    """Upgrade the schema to head."""
    typer.echo(finish(database.upgrade(backend_of(backend, url), url)))


def downgrade(
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help="The revision, such as 0002; base removes the tables.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Downgrade the schema to an older revision; what that one does not store is lost."""
    chosen = backend_of(backend, url)
    require_confirmation(yes, f"Downgrade the schema to {revision}? What it does not store is lost.")
    typer.echo(finish(database.downgrade(chosen, url, revision)))


def current(backend: Backend = None, url: Url = None) -> None:
    """Show the current revision of the schema."""
    typer.echo(finish(database.current(backend_of(backend, url), url)))


def check(backend: Backend = None, url: Url = None) -> None:
    """Fail if the schema is not at head; change nothing.

    On MongoDB, which has no migrations, remove the orphaned messages of interrupted operations.
    """
    typer.echo(finish(database.check(backend_of(backend, url), url)))


def size(json_: Json = False, backend: Backend = None, url: Url = None) -> None:
    """Show how many bytes the sessions and messages take on disk, with their indexes."""

    async def read(repository: AsyncSessionRepository) -> dict[str, int]:
        return await repository.admin.sizes()

    sizes = run(backend, url, read, creates=False)
    if json_:
        print_json(sizes)
        return
    width = max(map(len, sizes))
    for name, number in sizes.items():
        typer.echo(f"{name:<{width}}  {number:>16,}")


def ini() -> None:
    """Show the path of the packaged alembic.ini, for Alembic's own commands."""
    typer.echo(ini_path())
