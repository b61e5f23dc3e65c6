"""The processes of the peers; see `benchmarks.others`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENT

__all__ = ["PEERS", "Peer", "Worker"]

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Peer:
    """An alternative package.

    Attributes:
        name: Folder under ``peers/``.
        title: Name of its class in the table.
        backend: Our backend to compare with.
        less: Work that it does not do, by operation; any other operation does the same as ours.
        adapter: Program under ``peers/adapters/``: this package's store for its framework, which is compared
            with it, too. It runs in the peer's environment, where this package is installed for it.
        blocking: Whether it has only blocking calls; they are compared with our blocking twins.
        alone: Whether to compare the repository itself with it, too.
        in_memory: Whether it has no server, and loses everything with its process.
    """

    name: str
    title: str
    backend: str
    less: dict[str, str]
    adapter: str = ""
    blocking: bool = False
    alone: bool = True
    in_memory: bool = False


class Worker:
    """A process with a peer in its own environment."""

    def __init__(self, process: asyncio.subprocess.Process, version: str, operations: set[str]) -> None:
        self._process = process
        self.version = version
        self.operations = operations

    @classmethod
    async def start(cls, python: Path, peer: Peer, url: str, *, adapter: bool = False) -> Worker:
        code = PEERS / "adapters" / f"{peer.adapter}.py" if adapter else PEERS / peer.name / "peer.py"
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
        worker = cls(process, "", set())
        worker.operations = set(await worker.ask("operations", [], 0))
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
