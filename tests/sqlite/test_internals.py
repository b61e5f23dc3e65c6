"""The private parts of aiosqlite that `sessions.backends.sqlite.internals` uses behave as it expects."""

from __future__ import annotations

import asyncio
import gc
import queue
import sqlite3
import threading
import weakref

import aiosqlite
import pytest

from sessions.backends.sqlite.internals import _NoWaiter, release_event_loop, run_in_thread, thread_of


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


async def test_the_thread_of_a_connection_is_the_one_that_calls_sqlite() -> None:
    before = threads()
    connecting = aiosqlite.connect(":memory:")
    thread = thread_of(connecting)
    assert not thread.is_alive()
    thread.daemon = True
    connection = await connecting
    assert threads() - before == {thread}
    names: list[str] = []
    await connection.create_function("note", 0, lambda: names.append(threading.current_thread().name))
    await connection.execute("SELECT note()")
    assert names == [thread.name]
    await connection.close()
    thread.join(10)
    assert not thread.is_alive()


async def test_the_thread_of_a_connection_that_failed_ends() -> None:
    connecting = aiosqlite.connect("/nowhere/at/all.db")
    thread = thread_of(connecting)
    with pytest.raises(aiosqlite.OperationalError):
        await connecting
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


def test_a_connection_without_such_a_thread_is_refused() -> None:
    with pytest.raises(TypeError, match="keeps its thread elsewhere"):
        thread_of(object())  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_idle_thread_releases_its_event_loop() -> None:
    loop = asyncio.new_event_loop()

    async def connect() -> aiosqlite.Connection:
        return await aiosqlite.connect(":memory:", check_same_thread=False)

    connection = loop.run_until_complete(connect())
    release_event_loop(connection)
    # The thread processes its queue in order, and then the next call.
    assert isinstance(connection._tx, queue.SimpleQueue | queue.Queue)

    async def use() -> object:
        return await (await connection.execute("SELECT 1")).fetchone()

    assert loop.run_until_complete(use()) == (1,)
    release_event_loop(connection)
    gone = weakref.ref(loop)
    # A second piece of work proves that the thread is done with the first.
    done = threading.Event()
    connection._tx.put_nowait((_NoWaiter(), done.set))
    assert done.wait(10)
    del loop
    gc.collect()
    assert gone() is None
    with asyncio.Runner() as runner:
        runner.run(connection.close())


async def test_a_function_runs_in_the_thread_of_a_connection() -> None:
    connecting = aiosqlite.connect(":memory:")
    thread = thread_of(connecting)
    connection = await connecting

    def work(raw: sqlite3.Connection) -> object:
        return threading.current_thread(), raw.execute("SELECT 1").fetchone()

    assert await run_in_thread(connection, work) == (thread, (1,))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await run_in_thread(connection, lambda raw: raw.execute("SELECT * FROM absent"))
    goes_on, ended = threading.Event(), threading.Event()
    called = run_in_thread(connection, lambda _: goes_on.wait(10) and ended.set())
    called.cancel()
    goes_on.set()
    # In the order of the calls; what was cancelled runs to its end.
    assert await run_in_thread(connection, lambda _: ended.is_set())
    await connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        run_in_thread(connection, work)


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_the_thread_keeps_nothing_of_a_function_that_it_called() -> None:
    loop = asyncio.new_event_loop()

    async def connect() -> aiosqlite.Connection:
        connection = await aiosqlite.connect(":memory:", check_same_thread=False)
        await connection.execute("SELECT 1")
        return connection

    connection = loop.run_until_complete(connect())

    class Result: ...

    async def use() -> weakref.ref[Result]:
        return weakref.ref(await run_in_thread(connection, lambda _: Result()))

    result = loop.run_until_complete(use())
    gone = weakref.ref(loop)
    # A second piece of work proves that the thread is done with the first.
    done = threading.Event()
    connection._tx.put_nowait((_NoWaiter(), done.set))
    assert done.wait(10)
    del loop
    gc.collect()
    assert result() is None
    assert gone() is None
    with asyncio.Runner() as runner:
        runner.run(connection.close())
