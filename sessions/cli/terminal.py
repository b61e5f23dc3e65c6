"""Output of the command line. Stored text is shown without markup and without raw control characters."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from datetime import datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sessions.models import ChatMessage, ChatSession

__all__ = [
    "ROLE_STYLES",
    "counted",
    "make_console",
    "one_line",
    "print_error",
    "print_message",
    "print_session",
    "printable",
    "printable_lines",
    "sessions_table",
    "utc",
]

ROLE_STYLES = {"user": "bold cyan", "assistant": "bold green"}

# Control characters such as ESC control the terminal, and bidirectional control characters reorder its text.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNPRINTABLE_IN_LINES = re.compile(_UNPRINTABLE.pattern.replace(r"\x1f", r"\x08\x0b-\x1f"))
# Wide enough that output into a pipe is neither wrapped nor truncated.
PIPE_WIDTH = 10_000


class _ErrorConsole(Console):
    """Prints on stderr while it is open; the command continues without it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def make_console(*, stderr: bool = False, fixed_width: bool = False) -> Console:
    """Return a console for the current streams.

    Args:
        stderr: Whether to print on stderr.
        fixed_width: Whether to wrap also output into a pipe or a file.
    """
    stream = sys.stderr if stderr else sys.stdout
    width = None if fixed_width or stream.isatty() else PIPE_WIDTH
    console = _ErrorConsole if stderr else Console
    return console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def printable(text: str) -> str:
    """Return text on one line, with control characters as escapes."""
    return _UNPRINTABLE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Return text with lines and tabs unchanged, and other control characters as escapes."""
    return _UNPRINTABLE_IN_LINES.sub(_escape, text.replace("\r\n", "\n"))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """Return a text of this package, or of a library, on one line."""
    return printable(" ".join(text.split()))


def counted(number: int, what: str) -> str:
    """Return a number with what it counts: "1 session", "2 sessions"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def utc(moment: datetime) -> str:
    """Return a time to the second; all of them are in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def print_error(text: str, console: Console | None = None) -> None:
    """Print one line to stderr, or to its console while that shows a progress bar.

    If that fails, as with a full disk, only the exit status reports the error.
    """
    line = Text.assemble(("error:", "bold red"), " ", one_line(text))
    with contextlib.suppress(OSError):
        (console or make_console(stderr=True)).print(line, soft_wrap=True)


def sessions_table(chat_sessions: list[ChatSession]) -> Table:
    """Return a table with a row for each session; ids are never truncated, so that they can be copied."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    # In a narrow terminal rich shrinks the columns that may wrap: only the titles.
    table.add_column("Session", no_wrap=True, style="cyan")
    table.add_column("Title")
    table.add_column("Updated (UTC)", no_wrap=True, style="dim")
    for item in chat_sessions:
        table.add_row(
            Text(printable(item.session_id), no_wrap=False, overflow="fold"),
            Text(printable(item.title), no_wrap=True, overflow="ellipsis"),
            utc(item.updated_at),
        )
    return table


def print_session(console: Console, chat_session: ChatSession) -> None:
    """Print the fields of a session, without its messages."""
    console.print(Text(printable(chat_session.title), style="bold"))
    rows = {
        "session": printable(chat_session.session_id),
        "user": printable(chat_session.user_id),
        "created": f"{utc(chat_session.created_at)} UTC",
        "updated": f"{utc(chat_session.updated_at)} UTC",
    }
    if chat_session.metadata:
        rows["metadata"] = printable(json.dumps(chat_session.metadata, ensure_ascii=False))
    for name, value in rows.items():
        console.print(Text.assemble((f"{name:<9}", "dim"), value), soft_wrap=True)


def print_message(console: Console, message: ChatMessage) -> None:
    """Print a message: its role and time, then its content unchanged."""
    console.print()
    heading = Text.assemble(
        (f"{message.role}", ROLE_STYLES.get(message.role, "bold")), (f"  {utc(message.timestamp)} UTC", "dim")
    )
    console.print(heading)
    content = printable_lines(message.content)
    if console.file.isatty():
        console.print(Text(content))
    else:
        # Exactly the stored characters: rich would convert tabs to spaces.
        print(content, file=console.file)
