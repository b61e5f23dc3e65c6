"""The additional memory of an export and of an import: ``python -m benchmarks.memory``.

Each is measured in a separate process, after a run with little data: the peak resident set size of the
process (``VmHWM``, Linux), less the peak before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks import servers
from benchmarks.growth import CONTENT, FILLERS, new_database
from benchmarks.tables import table
from sessions import SessionRepositoryFactory
from sessions.cli.entries import Totals
from sessions.cli.importing import import_lines
from sessions.repositories import AsyncSessionRepository

__all__ = ["measure"]

LIMIT_MEGABYTES = 60
BACKENDS = ("postgres", "mongodb", "sqlite")
USER, NOBODY = "alice", "nobody"
EXPORTED, IMPORTED = 200_000, 100_000
MESSAGES_A_SESSION = 50


def measure(quick: bool) -> str:
    """Start the servers and return a Markdown table of all backends."""
    exported, imported = (EXPORTED // 20, IMPORTED // 20) if quick else (EXPORTED, IMPORTED)
    rows = []
    for backend in BACKENDS:
        with _database(backend) as url, tempfile.TemporaryDirectory() as folder:
            asyncio.run(_fill(backend, url, exported))
            shapes = {"many sessions": MESSAGES_A_SESSION, "one session": imported}
            measured = {f"`export_user`, {exported:,} messages": _in_process("export", backend, url, "")}
            for shape, messages in shapes.items():
                file = Path(folder, "conversations.jsonl")
                _write(file, imported, messages)
                measured[f"`sessions import`, {imported:,} messages in {shape}"] = _in_process(
                    "import", backend, url, str(file)
                )
            rows += [
                [backend, what, f"{megabytes:.1f} MB", f"< {LIMIT_MEGABYTES} MB"]
                for what, megabytes in measured.items()
            ]
    return table(("backend", "", "above the start", "target"), rows)


@contextlib.contextmanager
def _database(backend: str) -> Iterator[str]:
    if backend == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/sessions.db"
        return
    with getattr(servers, backend)() as url:
        yield asyncio.run(new_database(backend, url))


async def _fill(backend: str, url: str, messages: int) -> None:
    """Give `USER` one long session, and as many messages in short ones."""
    async with SessionRepositoryFactory.create_repository(backend, url=url) as repository:
        long = await repository.create_session_async(USER)
        if backend == "sqlite":
            for _ in range(messages // 2 // 1000):
                await repository.add_messages(long, [("user", CONTENT)] * 1000)
        else:
            filler = await FILLERS[backend].of(url)
            await filler.add_messages(long, messages // 2)
            await filler.close()
        for _ in range(messages // 2 // 1000):
            short = await repository.create_session_async(USER)
            await repository.add_messages(short, [("user", CONTENT)] * 1000)


def _write(file: Path, messages: int, in_a_session: int) -> None:
    with file.open("w") as lines:
        for _ in range(messages // in_a_session):
            turns = [{"role": "user", "content": f"{turn} {CONTENT}"} for turn in range(in_a_session)]
            line = {"session_id": str(uuid.uuid4()), "user_id": "imported", "messages": turns}
            lines.write(json.dumps(line) + "\n")


def _in_process(what: str, *arguments: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", "--in-process", what, *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


async def _measured(what: str, backend: str, url: str, file: str) -> float:
    """Run the operation, and return the increase of the peak resident set size in megabytes."""
    async with SessionRepositoryFactory.create_repository(backend, url=url) as repository:
        if what == "export":
            await _export(repository, NOBODY)
        else:
            await _import(repository, [_small_line()])
        _forget_highest()
        before = _resident("VmRSS")
        if what == "export":
            await _export(repository, USER)
        else:
            with _lines_of(file) as lines:
                await _import(repository, lines)
        return (_resident("VmHWM") - before) / 1024


async def _export(repository: AsyncSessionRepository, user_id: str) -> None:
    async for _ in repository.export_user(user_id):
        pass


async def _import(repository: AsyncSessionRepository, lines: Any) -> None:
    def report(fault: str) -> None:
        raise SystemExit(fault)

    def advance(size: int, totals: Totals) -> None: ...

    await import_lines(repository, lines, report=report, advance=advance)


def _small_line() -> bytes:
    turns = [{"role": "user", "content": CONTENT}] * 100
    return json.dumps({"session_id": str(uuid.uuid4()), "user_id": NOBODY, "messages": turns}).encode()


def _lines_of(file: str) -> BinaryIO:
    return Path(file).open("rb")


def _forget_highest() -> None:
    """Reset the peak to the current resident set size."""
    Path("/proc/self/clear_refs").write_text("5")


def _resident(key: str) -> int:
    """Return kilobytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    raise SystemExit("no such line in /proc/self/status")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the rows: to see that it runs")
    parser.add_argument("--in-process", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_process:
        print(asyncio.run(_measured(*options.in_process)))
    else:
        print(measure(options.quick))
