"""Writes the conversations of a database as JSON Lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import typer

from sessions.cli.exported_lines import format_line
from sessions.cli.files import STANDARD_STREAM, appended
from sessions.errors import InvalidInputError
from sessions.repositories import AsyncSessionRepository

__all__ = ["Exported", "export_file", "parse_time"]

# Messages between two checkpoints; each takes a flush to the disk, and ends a compressed part.
CHECKPOINT_MESSAGES = 50_000


@dataclass(slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        sessions: Number of sessions.
        messages: Number of messages.
    """

    sessions: int = 0
    messages: int = 0

    def count(self, is_new: bool, messages: int) -> None:
        """Count a line: of a new session, or the next one of the same; and its messages."""
        self.sessions += is_new
        self.messages += messages


def parse_time(value: str | None, option: str = "--since") -> datetime | None:
    """Return the time of an option.

    Raises:
        InvalidInputError: It is not in ISO 8601.
    """
    try:
        return None if value is None else datetime.fromisoformat(value)
    except ValueError:
        raise InvalidInputError(option, "must be a time in ISO 8601") from None


async def export_file(
    repository: AsyncSessionRepository,
    file: Path,
    *,
    user_id: str | None,
    updated_since: datetime | None,
    resume: bool,
    advance: Callable[[Exported], None],
) -> Exported:
    """Write one line for each session, or for each 1000 messages of a longer one.

    The file has its name only once it is complete. Until then ``FILE.part`` grows, and ``FILE.part.json``
    says from where an interrupted export is continued. An export of one user is not continued: it has the
    order of the sessions' last changes.

    Args:
        repository: Where to read them.
        file: Where to write them; ``-`` for standard output.
        user_id: Only this user's sessions; None for all.
        updated_since: Only sessions changed at this time or later; None for all.
        resume: Whether to continue an interrupted export with the same choice, if there is one.
        advance: Called after each line with the totals so far.
    """
    chosen: dict[str, Any] = {"user_id": user_id, "updated_since": updated_since}
    if file == STANDARD_STREAM:
        lines = typer.get_binary_stream("stdout")
        totals = await _write(repository, lines, chosen, advance)
        lines.flush()
        return totals
    since = None if updated_since is None else updated_since.isoformat()
    checkpoints = _Checkpoints(file, {"user": user_id, "since": since})
    begun = checkpoints.begun() if resume else None
    try:
        with checkpoints.partial.open("wb" if begun is None else "r+b") as raw:
            totals = await _write_parts(repository, raw, chosen, begun, checkpoints, advance)
        checkpoints.partial.replace(file)
    except BaseException:
        # Without a checkpoint there is nothing to continue.
        if checkpoints.begun() is None:
            checkpoints.partial.unlink(missing_ok=True)
        raise
    checkpoints.state.unlink(missing_ok=True)
    return totals


async def _write(
    repository: AsyncSessionRepository,
    lines: BinaryIO,
    chosen: dict[str, Any],
    advance: Callable[[Exported], None],
) -> Exported:
    totals = Exported()
    last: Any = None
    async for chat_session, messages in repository.admin.export(**chosen):
        lines.write(format_line(chat_session, messages))
        totals.count(chat_session.session_id != last, len(messages))
        last = chat_session.session_id
        advance(totals)
    return totals


async def _write_parts(
    repository: AsyncSessionRepository,
    raw: BinaryIO,
    chosen: dict[str, Any],
    begun: _Begun | None,
    checkpoints: _Checkpoints,
    advance: Callable[[Exported], None],
) -> Exported:
    """Write parts that are compressed apart, each followed by a checkpoint."""
    totals, last = Exported(), None
    if begun is not None:
        totals, last = Exported(begun.sessions, begun.messages), begun.after
        raw.seek(begun.bytes)
        raw.truncate()
    else:
        checkpoints.state.unlink(missing_ok=True)
    # One user's sessions have another order.
    after: dict[str, Any] = {} if chosen["user_id"] is not None else {"after": last}
    found = repository.admin.export(**chosen, **after)
    written = 0
    with contextlib.ExitStack() as part:
        lines = part.enter_context(appended(raw, checkpoints.suffix))
        async for chat_session, messages in found:
            is_new = chat_session.session_id != last
            if is_new and written >= CHECKPOINT_MESSAGES and after:
                part.close()
                checkpoints.save(raw, totals, last)
                lines = part.enter_context(appended(raw, checkpoints.suffix))
                written = 0
            lines.write(format_line(chat_session, messages))
            totals.count(is_new, len(messages))
            written += max(len(messages), 1)
            last = chat_session.session_id
            advance(totals)
    return totals


@dataclass(slots=True, frozen=True)
class _Begun:
    """What an interrupted export has written: so many bytes, up to and including a session."""

    bytes: int
    after: str
    sessions: int
    messages: int


class _Checkpoints:
    """Says in a file how far an export is.

    Args:
        file: The file that is exported.
        choice: What is exported: only an export of the same is continued.
    """

    def __init__(self, file: Path, choice: dict[str, Any]) -> None:
        self.suffix = file.suffix
        self.partial = file.with_name(f"{file.name}.part")
        self.state = file.with_name(f"{file.name}.part.json")
        self._choice = choice

    def begun(self) -> _Begun | None:
        """Return what an interrupted export of the same has written; None for nothing."""
        try:
            fields = json.loads(self.state.read_bytes())
            size = self.partial.stat().st_size
            if fields["choice"] != self._choice or fields["bytes"] > size:
                return None
            return _Begun(fields["bytes"], fields["after"], fields["sessions"], fields["messages"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, raw: BinaryIO, totals: Exported, after: str | None) -> None:
        """Write down that everything up to and including a session is in the file."""
        raw.flush()
        os.fsync(raw.fileno())
        fields = {"choice": self._choice, "bytes": raw.tell(), "after": after} | asdict(totals)
        new = self.state.with_name(f"{self.state.name}.new")
        new.write_text(json.dumps(fields), "utf-8")
        new.replace(self.state)
