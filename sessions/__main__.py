"""``python -m sessions`` and the ``sessions`` command."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = ["main"]

MISSING = "the command line needs typer and rich; install them with: pip install 'agenthub-sessions[cli]'"
# What a shell reports for a command that ended by Ctrl-C.
INTERRUPTED = 130


def main() -> None:
    """Run the command line, or say in one line how to get it."""
    _open_closed_streams()
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        _fail(MISSING, 1)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    try:
        from sessions.cli.app import app

        app(prog_name="sessions")
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)


def _open_closed_streams() -> None:
    """Let the standard streams that the caller has closed (``>&-``) lead nowhere.

    Else the next file or socket that is opened, such as the database, is given the number of a standard
    stream, and gets what anything writes there; and ``sys.stdout`` is None, which no library expects.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _fail(reason: str, status: int) -> NoReturn:
    # Without the cause, and so without a traceback.
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(status) from None


if __name__ == "__main__":
    main()
