"""Processes that copy a database until they are killed: ``python copying.py`` reads jobs.

One process imports the package, the slowest part, and forks for each job. It kills its child with SIGKILL at
a random moment after a given write to the target has begun, and before the next one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sessions.administration import AsyncAdmin
from sessions.cli import copying
from tests.support.children import child
from tests.support.databases import Backend
from tests.support.programs import Started

# Small, so that a copy of few sessions has many writes.
PAGE = BATCH_MESSAGES = 5
MAX_SECONDS = 0.02


class Copying:
    """Copies in processes of their own."""

    def __init__(self, process: Started) -> None:
        self._process = process

    def copy(self, source: Backend, target: Backend, *, dies_in: int | None) -> bool:
        """Copy, and return whether the process was killed.

        Args:
            source: Where to read.
            target: Where to write.
            dies_in: The process is killed during or after this write, counted from 0; None for never.
        """
        job = {"source": asdict(source), "target": asdict(target), "dies_in": dies_in}
        print(json.dumps(job), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        assert status in (0, -signal.SIGKILL)
        return status != 0


@contextmanager
def copies() -> Iterator[Copying]:
    """Start the process that forks the other ones."""
    with child(__name__) as process:
        yield Copying(process)


# -- In their processes ----------------------------------------------------------------------------


async def _copy(job: dict[str, Any], ready: int) -> None:
    copying.PAGE, copying.BATCH_MESSAGES = PAGE, BATCH_MESSAGES
    source, target = (Backend(**job[name]) for name in ("source", "target"))
    writes = 0

    def counting(call: Any) -> Any:
        async def write(*arguments: Any, **options: Any) -> Any:
            nonlocal writes
            dies_in, writes = job["dies_in"], writes + 1
            if dies_in is not None and writes == dies_in + 1:
                os.write(ready, b"!")
            elif dies_in is not None and writes > dies_in + 1:
                signal.pause()  # The end is near.
            return await call(*arguments, **options)

        return write

    async with source.repository() as read, target.repository() as written:
        # The source's are not called.
        for name in ("restore", "restore_many"):
            setattr(AsyncAdmin, name, counting(getattr(AsyncAdmin, name)))
        written.delete_messages = counting(written.delete_messages)
        work = copying.Copy(
            read, written, prunes=True, milliseconds=True, report=print, advance=lambda *_: None
        )
        await work.run()
        assert work.totals.failed == 0


def _serve() -> None:
    for line in sys.stdin:
        can_read, can_write = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(can_read)
            sys.stdout = sys.stderr
            asyncio.run(_copy(json.loads(line), can_write))
            os._exit(0)
        os.close(can_write)
        if os.read(can_read, 1):
            time.sleep(random.uniform(0, MAX_SECONDS))
            os.kill(process, signal.SIGKILL)
        os.close(can_read)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    # The modules that each job needs, loaded once; nothing connects yet.
    import sessions.repositories.mongo_session_repository
    import sessions.repositories.postgres_session_repository
    import sessions.repositories.sqlite_session_repository  # noqa: F401

    _serve()
