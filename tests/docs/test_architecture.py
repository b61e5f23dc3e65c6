"""Operations take the way from a call to the driver that the manual's page on the architecture draws."""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import sessions
from tests.support.documents import DOCS

PACKAGE = Path(sessions.__file__).parent
DRIVERS = re.compile(r"/site-packages/(asyncpg|aiosqlite|pymongo|motor|redis)/")
# What a call passes through on its way to the driver: at most four rooms. A new module that is none of these
# makes the way longer.
ROOMS = {
    "operations": r"core/operations/|core/appending|chats/|repositories/",
    "calls": r"core/calls|core/group_commit|core/port|resilience",
    "connections": r"core/(loops|steps|turns|shared_work)|connections/"
    r"|backends/sql/(engine|schema|sync_calls|transaction)"
    r"|backends/\w+/(connection|pool|connector|driver|setup|files|client|collections)\b",
    "backend": r"backends/",
}
# The headings that show the way of a backend, the most specific first.
HEADINGS = {
    "postgres": ["PostgreSQL", "PostgreSQL and SQLite"],
    "sqlite": ["SQLite", "PostgreSQL and SQLite"],
    "mongodb-replica-set": ["MongoDB, replica set or sharded cluster", "MongoDB"],
    "mongodb-standalone": ["MongoDB, standalone", "MongoDB"],
    "redis": ["Redis"],
}


def drawn(operation: str, backend: str) -> list[tuple[str, str]]:
    """Return the functions, and their files, that the page draws for an operation on a backend."""
    text = (DOCS / "architecture.md").read_text("utf-8")
    section = text.partition(f"\n## {operation}\n")[2].partition("\n## ")[0]
    parts = dict(part.split("\n", 1) for part in section.split("\n### ")[1:])
    shown = next(parts[heading] for heading in HEADINGS[backend] if heading in parts)
    found = re.findall(r"(\w+)\(.*\) +(sessions/\S+)", shown)
    assert len(found) >= 3
    return found


def room(module: str) -> str:
    return next(name for name, pattern in ROOMS.items() if re.match(pattern, module))


async def traced(call: Callable[[], Awaitable[Any]]) -> tuple[list[tuple[str, str]], set[str]]:
    """Return the functions of the package that a call calls, and the modules between it and the driver."""
    functions: list[tuple[str, str]] = []
    between: set[str] = set()

    def see(frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            functions.append((frame.f_code.co_name, f"sessions/{file.relative_to(PACKAGE).as_posix()}"))
        elif DRIVERS.search(str(file)):
            caller = frame.f_back
            while caller is not None:
                file = Path(caller.f_code.co_filename)
                if file.is_relative_to(PACKAGE):
                    between.add(file.relative_to(PACKAGE).as_posix())
                caller = caller.f_back

    sys.setprofile(see)
    try:
        await call()
    finally:
        sys.setprofile(None)
    return functions, between


@pytest.mark.parametrize("operation", ["add_message", "get_session_history", "delete_session"])
async def test_an_operation_takes_the_way_that_is_drawn(
    operation: str, backend: Any, repository: Any
) -> None:
    chats = repository.chats
    session_id = await chats.create_session("alice")
    arguments = ("user", "Hello") if operation == "add_message" else ()
    if operation != "delete_session":  # Readied by a first call.
        await getattr(chats, operation)("alice", session_id, *arguments)

    functions, between = await traced(lambda: getattr(chats, operation)("alice", session_id, *arguments))

    assert between
    assert {room(module) for module in between} <= ROOMS.keys()
    rest = iter(functions)
    for function in drawn(operation, backend.name):
        assert function in rest, f"{function} is not called, or not in the order drawn"
