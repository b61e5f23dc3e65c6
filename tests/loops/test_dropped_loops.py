"""Event loops that are never closed: they are collected once unreferenced, with their connections."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from sessions import SessionRepositoryFactory
from tests.faults.breakable import Postgres, running
from tests.loops.shapes import Counter, collected, settled
from tests.support.databases import Backend

# Unclosed resources emit warnings, and dropped tasks of PyMongo log errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _drop_here() -> Iterator[None]:
    """Collect the dropped objects while their warnings are expected, and not in another test."""
    yield
    gc.collect()


def use(repository: Any, times: int) -> list[weakref.ref[asyncio.AbstractEventLoop]]:
    loops = []
    for _ in range(times):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(repository.create_session_async("user"))
        loops.append(weakref.ref(loop))
    return loops


def test_an_unreferenced_loop_is_not_kept_alive(shape: tuple[Backend, Counter]) -> None:
    backend, count = shape
    repository = backend.repository()
    loops = use(repository, 5)
    assert settled(collected(lambda: sum(loop() is not None for loop in loops)), 0) == 0
    assert settled(collected(count), 0) == 0
    assert repository.count_sessions_sync("user") == 5


def test_more_unclosed_loops_than_a_server_has_connections_do_not_exhaust_it() -> None:
    server = Postgres(max_connections="20")
    with running(server):
        repository = SessionRepositoryFactory.create_repository("postgres", url=server.url)
        # However late the garbage collector is.
        gc.disable()
        try:
            use(repository, 40)
        finally:
            gc.enable()
        assert repository.count_sessions_sync("user") == 40
        repository.close()
