"""``python -m sessions`` and the ``sessions`` command."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]

MISSING = "the command line needs typer and rich; install them with: pip install 'agenthub-sessions[cli]'"
# What a shell reports for a command that ended by Ctrl-C.
INTERRUPTED = 130


def main() -> None:
    """Run the command line, or say in one line how to get it."""
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


def _fail(reason: str, status: int) -> NoReturn:
    # Without the cause, and so without a traceback.
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(status) from None


if __name__ == "__main__":
    main()
