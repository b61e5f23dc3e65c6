"""The duration of ``import sessions``, compared with common modules of the standard library.

Each is timed in new interpreters, in alternation: ``python -m benchmarks.start``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from benchmarks.tables import milliseconds, table

__all__ = ["measure"]

STANDARD = "import dataclasses, enum, datetime, typing"
# The programs, and the upper limit of their ratio to the standard library's.
PROGRAMS = {
    STANDARD: "",
    "import sessions": "≤ 2",
    "from sessions import ChatSession": "",
    "from sessions import SessionRepositoryFactory": "",
}
TIMED = """
from time import perf_counter
started = perf_counter()
{program}
print(perf_counter() - started)
"""


def measure(quick: bool) -> str:
    """Return a Markdown table of medians."""
    seconds: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    for turn in range(5 if quick else 40):
        for program in sorted(PROGRAMS, reverse=bool(turn % 2)):
            seconds[program].append(_seconds(program))
    medians = {program: statistics.median(taken) for program, taken in seconds.items()}
    return table(
        ("", "median", "ratio", "target"),
        [
            [f"`{program}`", milliseconds(median), f"{median / medians[STANDARD]:.2f}", PROGRAMS[program]]
            for program, median in medians.items()
        ],
    )


def _seconds(program: str) -> float:
    # -I: what else is in the folder or the environment does not count.
    command = [sys.executable, "-I", "-c", TIMED.format(program=program)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few interpreters: to see that it runs")
    print(measure(parser.parse_args().quick))
