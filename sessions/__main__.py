"""``python -m sessions`` and the ``sessions`` command."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = ["main"]

MISSING = "the command line needs typer and rich; install them with: pip install 'agenthub-sessions[cli]'"
# The exit status that a shell reports for a command that Ctrl-C ended.
INTERRUPTED = 130


def main() -> None:
    """Run the command line, or print how to install it."""
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
    """Open the null device for standard streams that the caller has closed (``>&-``).

    Otherwise the next opened file or socket, such as the database, gets the file descriptor of a standard
    stream, and receives its output; and ``sys.stdout`` is None, which libraries do not expect.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _fail(reason: str, status: int) -> NoReturn:
    # Without the cause, and so without a traceback.
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(status) from None


if __name__ == "__main__":
    main()
