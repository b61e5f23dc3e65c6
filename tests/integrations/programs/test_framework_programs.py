"""The programs of the manual that need an agent framework run, and print what is shown below them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents import EXAMPLES

PROGRAMS = sorted((EXAMPLES / "frameworks").glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_prints_what_is_shown_below_it(program: Path, tmp_path: Path) -> None:
    # Without a working proxy it has no network.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    # Under another name: its own may be that of the framework.
    copy = shutil.copy(program, tmp_path / "program.py")
    done = subprocess.run(
        [sys.executable, copy],
        cwd=tmp_path,
        # ADK 2.9 tells of its experimental features by the UserWarning that begins with this.
        env={
            **os.environ,
            **nowhere,
            "PYTHONPATH": str(EXAMPLES.parents[1]),
            "PYTHONWARNINGS": "ignore:[EXPERIMENTAL]:UserWarning",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == program.with_suffix(".txt").read_text("utf-8")
