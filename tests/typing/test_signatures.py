"""The public signatures as the type checker of a user sees them, in the package that is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

import sessions

FOLDER = Path(__file__).parent
PROGRAMS = ("right_calls.py", "wrong_calls.py")
Errors = dict[str, dict[int, str]]


def run(cwd: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr  # The wrong calls.
    return done.stdout


def mypy(folder: Path) -> Errors:
    """Return the errors of each file by line."""
    found: Errors = defaultdict(dict)
    for line in run(folder, "mypy", "--strict", "--output=json", *PROGRAMS).splitlines():
        error = json.loads(line)
        if error["severity"] == "error":
            found[Path(error["file"]).name][error["line"]] = error["message"]
    return found


def pyright(folder: Path) -> Errors:
    """Return the errors of each file by line."""
    found: Errors = defaultdict(dict)
    report = json.loads(run(folder, "pyright", "--outputjson", "--pythonpath", sys.executable, *PROGRAMS))
    for error in report["generalDiagnostics"]:
        if error["severity"] == "error":
            found[Path(error["file"]).name][error["range"]["start"]["line"] + 1] = error["message"]
    return found


@pytest.mark.parametrize("checker", [mypy, pytest.param(pyright, marks=pytest.mark.full_size)])
def test_right_calls_have_their_types_and_each_wrong_one_is_an_error(
    checker: Callable[[Path], Errors], tmp_path: Path
) -> None:
    # Away from the checkout, so that the package is the installed one and no settings of ours apply.
    for name in PROGRAMS:
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    found = checker(tmp_path)
    assert found["right_calls.py"] == {}
    lines = (FOLDER / "wrong_calls.py").read_text().splitlines()
    wrong = {number: line for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) >= 30
    assert {line for number, line in wrong.items() if number not in found["wrong_calls.py"]} == set()
    assert {text for number, text in found["wrong_calls.py"].items() if number not in wrong} == set()


def test_every_public_name_is_in_the_program() -> None:
    words = set(re.findall(r"\w+", (FOLDER / "right_calls.py").read_text()))
    assert set(sessions.__all__) <= words
