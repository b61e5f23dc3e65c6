"""Compares the package with alternatives, each in its newest version and its own environment."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import uuid
import venv
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pymongo

from benchmarks.chosen import CHOSEN
from benchmarks.contenders import CONTENT, USER, Ours, RawBlockingPyMongo
from benchmarks.ratios import DATABASE as OUR_DATABASE
from benchmarks.ratios import LISTED_USER, filled_session
from benchmarks.tables import milliseconds, table
from benchmarks.timing import Batch, Effort, rounds_of, timed_awaits, timed_in_thread, timed_together
from benchmarks.workers import PEERS, Peer, Worker

__all__ = ["against_peers", "prepare"]

PACKAGE = Path(__file__).parents[1]
DATABASE = "peers"
# If the peer does less work for a call, ours may take longer by this factor.
ALLOWED_WHERE_LESS = 1.3
HEAD = ("peer", "operation", "ours", "peer's", "ratio", "target", "the peer does less")
ADAPTER = ", with our adapter"


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
            if peer.adapter:
                extras = "uvloop,redis" if peer.backend == "redis" else "uvloop"
                command += ["-e", f"{PACKAGE}[{extras}]"]
            subprocess.run(command, check=True, stdout=sys.stderr)
            interpreters[peer.name] = python
    return interpreters


async def against_peers(backend: str, url: str, interpreters: dict[str, Path], effort: Effort) -> str:
    """Return the table of one backend."""
    ours_url, theirs = await _databases(backend, url)
    ours = Ours(backend, ours_url)
    for _ in range(20):
        await ours.create(LISTED_USER)
    rows = []
    for peer in CHOSEN:
        if peer.backend == backend:
            worker = await Worker.start(interpreters[peer.name], peer, theirs)
            if peer.alone:
                rows += await _measure(ours, peer, worker, effort)
            if peer.adapter:
                adapter = await Worker.start(interpreters[peer.name], peer, ours_url, adapter=True)
                rows += await _measure_adapter(peer, worker, adapter, effort)
                await adapter.stop()
            await worker.stop()
    if backend == "mongodb":
        rows.append(await _measure_driver(ours, url, effort))
    await ours.close()
    return table(HEAD, rows)


async def _databases(backend: str, url: str) -> tuple[str, str]:
    """Return the URLs of our database and of the peers', on the same server or disk."""
    if backend == "postgres":
        connection = await asyncpg.connect(url)
        await connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
        await connection.execute(f"CREATE DATABASE {DATABASE}")
        await connection.close()
        return url, urlunsplit(urlsplit(url)._replace(path=f"/{DATABASE}"))
    if backend == "sqlite":
        return url, f"{url.removesuffix('.db')}-{DATABASE}.db"
    # A peer names its own database of MongoDB.
    return (f"{url}/0", f"{url}/1") if backend == "redis" else (url, url)


async def _measure(ours: Ours, peer: Peer, worker: Worker, effort: Effort) -> list[tuple[str, ...]]:
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


async def _measure_adapter(
    peer: Peer, worker: Worker, adapter: Worker, effort: Effort
) -> list[tuple[str, ...]]:
    """Measure this package's store for the peer's framework, which makes the framework's own messages."""
    rows = []
    measured = [("append", 1, 1), ("turn", 1, 1), ("history of 100", 100, 1), ("history of 1,000", 1000, 10)]
    for shown, size, longer in measured:
        if shown == "turn" and shown not in adapter.operations:
            continue
        operation, session_id = shown.split()[0], str(uuid.uuid4())
        for each in (worker, adapter):
            await each.ask("fill", [session_id, size], 0)
            assert await each.ask("history", [session_id], 0) == size
        contenders: dict[str, Batch] = {
            name: lambda calls, each=each, operation=operation, session_id=session_id: each.ask(  # type: ignore[misc]
                operation, [session_id], calls
            )
            for name, each in (("ours", adapter), ("peer", worker))
        }
        seconds = await rounds_of(contenders, effort.divided(longer))
        rows.append(_row(peer, worker.version, shown, peer.less.get(operation, ""), seconds, adapter=True))
    return rows


async def _measure_together(ours: Ours, peer: Peer, worker: Worker, effort: Effort) -> tuple[str, ...]:
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


def _row(
    peer: Peer, version: str, shown: str, less: str, seconds: dict[str, float], *, adapter: bool = False
) -> tuple[str, ...]:
    ratio = seconds["ours"] / seconds["peer"]
    may_take_longer = bool(less) and not adapter
    allowed = math.inf if peer.in_memory else ALLOWED_WHERE_LESS if may_take_longer else 1.0
    names = {
        "append": "append one message",
        "turn": "append a question with its answer",
        "append, many": "append, 32 callers at once, time for each append",
        "page": "list of 20 sessions",
        "create": "create a session",
    }
    return (
        f"{version} `{peer.title}`",
        names.get(shown, shown) + (", blocking" if peer.blocking else "") + (ADAPTER if adapter else ""),
        *(milliseconds(seconds[name]) for name in ("ours", "peer")),
        f"{ratio:.2f}" if ratio <= allowed else f"**{ratio:.2f}**",
        "none" if peer.in_memory else f"≤ {allowed}" if may_take_longer else "< 1",
        less,
    )
