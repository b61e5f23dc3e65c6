"""A process whose tasks write while a test breaks the server: ``python writers.py`` reads one job.

It writes until it reads the line ``stop``, then prints each call and its outcome; after any other line it
prints the time of its last successful call, and how many deletes have succeeded. The times are monotonic, and
so comparable with those of the test.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from sessions import RetryConfig
from tests.faults.breakable import wait_until
from tests.support.children import child
from tests.support.databases import Backend
from tests.support.programs import Started

USER = "writer"
PAUSE_SECONDS = 0.01
STOP_SECONDS = 120
# Larger than one atomic insert of MongoDB.
LARGE_BATCH = 80


@dataclass
class Call:
    """One call of the package.

    Attributes:
        caller: Number of the task.
        operation: Its async name.
        session_id: Its session.
        contents: The messages to add.
        result: Its result; None if it raised.
        error: Class of its error; empty if it returned.
        end: Monotonic time at which it ended.
    """

    caller: int
    operation: str
    session_id: str
    contents: list[str] = field(default_factory=list)
    result: Any = None
    error: str = ""
    start: float = 0.0
    end: float = 0.0


class Writers:
    """The running process."""

    def __init__(self, process: Started) -> None:
        self._process = process

    def wait_until_they_write(self) -> None:
        """Wait until each task has made its first call."""
        assert self._process.stdout.readline() == "writing\n"

    def wait_until_served(self, after: float, deletes: int) -> None:
        """Wait until a call has succeeded after a time, and until a number of deletes have succeeded."""

        def is_served() -> bool:
            print("served?", file=self._process.stdin, flush=True)
            served, deleted = json.loads(self._process.stdout.readline())
            return bool(served > after and deleted >= deletes)

        wait_until(is_served, lambda: "no call was served", STOP_SECONDS)

    def stop(self) -> list[Call]:
        """Wait for the calls in progress, and return all calls, in order for each caller."""
        print("stop", file=self._process.stdin, flush=True)
        output = self._process.stdout.read()
        assert self._process.wait(STOP_SECONDS) == 0
        return [Call(**call) for call in json.loads(output)]


@contextmanager
def writers(
    backend: Backend,
    *,
    callers: int = 16,
    churners: int = 4,
    sync: bool = False,
    retry: dict[str, float] | None = None,
    pause: float = PAUSE_SECONDS,
) -> Iterator[Writers]:
    """Start a process that writes.

    Args:
        backend: The database, with the options of its repository.
        callers: Tasks that append numbered messages, each to a session of its own.
        churners: Tasks that create, fill, change and delete sessions.
        sync: Whether they call the blocking operations from threads.
        retry: Arguments of their `RetryConfig`; None for the default one.
        pause: Seconds that a task waits between two calls.
    """
    job = {"backend": asdict(backend), "callers": callers, "churners": churners, "sync": sync}
    job |= {"retry": retry, "pause": pause}
    with child(__name__) as process:
        print(json.dumps(job), file=process.stdin, flush=True)
        yield Writers(process)


# -- In the process --------------------------------------------------------------------------------


class Caller:
    """Calls a repository and records the calls."""

    def __init__(self, repository: Any, sync: bool, threads: ThreadPoolExecutor, pause: float) -> None:
        self._repository = repository
        self._sync = sync
        self._pause = pause
        self._threads = threads
        self.calls: list[Call] = []
        self.stopping = False
        self.served, self.deleted = 0.0, 0

    async def call(self, call: Call, *arguments: Any) -> Any:
        """Make a call, record its outcome, and return its result, or None if it failed."""
        call.start = time.monotonic()
        try:
            call.result = await self._invoke(call.operation, arguments)
        except Exception as error:
            call.error = type(error).__name__
        call.end = time.monotonic()
        if not call.error:
            self.served = call.end
            self.deleted += call.operation == "delete_session_async"
        self.calls.append(call)
        await asyncio.sleep(self._pause)
        return call.result

    async def _invoke(self, operation: str, arguments: tuple[Any, ...]) -> Any:
        if not self._sync:
            return await getattr(self._repository, operation)(*arguments)
        blocking = operation.removesuffix("_async") if operation.endswith("_async") else f"{operation}_sync"
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, getattr(self._repository, blocking), *arguments)

    async def append(self, number: int) -> None:
        """Append numbered messages to one session, sometimes several at once."""
        session_id = str(uuid.UUID(int=number))
        choice, sent = random.Random(number), 0
        while not self.stopping:
            size = choice.choice((1,) * 12 + (3, 3, LARGE_BATCH))
            contents = [str(sent + index) for index in range(size)]
            sent += size
            messages = [("user", content) for content in contents]
            if size == 1:
                await self.call(Call(number, "add_message", session_id, contents), session_id, *messages[0])
            else:
                await self.call(Call(number, "add_messages", session_id, contents), session_id, messages)

    async def churn(self, number: int) -> None:
        """Create sessions, and fill, update and delete most of them; no other caller uses them."""
        choice = random.Random(number)
        while not self.stopping:
            session_id = str(uuid.UUID(int=choice.getrandbits(128), version=4))
            created = Call(number, "ensure_session_exists", session_id)
            if await self.call(created, session_id, USER) is None:
                continue
            contents = [f"{index}" for index in range(choice.choice((1, 3, LARGE_BATCH)))]
            batch = Call(number, "add_messages", session_id, contents)
            await self.call(batch, session_id, [("user", content) for content in contents])
            update = Call(number, "update_session_async", session_id)
            await self.call(update, USER, session_id, {"title": "changed"})
            if choice.random() < 0.8:
                await self.call(Call(number, "delete_session_async", session_id), USER, session_id)


async def _work(
    backend: Backend, callers: int, churners: int, sync: bool, retry: RetryConfig | None, pause: float
) -> list[Call]:
    threads = ThreadPoolExecutor(callers + churners)
    async with backend.repository(retry=retry) as repository:
        caller = Caller(repository, sync, threads, pause)
        for number in range(callers):
            call = Call(number, "ensure_session_exists", str(uuid.UUID(int=number)))
            assert await caller.call(call, call.session_id, USER) is True, call
        print("writing", flush=True)
        tasks = [
            *(caller.append(number) for number in range(callers)),
            *(caller.churn(number) for number in range(callers, callers + churners)),
        ]
        writing = asyncio.gather(*tasks)
        while await asyncio.to_thread(sys.stdin.readline) not in ("stop\n", ""):
            print(json.dumps([caller.served, caller.deleted]), flush=True)
        caller.stopping = True
        await writing
        return caller.calls


def _main() -> None:
    job = json.loads(sys.stdin.readline())
    job["backend"] = Backend(**job["backend"])
    job["retry"] = job["retry"] and RetryConfig(**job["retry"])
    calls = asyncio.run(_work(**job))
    print(json.dumps([asdict(call) for call in calls]))


if __name__ == "__main__":
    _main()
