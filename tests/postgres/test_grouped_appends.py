"""Group commit in PostgreSQL: no deadlock among processes, and no wait for a session that somebody locks."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from sessions import BackendUnavailableError, SessionRepositoryFactory
from sessions.backends.postgres.connection import PostgresConnectionManager
from sessions.backends.postgres.grouped import grouped_texts
from sessions.backends.sql.compiled import CompiledStatements
from sessions.core.identifiers import new_message_id, utc_now
from sessions.core.values import Append, MessageRow
from sessions.queries import parameters, statements_for
from sessions.repositories.postgres_session_repository import PostgresSessionRepository
from tests.support.programs import Programs

USER = "alice"
CALLERS = 64


async def test_a_session_that_is_locked_holds_up_its_own_appends_only(postgres_url: str) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        locked, *others = [await repository.create_session_async(USER) for _ in range(9)]
        blocker = await asyncpg.connect(postgres_url)
        async with blocker.transaction():
            await blocker.execute("SELECT FROM chat_sessions WHERE session_id = $1 FOR UPDATE", locked)
            session_ids = [locked if number % 4 == 3 else others[number % 8] for number in range(CALLERS)]
            calls = [
                asyncio.create_task(repository.add_message(session_id, "user", str(number)))
                for number, session_id in enumerate(session_ids)
            ]
            free = [call for number, call in enumerate(calls) if session_ids[number] != locked]
            held = [call for number, call in enumerate(calls) if session_ids[number] == locked]
            await asyncio.wait_for(asyncio.gather(*free), 30)
            assert not any(call.done() for call in held)
            # Reads do not wait for them either, nor do appends that come later.
            assert await repository.get_session_history(USER, locked) == []
            assert await repository.add_message(others[0], "user", "later")
        await asyncio.gather(*held)
        await blocker.close()
        found = await repository.get_session_history(USER, locked)
        assert sorted(message.content for message in found) == sorted(map(str, range(3, CALLERS, 4)))


@pytest.mark.parametrize(
    ("size", "overflow", "sends", "slow_sends"),
    [(10, 10, 2, 8), (10, 0, 2, 3), (4, 0, 2, 1), (3, 0, 2, 0), (2, 0, 1, 0), (1, 0, 1, 0), (1, 10, 1, 4)],
)
async def test_appends_leave_connections_to_other_operations(
    size: int, overflow: int, sends: int, slow_sends: int
) -> None:
    manager = PostgresConnectionManager(
        url="postgresql://db.invalid/x", pool_size=size, max_overflow=overflow
    )
    limits = manager._append_limits()
    assert (limits.sends, limits.slow_sends) == (sends, slow_sends)


async def test_a_batch_that_waits_for_a_connection_leaves_out_who_is_cancelled(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = PostgresConnectionManager(url=postgres_url, pool_size=1, max_overflow=0)
    async with PostgresSessionRepository(connection_manager=manager) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(8)]

        def append() -> list[asyncio.Task[str]]:
            return [
                asyncio.create_task(repository.add_message(each, "user", "Hello")) for each in session_ids
            ]

        # After a batch the next calls are one, too.
        await asyncio.gather(*append())
        pool: Any = await manager._pools.get()
        async with pool.driver.lend():
            check_out, waits = pool.driver._check_out, asyncio.Event()

            async def wait_for_a_connection() -> Any:
                waits.set()
                return await check_out()

            monkeypatch.setattr(pool.driver, "_check_out", wait_for_a_connection)
            calls = append()
            await asyncio.wait_for(waits.wait(), 30)
            calls[3].cancel()
            await asyncio.wait(calls[3:4])
        await asyncio.gather(*calls[:3], *calls[4:])
        counts = [await repository.count_messages(USER, each) for each in session_ids]
        assert counts == [2, 2, 2, 1, 2, 2, 2, 2]


async def test_no_append_waits_longer_for_a_connection_than_pool_timeout(postgres_url: str) -> None:
    manager = PostgresConnectionManager(url=postgres_url, pool_size=1, max_overflow=0, pool_timeout=2.0)
    async with PostgresSessionRepository(connection_manager=manager) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(8)]
        pool: Any = await manager._pools.get()
        async with pool.driver.lend():
            calls = [repository.add_message(session_ids[place % 8], "user", "Hello") for place in range(64)]
            # Not twice as long: once in the queue, and once for a connection.
            async with asyncio.timeout(3.8):
                ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in ended} == {BackendUnavailableError}
        assert await repository.count_messages(USER, session_ids[0]) == 0


async def test_texts_of_a_batch_keep_each_character(postgres_url: str) -> None:
    # Each control character, of which one separates the texts if it occurs in none of them.
    contents = [
        "",
        *map(chr, range(1, 32)),
        "\x1f\x1e\x1f",
        "\ue000",
        "a\x1f",
        "\x1fb",
        "",
        "\U0001f600",
        "NULL",
    ]
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        owners = [f"user{content}" for content in contents]
        session_ids = [await repository.create_session_async(owner) for owner in owners]
        calls = [
            repository.add_message(session_id, "user", content, user_id=owner)
            for session_id, owner, content in zip(session_ids, owners, contents, strict=True)
        ]
        await asyncio.gather(*calls)
        found = [
            await repository.get_session_history(owner, session_id)
            for session_id, owner in zip(session_ids, owners, strict=True)
        ]
        assert [[message.content for message in history] for history in found] == [[one] for one in contents]


@pytest.mark.parametrize("contents", [["", ""], ["", "a", ""], [""], ["a\x1fb"]])
def test_the_separator_of_a_batch_occurs_in_none_of_its_texts(contents: list[str]) -> None:
    appends = [
        Append(str(number), "alice\x1e", [MessageRow(str(number), "user", content)], 1, 5)
        for number, content in enumerate(contents)
    ]
    texts, places = grouped_texts(appends)
    assert places == [number + 1 for number in range(len(contents))]
    separator = texts["p_separator"]
    assert texts["p_contents"].split(separator) == contents
    assert texts["p_user_ids"].split(separator) == ["alice\x1e"] * len(contents)


APPENDING = """
import asyncio, json, sys
from sessions import BackendUnavailableError, SessionRepositoryFactory

url, session_ids, turns, size = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
messages = [("user", "Hello")] * size

async def main():
    async with SessionRepositoryFactory.create_repository("postgres", url=url) as repository:
        async def caller(number):
            for turn in range(turns):
                session_id = session_ids[(number * 7 + turn * 3) % len(session_ids)]
                await repository.add_messages(session_id, messages)
        await asyncio.gather(*map(caller, range(32)))

asyncio.run(main())
"""


# At full size a million messages; in calls of several, which take a fifth of the time.
@pytest.mark.parametrize(
    ("turns", "size"),
    [pytest.param(20, 1, id="few"), pytest.param(3_125, 5, id="a million", marks=pytest.mark.full_size)],
)
async def test_batches_of_two_processes_never_wait_for_each_other(
    postgres_url: str, admin: Any, programs: Programs, turns: int, size: int
) -> None:
    async with SessionRepositoryFactory.create_repository("postgres", url=postgres_url) as repository:
        session_ids = [await repository.create_session_async(USER) for _ in range(24)]
        arguments = ("-c", APPENDING, postgres_url, json.dumps(session_ids), str(turns), str(size))
        race = partial(programs.run, *arguments, timeout=250)
        ended = await asyncio.gather(asyncio.to_thread(race), asyncio.to_thread(race))
        assert [(racer.returncode, racer.stderr) for racer in ended] == [(0, "")] * 2
        assert (
            await admin.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            == 0
        )
        counts = [await repository.count_messages(USER, session_id) for session_id in session_ids]
        assert sum(counts) == 2 * 32 * turns * size
        versions = [(await repository.get_session(USER, session_id)).version for session_id in session_ids]
        assert [version * size for version in versions] == counts


async def test_a_batch_finds_its_sessions_by_their_key(postgres_url: str, admin: Any) -> None:
    await admin.execute(
        "INSERT INTO chat_sessions (session_id, title, user_id, created_at, updated_at) "
        "SELECT gen_random_uuid(), 'New Chat', 'alice', now(), now() FROM generate_series(1, 20000)"
    )
    await admin.execute("ANALYZE chat_sessions")
    chosen = await admin.fetch("SELECT session_id::text FROM chat_sessions LIMIT 64")
    appends = [
        Append(session_id, None, [MessageRow(new_message_id(), "user", "Hello")], 1, 5)
        for [session_id] in chosen
    ]
    texts, _ = grouped_texts(appends)
    values = texts | parameters(now=utc_now(), lock_timeout="100ms")
    compiled = CompiledStatements(PGDialect_asyncpg())(statements_for("postgresql").append_to_many[False])
    # The plan for any parameters, and the one for these.
    for mode in ("force_generic_plan", "force_custom_plan"):
        await admin.execute(f"SET plan_cache_mode = {mode}")
        plan = await admin.fetch(f"EXPLAIN {compiled.query}", *compiled.arguments(values))
        text = "\n".join(line for [line] in plan)
        assert "Seq Scan" not in text, text
        assert text.count("chat_sessions_pkey") == 2, text
