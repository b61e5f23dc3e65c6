"""Processes that kill themselves between two commands to MongoDB: ``python -m`` reads jobs.

One process imports the package, the slowest part, and forks for each job.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pymongo import monitoring

from sessions import NewMessage
from sessions.cli.exported_lines import parse_exported_line
from tests.support.children import child, load_package
from tests.support.databases import Backend
from tests.support.programs import Started

# More than any operation has.
MAX_STEPS = 60
# How long an operation may take, after which a clean-up takes it for ended.
MAX_OPERATION_TIME = "sessions.backends.mongodb.cleanup.MAX_OPERATION_TIME"


class Dying:
    """Runs operations in processes that are killed before the operations are complete."""

    def __init__(self, process: Started) -> None:
        self._process = process

    def start(
        self, backend: Backend, operation: str, *arguments: Any, step: int | None = None, **options: Any
    ) -> int:
        """Start an operation in a new process and return its id.

        Args:
            backend: The database.
            operation: Its async name; ``restore`` is that of ``admin``.
            *arguments: Its arguments, as JSON values; an object in a list is a message. For ``restore``, a
                line of an export.
            step: The process kills itself before it sends this command of the operation; counts from 0.
            **options: Its keyword arguments, as JSON values.
        """
        job = {"backend": asdict(backend), "operation": operation, "arguments": arguments, "step": step}
        job["options"] = options
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def was_killed(self) -> bool:
        """Wait for the process and return whether it was killed before the operation was complete."""
        status = int(self._process.stdout.readline())
        assert status in (0, -signal.SIGKILL)
        return status != 0


@contextmanager
def dying() -> Iterator[Dying]:
    """Start the process that forks the other ones."""
    with child(__name__) as process:
        yield Dying(process)


# -- In their processes ----------------------------------------------------------------------------


class _Killer(monitoring.CommandListener):
    """Kills the process before the n-th command is sent."""

    def __init__(self) -> None:
        self.left: int | None = None

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.left is not None:
            self.left -= 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


async def _operate(job: dict[str, Any], killer: _Killer) -> None:
    async with Backend(**job["backend"]).repository() as repository:
        await repository._ensure_connection()
        options = {name: _argument(value) for name, value in job["options"].items()}
        killer.left = job["step"]
        if job["operation"] == "restore":
            await repository.admin.restore(*parse_exported_line(job["arguments"][0].encode()))
        else:
            await getattr(repository, job["operation"])(*map(_argument, job["arguments"]), **options)
        killer.left = None


def _argument(value: Any) -> Any:
    """Return an argument, with objects as messages."""
    if isinstance(value, list):
        return [NewMessage(**item) if isinstance(item, dict) else item for item in value]
    return value


def _serve() -> None:
    killer = _Killer()
    monitoring.register(killer)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(_operate(json.loads(line), killer))
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    load_package()
    _serve()
