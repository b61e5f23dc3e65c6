"""``sessions stats``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sessions.cli.exporting import parse_time
from sessions.cli.running import Backend, Json, Url, print_json, run
from sessions.cli.terminal import make_console, printable, utc
from sessions.models import Spread, Statistics
from sessions.repositories import AsyncSessionRepository

__all__ = ["stats"]

BAR_WIDTH = 40
# Parts of time that are shown; --json has all of them.
SHOWN = 31


class Length(StrEnum):
    """The lengths of a part of time."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def stats(
    since: Annotated[
        str | None,
        typer.Option(help="Only what happened at this time or later, in ISO 8601.", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Only what happened before this time.", show_default=False)
    ] = None,
    bucket: Annotated[Length, typer.Option(help="Length of the parts of time.")] = Length.DAY,
    time_zone: Annotated[str, typer.Option(help="Time zone of the parts of time.")] = "UTC",
    top: Annotated[int, typer.Option(min=0, max=1000, help="How many users to name.")] = 10,
    json_: Json = False,
    backend: Backend = None,
    url: Url = None,
) -> None:
    """Show how much the database holds, and how it is used."""
    times = parse_time(since, "--since"), parse_time(until, "--until")

    async def read(repository: AsyncSessionRepository) -> Statistics:
        return await repository.admin.statistics(
            since=times[0], until=times[1], bucket=bucket.value, time_zone=time_zone, top=top
        )

    found = run(backend, url, read, creates=False, takes_long=True)
    if json_:
        print_json(asdict(found))
    else:
        _print(make_console(), found, bucket, time_zone)


def _print(console: Console, found: Statistics, bucket: Length, time_zone: str) -> None:
    seconds = " seconds"
    rows = {
        "users": f"{found.users:,}",
        "sessions": f"{found.sessions:,}",
        "messages": f"{found.messages:,}",
        "period": _period(found),
        "roles": ", ".join(f"{role} {number:,}" for role, number in found.messages_by_role.items()) or "none",
        "turns": _spread(found.turns, " a session"),
        "answers": _spread(found.answer_seconds, seconds),
        "tokens": f"{found.input_tokens:,} in, {found.output_tokens:,} out",
        "on disk": f"{found.bytes_on_disk:,} bytes",
    }
    for name, value in rows.items():
        console.print(Text.assemble((f"{name:<9}", "dim"), value), soft_wrap=True)
    if found.buckets:
        columns = "Sessions", "Messages", "Users", ""
        table = _table(f"{bucket.value.title()} ({time_zone})", *columns)
        shown = found.buckets[-SHOWN:]
        most = max(part.messages for part in shown) or 1
        for part in shown:
            numbers = (f"{number:,}" for number in (part.sessions, part.messages, part.active_users))
            table.add_row(
                _label(part.start, bucket, time_zone), *numbers, Bar(most, 0, part.messages, width=BAR_WIDTH)
            )
        console.print()
        console.print(table)
        if len(found.buckets) > len(shown):
            console.print(f"the last {len(shown)} of {len(found.buckets)}; --json has all", style="dim")
    if found.models:
        table = _table("Model", "Messages", "Tokens in", "Tokens out")
        for use in found.models:
            counts = (f"{number:,}" for number in (use.messages, use.input_tokens, use.output_tokens))
            table.add_row(Text(printable(use.model)), *counts)
        console.print()
        console.print(table)
    if found.top_users:
        table = _table("User", "Sessions", "Messages", "")
        most = found.top_users[0].messages
        for user in found.top_users:
            bar = Bar(most, 0, user.messages, width=BAR_WIDTH)
            table.add_row(Text(printable(user.user_id)), f"{user.sessions:,}", f"{user.messages:,}", bar)
        console.print()
        console.print(table)


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _label(start: datetime, bucket: Length, time_zone: str) -> str:
    local = start.astimezone(ZoneInfo(time_zone))
    return f"{local:%Y-%m-%d %H:%M}" if bucket is Length.HOUR else f"{local:%Y-%m-%d}"


def _period(found: Statistics) -> str:
    if found.oldest is None or found.newest is None:
        return "none"
    return f"{utc(found.oldest)} to {utc(found.newest)} UTC"


def _spread(spread: Spread, unit: str) -> str:
    if spread.mean is None:
        return "none"
    return f"mean {spread.mean:,.2f}, median {spread.p50:g}, 95% at most {spread.p95:g}{unit}"
