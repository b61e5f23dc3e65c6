"""The processes of the peers; see `benchmarks.others`."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENT

__all__ = ["PEERS", "Peer", "Worker"]

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Peer:
    """An alternative package.

    If its folder has an ``adapter.py``, this package's store for its framework is compared with it, too. The
    adapter runs in the peer's environment, where this package is installed for it.

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

    @property
    def adapter(self) -> Path | None:
        """The program of the adapter; None if there is none."""
        path = PEERS / self.name / "adapter.py"
        return path if path.exists() else None


class Worker:
    """A process with a peer in its own environment."""

    def __init__(self, process: asyncio.subprocess.Process, version: str, operations: set[str]) -> None:
        self._process = process
        self.version = version
        self.operations = operations

    @classmethod
    async def start(cls, python: Path, peer: Peer, url: str, code: Path | None = None) -> Worker:
        code = code or PEERS / peer.name / "peer.py"
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
