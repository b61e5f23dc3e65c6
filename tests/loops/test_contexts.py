"""``with`` and ``async with`` blocks are counted for each database; the last one closes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.loops.shapes import Counter, settled
from tests.support.databases import Backend


async def test_inner_contexts_leave_the_connections_open_and_the_last_closes(
    shape: tuple[Backend, Counter],
) -> None:
    backend, count = shape
    async with backend.repository() as outer:
        session_id = await outer.create_session_async("user")
        for _ in range(3):
            async with backend.repository() as request:
                await request.add_message(session_id, "user", "text")
            assert count() > 0
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(use(backend, session_id))
        assert count() > 0
        assert len(await outer.get_session_history("user", session_id)) == 8
    assert settled(count, 0) == 0


async def use(backend: Backend, session_id: str) -> None:
    async with backend.repository() as request:
        await request.add_message(session_id, "user", "text")


def test_blocking_contexts_are_counted_with_the_others(shape: tuple[Backend, Counter]) -> None:
    backend, count = shape
    with backend.repository() as outer:
        session_id = outer.create_session("user", None)

        def request() -> None:
            with backend.repository() as inner:
                inner.add_message_sync(session_id, "user", "text")

        threads = [threading.Thread(target=request) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert count() > 0
    assert settled(count, 0) == 0


async def test_an_explicit_close_closes_at_once_inside_of_contexts(shape: tuple[Backend, Counter]) -> None:
    backend, count = shape
    async with backend.repository() as outer, backend.repository() as inner:
        await outer.create_session_async("user")
        await inner.aclose()
        assert settled(count, 0) == 0
        assert await outer.count_sessions("user") == 1
    assert settled(count, 0) == 0


async def test_a_context_that_fails_is_counted(shape: tuple[Backend, Counter]) -> None:
    backend, count = shape

    async def fail() -> None:
        async with backend.repository() as repository:
            await repository.create_session_async("user")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert settled(count, 0) == 0


async def test_a_cancellation_while_the_last_context_closes_loses_no_count(
    shape: tuple[Backend, Counter],
) -> None:
    backend, count = shape

    async def serve(ready: asyncio.Event) -> None:
        async with backend.repository() as repository:
            await repository.create_session_async("user")
            ready.set()

    for turns in range(8):
        ready = asyncio.Event()
        task = asyncio.ensure_future(serve(ready))
        await ready.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert await asyncio.to_thread(settled, count, 0) == 0
    manager: Any = backend.repository()._connection_manager
    assert manager._contexts == 0
