"""Conversations to test on: those of the tests, and the real ones that may lie beside the checkout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]

OWN = _ROOT / "tests" / "data" / "conversations.jsonl"
REAL = _ROOT.parent / "shared" / "data" / "conversations.jsonl"


def files() -> dict[str, Path]:
    """Return the files to test on by name.

    The real conversations belong to those who published them and are not part of the repository. Under
    ``CI=true`` they have to be there all the same.
    """
    found = {"own": OWN}
    if REAL.exists() or os.environ.get("CI") == "true":
        found["real"] = REAL
    return found


def read(file: Path) -> list[dict[str, Any]]:
    """Return the conversations of a file, one of each line."""
    # Not splitlines(): the messages have line separators of Unicode in them.
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
