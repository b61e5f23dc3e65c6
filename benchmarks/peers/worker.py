"""Runs a peer, or this package's adapter beside it, in the peer's own environment; see `benchmarks.others`.

Reads a request a line, ``[operation, arguments, calls, callers]``, and answers each with the seconds that
every call took, or with the result where ``calls`` is 0. With several callers at once, each has its own
argument, and the answer is the seconds for a call: the duration of all, divided by their number. The request
``operations`` is answered with the names of all.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from time import perf_counter
from typing import Any


async def call(function: Any, arguments: list[Any]) -> Any:
    result = function(*arguments)
    return await result if inspect.isawaitable(result) else result


async def timed(function: Any, arguments: list[Any], calls: int) -> list[float]:
    seconds = []
    if not inspect.iscoroutinefunction(function):
        for _ in range(calls):
            started = perf_counter()
            function(*arguments)
            seconds.append(perf_counter() - started)
        return seconds
    for _ in range(calls):
        started = perf_counter()
        await function(*arguments)
        seconds.append(perf_counter() - started)
    return seconds


async def timed_together(function: Any, arguments: list[Any], calls: int) -> list[float]:
    callers = len(arguments)
    if not inspect.iscoroutinefunction(function):

        def blocking(argument: Any) -> None:
            for _ in range(calls):
                function(argument)

        with ThreadPoolExecutor(callers) as threads:
            started = perf_counter()
            list(threads.map(blocking, arguments))
            return [(perf_counter() - started) / calls / callers]

    async def caller(argument: Any) -> None:
        for _ in range(calls):
            await function(argument)

    started = perf_counter()
    await asyncio.gather(*map(caller, arguments))
    return [(perf_counter() - started) / calls / callers]


async def main(path: str, url: str, content: str) -> None:
    spec = importlib.util.spec_from_file_location("peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer = module.Peer(content)
    await call(peer.open, [url])
    own = {"version": version, "operations": lambda: [name for name in dir(peer) if not name.startswith("_")]}
    answers = sys.stdout
    sys.stdout = sys.stderr  # What a peer prints is no answer.
    for line in sys.stdin:
        operation, arguments, calls, callers = json.loads(line)
        function = own.get(operation) or getattr(peer, operation)
        time = timed_together if callers > 1 else timed
        answer = await (time(function, arguments, calls) if calls else call(function, arguments))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    await call(peer.close, [])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
