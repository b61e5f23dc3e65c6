"""Compares the package with alternatives, each in its newest version and its own environment."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import uuid
import venv
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pymongo

from benchmarks.contenders import CONTENT, USER, Ours, RawBlockingPyMongo
from benchmarks.ratios import DATABASE as OUR_DATABASE
from benchmarks.ratios import LISTED_USER, filled_session
from benchmarks.tables import milliseconds, table
from benchmarks.timing import Batch, Effort, rounds_of, timed_awaits, timed_in_thread, timed_together

__all__ = ["against_peers", "prepare"]

PEERS = Path(__file__).parent / "peers"
DATABASE = "peers"
# If the peer does less work for a call, ours may take longer by this factor.
ALLOWED_WHERE_LESS = 1.3
HEAD = ("peer", "operation", "ours", "peer's", "ratio", "target", "the peer does less")


@dataclass(frozen=True)
class Peer:
    """An alternative package.

    Attributes:
        name: Folder under ``peers/``.
        title: Name of its class in the table.
        backend: Our backend to compare with.
        less: Work that it does not do, by operation; any other operation does the same as ours.
        blocking: Whether it has only blocking calls; they are compared with our blocking twins.
    """

    name: str
    title: str
    backend: str
    less: dict[str, str]
    blocking: bool = False


NO_OWNER = "no owner check"
CHOSEN = (
    Peer("openai_agents_sqlalchemy", "SQLAlchemySession", "postgres", {"history": NO_OWNER}),
    Peer("google_adk", "DatabaseSessionService", "postgres", {}),
    Peer(
        "langchain_postgres",
        "PostgresChatMessageHistory",
        "postgres",
        {
            "append": "no session to bump, one fixed connection",
            "history": f"{NO_OWNER}, one fixed connection",
        },
    ),
    Peer(
        "llama_index_postgres",
        "PostgresChatStore",
        "postgres",
        {"append": "no session to bump; one row holds all messages", "history": f"{NO_OWNER}; one row"},
    ),
    Peer("openai_agents_mongodb", "MongoDBSession", "mongodb", {"history": NO_OWNER}),
    Peer(
        "langchain_mongodb",
        "MongoDBChatMessageHistory",
        "mongodb",
        {"append": "no session to bump: one write of our two", "history": NO_OWNER},
        blocking=True,
    ),
)


def prepare(backends: list[str], folder: Path) -> dict[str, Path]:
    """Make or renew the peers' environments and return their interpreters."""
    interpreters = {}
    for peer in CHOSEN:
        if peer.backend in backends:
            home = folder / peer.name
            python = home / "bin" / "python"
            if not python.exists():
                venv.create(home, with_pip=True)
            installer = ["uv", "pip", "install", "--python", python]
            if shutil.which("uv") is None:
                installer = [python, "-m", "pip", "install"]
            requirements = PEERS / peer.name / "requirements.txt"
            command = [*installer, "--quiet", "--upgrade", "-r", requirements]
            subprocess.run(command, check=True, stdout=sys.stderr)
            interpreters[peer.name] = python
    return interpreters


async def against_peers(backend: str, url: str, interpreters: dict[str, Path], effort: Effort) -> str:
    """Return the table of one backend."""
    theirs = url
    if backend == "postgres":
        connection = await asyncpg.connect(url)
        await connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        await connection.execute(f"CREATE DATABASE {DATABASE}")
        await connection.close()
        theirs = urlunsplit(urlsplit(url)._replace(path=f"/{DATABASE}"))
    ours = Ours(backend, url)
    for _ in range(20):
        await ours.create(LISTED_USER)
    rows = []
    for peer in CHOSEN:
        if peer.backend == backend:
            worker = await _Worker.start(interpreters[peer.name], peer, theirs)
            rows += await _measure(ours, peer, worker, effort)
            await worker.stop()
    if backend == "mongodb":
        rows.append(await _measure_driver(ours, url, effort))
    await ours.close()
    return table(HEAD, rows)


async def _measure(ours: Ours, peer: Peer, worker: _Worker, effort: Effort) -> list[tuple[str, ...]]:
    repository = ours.repository
    mine, its = await ours.create(), str(uuid.uuid4())
    # Operation, the peer's arguments, our awaited call, our blocking one, how much longer it takes.
    measured: list[tuple[str, list[Any], Callable[[], Awaitable[object]], Callable[[], object], int]] = [
        (
            "append",
            [its],
            lambda: ours.append(mine),
            lambda: repository.add_message_sync(mine, "user", CONTENT),
            1,
        )
    ]
    for size in (100, 1000):
        filled, its_filled = await filled_session(ours, size), str(uuid.uuid4())
        await worker.ask("fill", [its_filled, size], 0)
        assert await worker.ask("history", [its_filled], 0) == size
        measured.append(
            (
                f"history of {size:,}",
                [its_filled],
                lambda filled=filled: ours.history(filled),  # type: ignore[misc]
                lambda filled=filled: repository.get_session_history_sync(USER, filled),  # type: ignore[misc]
                size // 100,
            )
        )
    for operation, call in (("page", lambda: ours.page(LISTED_USER)), ("create", ours.create)):
        if operation in worker.operations:
            measured.append((operation, [], call, lambda: None, 1))
    rows = [await _measure_together(ours, peer, worker, effort)]
    for shown, arguments, awaited, blocking, longer in measured:
        operation = shown.split()[0]
        contenders: dict[str, Batch] = {
            "ours": timed_in_thread(blocking) if peer.blocking else timed_awaits(awaited),
            "peer": lambda calls, operation=operation, arguments=arguments: worker.ask(  # type: ignore[misc]
                operation, arguments, calls
            ),
        }
        seconds = await rounds_of(contenders, effort.divided(longer))
        rows.append(_row(peer, worker.version, shown, peer.less.get(operation, ""), seconds))
    return rows


async def _measure_together(ours: Ours, peer: Peer, worker: _Worker, effort: Effort) -> tuple[str, ...]:
    """Measure appends of many callers at once, each to a session of its own."""
    callers = range(effort.callers)
    mine, its = [await ours.create() for _ in callers], [str(uuid.uuid4()) for _ in callers]
    append = timed_together(ours, mine, blocking=peer.blocking)
    contenders: dict[str, Batch] = {
        "ours": append,
        "peer": lambda calls: worker.ask("append", its, calls, len(its)),
    }
    seconds = await rounds_of(contenders, effort.divided(10))
    return _row(peer, worker.version, "append, many", peer.less.get("append", ""), seconds)


async def _measure_driver(ours: Ours, url: str, effort: Effort) -> tuple[str, ...]:
    """Measure the two writes of an append with the driver alone, to compare with one write of a peer."""
    driver, session_id = RawBlockingPyMongo(url, OUR_DATABASE), await ours.create()
    contenders = {
        "ours": timed_in_thread(lambda: ours.repository.add_message_sync(session_id, "user", CONTENT)),
        "driver": timed_in_thread(lambda: driver.append(session_id)),
    }
    seconds = await rounds_of(contenders, effort)
    driver.close()
    return (
        f"PyMongo {pymongo.version} `MongoClient`",
        "append one message, blocking",
        *(milliseconds(seconds[name]) for name in ("ours", "driver")),
        f"{seconds['ours'] / seconds['driver']:.2f}",
        "",
        "only the two writes",
    )


def _row(peer: Peer, version: str, shown: str, less: str, seconds: dict[str, float]) -> tuple[str, ...]:
    ratio = seconds["ours"] / seconds["peer"]
    allowed = ALLOWED_WHERE_LESS if less else 1.0
    names = {
        "append": "append one message",
        "append, many": "append, 32 callers at once, time for each append",
        "page": "list of 20 sessions",
        "create": "create a session",
    }
    return (
        f"{version} `{peer.title}`",
        names.get(shown, shown) + (", blocking" if peer.blocking else ""),
        *(milliseconds(seconds[name]) for name in ("ours", "peer")),
        f"{ratio:.2f}" if ratio <= allowed else f"**{ratio:.2f}**",
        f"≤ {allowed}" if less else "< 1",
        less,
    )


class _Worker:
    """A process with a peer in its own environment."""

    def __init__(self, process: asyncio.subprocess.Process, version: str, operations: set[str]) -> None:
        self._process = process
        self.version = version
        self.operations = operations

    @classmethod
    async def start(cls, python: Path, peer: Peer, url: str) -> _Worker:
        code = PEERS / peer.name / "peer.py"
        operations = set(re.findall(r"def (\w+)", code.read_text()))
        process = await asyncio.create_subprocess_exec(
            python,
            PEERS / "worker.py",
            code,
            url,
            CONTENT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        requirement = (PEERS / peer.name / "requirements.txt").read_text().split("[")[0].split()[0]
        worker = cls(process, "", operations)
        worker.version = f"{requirement} {await worker.ask('version', [requirement], 0)}"
        return worker

    async def ask(self, operation: str, arguments: list[Any], calls: int, callers: int = 1) -> Any:
        """Have an operation called so many times and return the seconds of each; its result for 0.

        With several callers at once, ``arguments`` has one for each; see ``peers/worker.py``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([operation, arguments, calls, callers]).encode() + b"\n")
        await self._process.stdin.drain()
        if not (answer := await self._process.stdout.readline()):
            raise SystemExit("a peer ended: see what it said above")
        return json.loads(answer)

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
