"""Runs a peer in an environment of its own, where this package is not installed; see `benchmarks.others`.

Reads a request a line, ``[operation, arguments, calls]``, and answers each with the seconds that every call
took, or with the result where ``calls`` is 0.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import sys
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


async def main(path: str, url: str, content: str) -> None:
    spec = importlib.util.spec_from_file_location("peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer = module.Peer(content)
    await call(peer.open, [url])
    answers = sys.stdout
    sys.stdout = sys.stderr  # What a peer prints is no answer.
    for line in sys.stdin:
        operation, arguments, calls = json.loads(line)
        function = version if operation == "version" else getattr(peer, operation)
        answer = await (timed(function, arguments, calls) if calls else call(function, arguments))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    await call(peer.close, [])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
