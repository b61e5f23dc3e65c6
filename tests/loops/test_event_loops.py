"""One repository object with every combination of event loops and threads."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from sessions import ConnectionFactory
from tests.loops.shapes import Counter, collected, settled
from tests.support.databases import Backend

Run = Callable[[Coroutine[Any, Any, Any]], Any]
RUNNERS: dict[str, Run] = {"asyncio": asyncio.run, "uvloop": uvloop.run}
IN_TURN = tuple(RUNNERS.values())
# A pool of one finds every call that would need a second connection while it holds the first.
POOLS = [{}, {"pool_size": 1}]

both_loops = pytest.mark.parametrize("run", RUNNERS.values(), ids=RUNNERS)


def pool_bound(backend: Backend) -> int:
    """Return how many connections one loop may hold; a PyMongo client has monitors besides its pool."""
    return 3 if backend.repository_type == "mongodb" else 1


@pytest.mark.parametrize("runs", [40, pytest.param(150, marks=pytest.mark.full_size)])
def test_each_of_many_runs_succeeds_and_leaves_no_connection(
    shape: tuple[Backend, Counter], runs: int
) -> None:
    backend, count = shape
    repository = backend.repository()
    session_id = asyncio.run(repository.create_session_async("user"))
    counts = []
    for number in range(runs):
        IN_TURN[number % 2](repository.add_message(session_id, "user", str(number)))
        if number % 10 == 9:
            counts.append(settled(count, pool_bound(backend)))
    history = asyncio.run(repository.get_session_history("user", session_id))
    assert [message.content for message in history] == [str(number) for number in range(runs)]
    assert max(counts) <= pool_bound(backend)
    assert settled(count, 0) == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loops_closed_without_closing_their_generators_leave_no_connection(
    shape: tuple[Backend, Counter], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, count = shape
    # aiosqlite's finalizer closes a connection with a future of whichever loop runs. If that loop ends
    # meanwhile, so does the thread, with an error that pytest would keep, with the loop and its connections.
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    repository = backend.repository()
    for new_event_loop in (asyncio.new_event_loop, uvloop.new_event_loop) * 10:
        loop = new_event_loop()
        loop.run_until_complete(repository.create_session_async("user"))
        loop.close()
    del loop
    assert settled(collected(count), 0) == 0
    assert repository.count_sessions_sync("user") == 20


@pytest.mark.parametrize("pool", POOLS, ids=["default-pool", "pool-of-one"])
def test_threads_with_their_own_loops_share_one_repository(
    shape: tuple[Backend, Counter], pool: dict[str, Any]
) -> None:
    backend, count = shape
    options = pool | (
        {"max_overflow": 0} if pool and backend.repository_type in ("postgres", "sqlite") else {}
    )
    repository = backend.repository(**options)

    async def calls(name: str) -> list[str]:
        session_id = await repository.create_session_async(name)
        for number in range(0, 80, 4):
            await asyncio.gather(
                *(repository.add_message(session_id, "user", str(number + i)) for i in range(4))
            )
        return sorted(message.content for message in await repository.get_session_history(name, session_id))

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda number: IN_TURN[number % 2](calls(f"user-{number}")), range(8)))
    assert results == [sorted(map(str, range(80)))] * 8
    assert settled(count, 0) == 0


@pytest.mark.parametrize("pool", POOLS, ids=["default-pool", "pool-of-one"])
def test_sync_calls_from_16_threads_at_once(shape: tuple[Backend, Counter], pool: dict[str, Any]) -> None:
    backend, count = shape
    options = pool | (
        {"max_overflow": 0} if pool and backend.repository_type in ("postgres", "sqlite") else {}
    )
    with backend.repository(**options) as repository:

        def calls(number: int) -> int:
            user_id = f"user-{number}"
            session_id = repository.create_session(user_id, {"title": user_id})
            for index in range(10):
                repository.add_message_sync(session_id, "user", str(index))
            return len(repository.get_session_history_sync(user_id, session_id))

        with ThreadPoolExecutor(16) as threads:
            assert list(threads.map(calls, range(16))) == [10] * 16
    assert settled(count, 0) == 0


async def test_sync_and_async_calls_interleave_inside_a_running_loop(repository: Any) -> None:
    session_id = repository.create_session("user", {"title": "from a running loop"})
    for number in range(10):
        await repository.add_message(session_id, "user", f"async {number}")
        repository.add_message_sync(session_id, "assistant", f"sync {number}")
    history = await repository.get_session_history("user", session_id)
    assert history == repository.get_session_history_sync("user", session_id)
    assert [m.content for m in history] == [f"{c} {n}" for n in range(10) for c in ("async", "sync")]
    assert repository.delete_session("user", session_id) is True
    assert await repository.get_session("user", session_id) is None


async def test_a_sync_call_on_the_background_loop_is_rejected_instead_of_deadlocking(
    repository: Any,
) -> None:
    from sessions.core.blocking import run_blocking

    async def on_the_background_loop() -> None:
        repository.create_session("user", None)

    with pytest.raises(RuntimeError, match="await its async twin"):
        run_blocking(on_the_background_loop)


@both_loops
@pytest.mark.parametrize("kind", ["postgres", "mongodb", "sqlite"])
def test_two_databases_in_one_loop_are_isolated(
    kind: str, run: Run, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    if kind == "sqlite":
        urls = [f"sqlite:///{tmp_path / name}" for name in ("a.db", "b.db")]
    elif kind == "postgres":
        urls = [request.getfixturevalue("postgres_url"), request.getfixturevalue("empty_postgres_url")]
    else:
        url = request.getfixturevalue("mongodb_url")
        urls = [url, request.getfixturevalue("mongodb_standalone_url")]
    first, second = (Backend(kind, kind, url).repository() for url in urls)

    async def interleave() -> None:
        session_ids = await asyncio.gather(
            first.create_session_async("user", {"title": "first"}),
            second.create_session_async("user", {"title": "second"}),
        )
        writes: list[Awaitable[str]] = []
        for number in range(50):
            writes.append(first.add_message(session_ids[0], "user", f"first {number}"))
            writes.append(second.add_message(session_ids[1], "user", f"second {number}"))
        await asyncio.gather(*writes)
        for repository, own, other, name in (
            (first, session_ids[0], session_ids[1], "first"),
            (second, session_ids[1], session_ids[0], "second"),
        ):
            history = await repository.get_session_history("user", own)
            assert sorted(message.content for message in history) == sorted(f"{name} {n}" for n in range(50))
            assert await repository.get_session("user", other) is None
            assert await repository.count_sessions("user") == 1

    run(interleave())


@pytest.mark.parametrize("times", [1, 2])
def test_close_releases_and_use_after_close_connects_again(
    shape: tuple[Backend, Counter], times: int
) -> None:
    backend, count = shape
    with backend.repository() as repository:
        session_id = repository.create_session("user", None)
        assert count() > 0
    assert settled(count, 0) == 0
    for _ in range(times):
        repository.close()
    repository.add_message_sync(session_id, "user", "again")
    assert count() > 0
    repository.close()
    assert settled(count, 0) == 0

    async def use() -> None:
        async with backend.repository() as other:
            assert len(await other.get_session_history("user", session_id)) == 1
            for _ in range(times):
                await other.aclose()
            assert await other.count_sessions("user") == 1

    asyncio.run(use())
    assert settled(count, 0) == 0


def test_aclose_all_closes_what_other_loops_opened(shape: tuple[Backend, Counter]) -> None:
    backend, count = shape
    repository = backend.repository()
    opened, finish = threading.Event(), threading.Event()

    async def keep_running() -> None:
        await repository.create_session_async("user")
        opened.set()
        while not finish.is_set():
            await asyncio.sleep(0.01)

    thread = threading.Thread(target=asyncio.run, args=(keep_running(),))
    thread.start()
    try:
        assert opened.wait(30)
        with asyncio.Runner() as standing_still:
            standing_still.run(repository.create_session_async("user"))
            repository.create_session("user", None)
            assert count() >= 3
            asyncio.run(ConnectionFactory.aclose_all())
            assert settled(count, 0) == 0
            assert standing_still.run(repository.count_sessions("user")) == 3
    finally:
        # Also after a failure: the process would wait for the thread for ever.
        finish.set()
        thread.join()
    ConnectionFactory.close_all()
    assert settled(count, 0) == 0


async def test_sync_close_inside_the_loop_that_opened_does_not_deadlock(
    shape: tuple[Backend, Counter],
) -> None:
    backend, count = shape
    repository = backend.repository()
    session_id = await repository.create_session_async("user")
    repository.close()
    assert await asyncio.to_thread(settled, count, 0) == 0
    assert await repository.get_session("user", session_id) is not None
    await repository.aclose()


async def test_many_tasks_share_a_pool_of_one(shape: tuple[Backend, Counter]) -> None:
    backend, count = shape
    options = {"pool_size": 1} | (
        {"max_overflow": 0} if backend.repository_type in ("postgres", "sqlite") else {}
    )
    async with backend.repository(**options) as repository:
        session_id = str(uuid.uuid4())
        created = await asyncio.gather(
            *(repository.ensure_session_exists(session_id, "user") for _ in range(20))
        )
        assert sorted(created) == [False] * 19 + [True]
        batches = [[("user", f"{n}-{i}") for i in range(5)] for n in range(20)]
        await asyncio.gather(*(repository.add_messages(session_id, batch) for batch in batches))
        contents = [m.content for m in await repository.get_session_history("user", session_id)]
        assert [contents[i : i + 5] for i in range(0, 100, 5)] == sorted(
            ([content for _, content in batch] for batch in batches),
            key=lambda batch: contents.index(batch[0]),
        )
        assert count() <= pool_bound(backend)
