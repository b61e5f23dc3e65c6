"""Helpers of the tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

Run = Callable[..., Result]


def write_lines(path: Path, *lines: Any) -> Path:
    """Write a file of lines: bytes and text as they are, anything else as JSON."""
    with path.open("wb") as file:
        for line in lines:
            text = line if isinstance(line, bytes | str) else json.dumps(line)
            file.write((text if isinstance(text, bytes) else text.encode()) + b"\n")
    return path


def error_line(result: Result) -> str:
    """Return the one line that a failed command printed to stderr."""
    assert result.exit_code != 0
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")
