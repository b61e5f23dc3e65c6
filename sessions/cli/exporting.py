"""Writes the conversations of a database as JSON Lines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import typer

from sessions.cli.exported_lines import format_line
from sessions.errors import InvalidInputError
from sessions.repositories import AsyncSessionRepository

__all__ = ["STANDARD_OUTPUT", "Exported", "export_lines", "output", "parse_time"]

STANDARD_OUTPUT = Path("-")


@dataclass(slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        sessions: Number of sessions.
        messages: Number of messages.
    """

    sessions: int = 0
    messages: int = 0


def parse_time(value: str | None) -> datetime | None:
    """Return the time of ``--updated-since``.

    Raises:
        InvalidInputError: It is not in ISO 8601.
    """
    try:
        return None if value is None else datetime.fromisoformat(value)
    except ValueError:
        raise InvalidInputError("--updated-since", "must be a time in ISO 8601") from None


@contextlib.contextmanager
def output(file: Path) -> Iterator[BinaryIO]:
    """Open the file to write, or standard output for ``-``.

    The file has its name only once it is complete.
    """
    if file == STANDARD_OUTPUT:
        lines = typer.get_binary_stream("stdout")
        yield lines
        lines.flush()
        return
    partial = file.with_name(f"{file.name}.part")
    try:
        with partial.open("wb") as opened:
            yield opened
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


async def export_lines(
    repository: AsyncSessionRepository,
    lines: BinaryIO,
    *,
    user_id: str | None,
    updated_since: datetime | None,
    advance: Callable[[Exported], None],
) -> Exported:
    """Write one line for each session, or for each 1000 messages of a longer one.

    Args:
        repository: Where to read them.
        lines: Where to write them.
        user_id: Only this user's sessions; None for all.
        updated_since: Only sessions changed at this time or later; None for all.
        advance: Called after each line with the totals so far.
    """
    totals = Exported()
    last: Any = None
    async for chat_session, messages in repository.admin.export(user_id=user_id, updated_since=updated_since):
        lines.write(format_line(chat_session, messages))
        totals.sessions += chat_session.session_id != last
        totals.messages += len(messages)
        last = chat_session.session_id
        advance(totals)
    return totals
