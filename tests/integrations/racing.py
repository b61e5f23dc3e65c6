"""Processes that use a framework's store at the same time; run as a program, it forks for each job.

Work is an async function of a test's module, named as ``"package.module:function"``. It takes a repository
and the arguments of its job, and returns what JSON can express.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytest

from tests.support.children import child, load_package
from tests.support.databases import Backend
from tests.support.programs import Started

START_SECONDS = 120
# How often the processes meet.
ROUNDS = pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.full_size)])


def keeps_batches_together(backend: Backend) -> bool:
    """Return whether no message of another process comes between those of one append.

    On MongoDB the order is that of the clock, in microseconds.
    """
    return backend.repository_type != "mongodb"


class Race:
    """Runs jobs in processes that start together."""

    def __init__(self, process: Started) -> None:
        self._process = process

    def run(self, backend: Backend, work: str, *jobs: dict[str, Any], times: int = 1) -> list[list[Any]]:
        """Run each job in a process of its own, again and again; return the results of each round.

        Args:
            backend: The database they meet in.
            work: ``"package.module:function"``; it is called with a repository, the number of the round as
                ``number``, and the job.
            *jobs: Arguments.
            times: Rounds; all processes begin each of them together.
        """
        print(json.dumps([asdict(backend), work, jobs, times]), file=self._process.stdin, flush=True)
        results = json.loads(self._process.stdout.readline())
        for result in results:
            assert "error" not in result, result["error"]
        return [list(each) for each in zip(*(result["rounds"] for result in results), strict=True)]


@contextmanager
def racing(*modules: str) -> Iterator[Race]:
    """Start the process that forks the others.

    Args:
        *modules: To import before, which takes the longest.
    """
    with child(__name__) as process:
        print(json.dumps(modules), file=process.stdin, flush=True)
        yield Race(process)


async def _rounds(backend: Backend, work: str, barrier: Any, job: dict[str, Any], times: int) -> list[Any]:
    module, _, name = work.partition(":")
    function = getattr(importlib.import_module(module), name)
    results = []
    async with backend.repository() as repository:
        await repository.ensure_ready()
        for number in range(times):
            await asyncio.to_thread(barrier.wait, START_SECONDS)
            results.append(await function(repository, number=number, **job))
    return results


def _child(
    backend: Backend, work: str, barrier: Any, results: Any, place: int, job: dict[str, Any], times: int
) -> None:
    try:
        result: dict[str, Any] = {"rounds": asyncio.run(_rounds(backend, work, barrier, job, times))}
    except BaseException as error:
        barrier.abort()
        result = {"error": f"{type(error).__name__}: {error}"}
    results.put((place, result))


def _serve() -> None:
    load_package()
    for module in json.loads(sys.stdin.readline()):
        importlib.import_module(module)
    context = multiprocessing.get_context("fork")
    for line in sys.stdin:
        backend, work, jobs, times = json.loads(line)
        barrier, results = context.Barrier(len(jobs)), context.SimpleQueue()
        children = [
            context.Process(
                target=_child, args=(Backend(**backend), work, barrier, results, place, job, times)
            )
            for place, job in enumerate(jobs)
        ]
        for each in children:
            each.start()
        found = dict(results.get() for _ in children)
        for each in children:
            each.join()
        print(json.dumps([found[place] for place in range(len(jobs))]), flush=True)


if __name__ == "__main__":
    _serve()
