"""Errors of the command line: one line on stderr and an exit status, never a traceback."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

from sessions.cli.terminal import print_error
from sessions.errors import SessionsError

__all__ = ["INTERRUPTED", "OneLineErrors"]

INTERRUPTED = 130


class OneLineErrors(TyperGroup):
    """Turns every error, usage errors included, into one line and an exit status."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; as a program, end the process with its exit status."""

        def run() -> Any:
            return super(OneLineErrors, self).main(
                args, prog_name, complete_var, False, windows_expand_args, **extra
            )

        if not standalone_mode:
            return run()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal that cannot show a character still shows the rest of the message.
            sys.stdout.reconfigure(errors="backslashreplace")
        # Retries are logged as warnings, which would be printed before the error line.
        logging.getLogger("sessions").addHandler(logging.NullHandler())
        try:
            status = run()
        except Exception as error:
            if os.environ.get("SESSIONS_DEBUG"):
                raise
            status = _report(error)
        sys.exit(status if isinstance(status, int) else 0)


def _report(error: Exception) -> int:
    """Print one line for an error and return the exit status."""
    if format_message := getattr(error, "format_message", None):
        # A usage error, recognized by its methods: typer bundles click, or uses the installed one.
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "sessions"
        print_error(f"{format_message().rstrip('.')}; see '{command} --help'")
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, SessionsError):
        print_error(str(error))
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        print_error(where + (error.strerror or type(error).__name__))
    else:
        # Without its text, which may quote a URL and so a password.
        print_error(f"unexpected {type(error).__name__}; set SESSIONS_DEBUG=1 to see the traceback")
    return 1
