"""``sessions delete`` and ``sessions retention apply``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.progress import TextColumn

from sessions.cli.running import Backend, Json, Url, User, print_json, progress, require_confirmation, run
from sessions.cli.terminal import counted, printable
from sessions.core.identifiers import utc_now
from sessions.errors import InvalidInputError, SessionNotFoundError, VersionConflictError
from sessions.repositories import AsyncSessionRepository

__all__ = ["apply", "delete"]

PAGE_SIZE = 1000
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def delete(
    user: User,
    session_id: Annotated[
        str | None,
        typer.Argument(metavar="[SESSION_ID]", help="Id of the session; without it, all of the user's."),
    ] = None,
    yes: Yes = False,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Delete a session with its messages, or all sessions of a user."""
    what = f"session {printable(session_id)}" if session_id is not None else "all sessions"
    require_confirmation(yes, f"Delete {what} of {printable(user)}?")

    async def remove(repository: AsyncSessionRepository) -> int:
        if session_id is None:
            return await repository.delete_user(user)
        if not await repository.delete_session_async(user, session_id):
            raise SessionNotFoundError(f"{user} has no session {session_id}")
        return 1

    deleted = run(backend, url, remove, creates=False)
    if json_:
        print_json({"sessions": deleted})
    else:
        typer.echo(f"deleted {counted(deleted, 'session')}")


def apply(
    older_than: Annotated[
        str | None,
        typer.Option(
            help="Only sessions not changed for so long: 90d; units are s, m, h, d, w.", show_default=False
        ),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option(min=0, help="Keep so many sessions of each user, the newest.", show_default=False),
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Only the sessions of this user.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and delete nothing.")] = False,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Delete old sessions, as a scheduled job does.

    With both --older-than and --keep-last a session is deleted if it is older, and not among the newest of
    its user.
    """
    if older_than is None and keep_last is None:
        raise InvalidInputError("--older-than", "or --keep-last is needed")
    cutoff = None if older_than is None else utc_now() - _duration(older_than)

    async def work(repository: AsyncSessionRepository) -> int:
        if keep_last is None and cutoff is not None and not dry_run:
            return await repository.delete_sessions_older_than(cutoff, user_id=user)
        done = 0
        with progress("Looking", TextColumn("{task.fields[done]} sessions")) as bar:
            task = bar.add_task("", total=None, done=0)
            if user is not None:
                return await _apply(repository, user, cutoff, keep_last or 0, dry_run=dry_run)
            async for user_id in repository.admin.iter_users():
                done += await _apply(repository, user_id, cutoff, keep_last or 0, dry_run=dry_run)
                bar.update(task, done=done)
        return done

    done = run(backend, url, work, creates=False)
    if json_:
        print_json({"sessions": done, "dry_run": dry_run})
    else:
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {counted(done, 'session')}")


async def _apply(
    repository: AsyncSessionRepository,
    user_id: str,
    cutoff: datetime | None,
    keep_last: int,
    *,
    dry_run: bool,
) -> int:
    """Delete the sessions of a user that both conditions choose, or count them."""
    if cutoff is None and not dry_run:
        return await repository.keep_latest_sessions(user_id, keep_last)
    done = seen = 0
    cursor = None
    while True:
        # A cursor stays valid while sessions before it are deleted.
        page = await repository.list_sessions(user_id, limit=PAGE_SIZE, cursor=cursor)
        for chat_session in page.sessions:
            seen += 1
            if seen <= keep_last or (cutoff is not None and chat_session.updated_at >= cutoff):
                continue
            if dry_run:
                done += 1
                continue
            try:
                # One that was changed meanwhile is no longer old.
                done += await repository.delete_session_async(
                    user_id, chat_session.session_id, expected_version=chat_session.version
                )
            except VersionConflictError:
                continue
        cursor = page.next_cursor
        if cursor is None:
            return done


def _duration(text: str) -> timedelta:
    """Return the time of ``--older-than``.

    Raises:
        InvalidInputError: It is not a number with a unit.
    """
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if found is None:
        raise InvalidInputError(
            "--older-than", "must be a number with a unit, such as 90d; units: s, m, h, d, w"
        )
    return timedelta(**{UNITS[found[2]]: int(found[1])})
