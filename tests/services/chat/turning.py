"""Processes that answer messages, and may be killed; run as a program, it forks for each job."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sessions import BackendUnavailableError, TurnConflictError
from sessions.services import AgentContext, ChatService
from tests.support.children import child, load_package
from tests.support.databases import Backend
from tests.support.programs import Started

LEASE = 0.5
MAX_UNAVAILABLE = 10


class Turning:
    """Runs jobs in processes that start together."""

    def __init__(self, process: Started) -> None:
        self._process = process

    def run(self, backend: Backend, *jobs: dict[str, Any]) -> list[Any]:
        """Run `answer` with each job in a process of its own; return their results, None of killed ones.

        Args:
            backend: The database.
            *jobs: Arguments; ``kill_after``, in seconds, kills the process.
        """
        try:
            print(json.dumps([asdict(backend), jobs]), file=self._process.stdin, flush=True)
            results: list[Any] = json.loads(self._process.stdout.readline())
        except BaseException:
            # The next test must not read what comes of these jobs.
            self._process.kill()
            raise
        for result in results:
            assert result is None or "error" not in result, result["error"]
        return results


@contextmanager
def turning() -> Iterator[Turning]:
    """Start the process that forks the others."""
    with child(__name__) as process:
        yield Turning(process)


class Counting:
    """Streams how many messages were before, and counts its answers."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked = 0

    async def stream(self, query: str, context: AgentContext) -> AsyncIterator[str]:
        self.asked += 1
        for piece in (f"{query}", " after ", f"{len(context.history)}"):
            await asyncio.sleep(self.seconds / 3)
            yield piece


async def answer(
    backend: Backend,
    *,
    user_id: str,
    messages: list[tuple[str, str | None]],
    session_id: str | None = None,
    on_conflict: Any = "raise",
    seconds: float = 0.006,
) -> dict[str, Any]:
    """Answer messages one after the other, each again after a lost race; return what came of it.

    Also again while the server is not available: MongoDB ends the transaction of a process that was killed
    after a minute, and until then its locks stop the next writer of the session.
    """
    agent, answers, conflicts, unavailable = Counting(seconds), [], 0, 0
    async with backend.repository() as repository:
        service = ChatService(
            agent, repository=repository, on_conflict=on_conflict, history_limit=None, claim_seconds=LEASE
        )
        for message, message_id in messages:
            while True:
                try:
                    result: Any = None
                    async for item in service.stream(message, user_id, session_id, message_id=message_id):
                        result = item
                except TurnConflictError:
                    conflicts += 1
                except BackendUnavailableError:
                    unavailable += 1
                    if unavailable == MAX_UNAVAILABLE:
                        raise
                else:
                    answers.append([result["session_id"], result["message"], result["metadata"]["answer_id"]])
                    break
    counts = {"asked": agent.asked, "conflicts": conflicts, "unavailable": unavailable}
    return counts | {"answers": answers}


def _work(backend: Backend, job: dict[str, Any], results: int) -> None:
    try:
        result = asyncio.run(answer(backend, **job))
    except BaseException:
        result = {"error": traceback.format_exc()}
    os.write(results, json.dumps(result).encode())
    os._exit(0)


def _run(backend: Backend, jobs: list[dict[str, Any]]) -> list[Any]:
    started = []
    for job in jobs:
        kill_after = job.pop("kill_after", None)
        readable, writable = os.pipe()
        pid = os.fork()
        if not pid:
            _work(backend, job, writable)
        os.close(writable)
        started.append((pid, readable, kill_after))
    began = time.monotonic()
    results = []
    for pid, readable, kill_after in started:
        if kill_after is not None:
            time.sleep(max(0.0, began + kill_after - time.monotonic()))
            os.kill(pid, signal.SIGKILL)
        with open(readable, "rb") as results_of:
            text = results_of.read()
        os.waitpid(pid, 0)
        results.append(json.loads(text) if text else None)
    return results


if __name__ == "__main__":
    load_package()
    for line in sys.stdin:
        target, work = json.loads(line)
        print(json.dumps(_run(Backend(**target), work)), flush=True)
