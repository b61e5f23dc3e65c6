"""``sessions list``, ``show``, ``search`` and ``users``."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from sessions.cli.running import Backend, Json, Url, User, print_json, run, where_of
from sessions.cli.terminal import (
    counted,
    make_console,
    print_message,
    print_session,
    printable,
    sessions_table,
    utc,
)
from sessions.errors import InvalidInputError, SessionNotFoundError
from sessions.models import ChatMessage, ChatSession, SearchHit
from sessions.repositories import AsyncSessionRepository

__all__ = ["list_", "search", "show", "users"]

PAGE_SIZE = 1000
# Characters of a message that a hit shows.
EXCERPT = 200
# No message is older.
BEGINNING = datetime(1, 1, 2, tzinfo=UTC)

Where = Annotated[
    list[str] | None,
    typer.Option(
        help="KEY=VALUE: only sessions whose metadata has this value, in JSON or as text; of several values "
        "of one key any.",
        show_default=False,
    ),
]


def list_(
    user: User,
    limit: Annotated[int, typer.Option(min=1, help="How many sessions to show.")] = 20,
    where: Where = None,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Show a user's sessions, newest first."""
    found, total = run(
        backend, url, lambda repository: _newest_sessions(repository, user, limit, where), creates=False
    )
    if json_:
        print_json({"sessions": [asdict(chat_session) for chat_session in found], "total": total})
        return
    if not found:
        chosen = " that match" if where else ""
        typer.echo(f"{printable(user)} has no sessions{chosen}.")
        return
    console = make_console()
    console.print(sessions_table(found))
    more = f"; --limit {total} shows all" if total > len(found) else ""
    console.print(f"{len(found)} of {counted(total, 'session')}{more}", style="dim")


async def _newest_sessions(
    repository: AsyncSessionRepository, user: str, limit: int, where: list[str] | None
) -> tuple[list[ChatSession], int]:
    found: list[ChatSession] = []
    cursor, condition = None, where_of(where)
    while len(found) < limit:
        page = await repository.list_sessions(
            user, limit=min(limit - len(found), PAGE_SIZE), cursor=cursor, where=condition
        )
        found += page.sessions
        cursor = page.next_cursor
        if cursor is None:
            return found, len(found)
    return found, max(len(found), await repository.count_sessions(user, where=condition))


def show(
    user: User,
    session_id: Annotated[str, typer.Argument(metavar="SESSION_ID", help="Id of the session.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show the first so many messages.", show_default=False)
    ] = None,
    tail: Annotated[
        int | None, typer.Option(min=1, help="Show the last so many messages.", show_default=False)
    ] = None,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Show a session and its messages, oldest first."""
    if limit is not None and tail is not None:
        raise InvalidInputError("--tail", "goes with no --limit")

    async def read(repository: AsyncSessionRepository) -> tuple[ChatSession, list[ChatMessage], int]:
        chat_session = await repository.get_session(user, session_id)
        if chat_session is None:
            raise SessionNotFoundError(f"{user} has no session {session_id}")
        if limit is not None:
            # The oldest: all that follow the beginning of time.
            history = await repository.get_session_history(user, session_id, since=BEGINNING, limit=limit)
        else:
            history = await repository.get_session_history(user, session_id, limit=tail)
        is_part = len(history) in (limit, tail)
        total = await repository.count_messages(user, session_id) if is_part else len(history)
        return chat_session, history, max(total, len(history))

    chat_session, history, total = run(backend, url, read, creates=False)
    if json_:
        print_json(
            {"session": asdict(chat_session), "messages": [asdict(one) for one in history], "total": total}
        )
        return
    console = make_console()
    print_session(console, chat_session)
    for message in history:
        print_message(console, message)
    if not history:
        console.print("\nNo messages yet.", style="dim")
    if total > len(history):
        console.print(f"\n{len(history)} of {counted(total, 'message')}", style="dim")


def search(
    user: User,
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help='Words that a message contains; "…" keeps words together.')
    ],
    session: Annotated[
        str | None, typer.Option(help="Only in the session with this id.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many messages to show.")] = 20,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Show the messages of a user that contain all words, newest first."""

    async def find(repository: AsyncSessionRepository) -> list[SearchHit]:
        found: list[SearchHit] = []
        cursor = None
        while len(found) < limit:
            page = await repository.search_messages(
                user, query, session_id=session, limit=min(limit - len(found), PAGE_SIZE), cursor=cursor
            )
            found += page.hits
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    hits = run(backend, url, find, creates=False)
    if json_:
        print_json({"hits": [asdict(hit) for hit in hits]})
        return
    console = make_console()
    for hit in hits:
        heading = f"{printable(hit.session.session_id)}  {printable(hit.session.title)}"
        console.print(Text(heading, style="cyan"), soft_wrap=True)
        content = printable(hit.message.content[:EXCERPT])
        more = "…" if len(hit.message.content) > EXCERPT else ""
        line = f"  {utc(hit.message.timestamp)} UTC  {hit.message.role}: {content}{more}"
        console.print(Text(line), soft_wrap=True)
    if not hits:
        console.print("No message contains this.", style="dim")


def users(
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show the first so many users.", show_default=False)
    ] = None,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Show the id of every user with sessions, one on each line."""

    async def read(repository: AsyncSessionRepository) -> None:
        names: list[str] = []
        async with contextlib.aclosing(repository.admin.iter_users()) as found:
            count = 0
            async for user_id in found:
                if json_:
                    names.append(user_id)
                else:
                    typer.echo(printable(user_id))
                count += 1
                if count == limit:
                    break
        if json_:
            print_json({"users": names})

    run(backend, url, read, creates=False)
