"""Sixty-four writers run while servers are killed, connections cut, primaries replaced."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
import redis
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.faults.breakable import Mongod, Postgres, ReplicaSet, Valkey, running
from tests.faults.writers import USER, Call, writers
from tests.support.databases import Backend

RECOVERY_SECONDS = 5.0
APPENDERS = 64
# Callers whose retries end before the server is available again, so that they see the outage.
IMPATIENT = {"max_attempts": 2, "base_delay": 0.1}


@dataclass(frozen=True)
class Size:
    """How much happens.

    Attributes:
        seconds: Minimum duration.
        kills: How often the server is killed, or the primary replaced.
        down: Seconds before each kill, and until the restart.
        pause: Seconds between two calls of a writer.
    """

    seconds: float
    kills: int
    down: float
    pause: float


SMALL = Size(seconds=5.0, kills=2, down=1.0, pause=0.25)
# As many calls as the machine can make.
LARGE = Size(seconds=6.0, kills=3, down=1.0, pause=0.01)


@dataclass
class Outcome:
    """The calls, and the final state.

    Attributes:
        calls: All calls of the writers, each caller's in their order.
        returns: Monotonic times at which the server responded again.
        histories: The messages of each session that was called for, as the package reads them.
        present: The sessions that exist.
        stored: Number of stored messages of each session, in the database itself.
    """

    calls: list[Call]
    returns: list[float]
    histories: dict[str, list[str]]
    present: set[str]
    stored: Counter[str]

    def of_session(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = {}
        for call in self.calls:
            found.setdefault(call.session_id, []).append(call)
        return found


def _backend(server: Any, **options: Any) -> Backend:
    return Backend(server.backend, server.backend.partition("-")[0], server.url, options)


def _write_while(
    backend: Backend,
    break_: Callable[[float], list[float]],
    size: Size,
    *,
    sync: bool = False,
    retry: dict[str, float] | None = None,
) -> Outcome:
    """Run writers while ``break_(until)`` breaks the server, then read the final state."""
    with writers(backend, callers=APPENDERS, sync=sync, retry=retry, pause=size.pause) as process:
        process.wait_until_they_write()
        until = time.monotonic() + size.seconds
        returns = break_(until)
        time.sleep(max(until - time.monotonic(), 0))
        # After a slow restart, too, the writers need time to recover, and more on a busy machine.
        process.wait_until_served(max(returns, default=until), deletes=1)
        calls = process.stop()
    session_ids = {call.session_id for call in calls}
    histories, present = asyncio.run(_read(backend, session_ids))
    return Outcome(calls, returns, histories, present, _stored(backend))


async def _read(backend: Backend, session_ids: set[str]) -> tuple[dict[str, list[str]], set[str]]:
    async with backend.repository() as repository:
        histories = {}
        for session_id in session_ids:
            history = await repository.get_session_history(USER, session_id)
            histories[session_id] = [message.content for message in history]
        present = {session_id for session_id in session_ids if await repository.get_session(USER, session_id)}
        listed = {found.session_id async for found, _ in repository.export_user(USER)}
        assert listed == present
        assert await repository.count_sessions(USER) == len(present)
        return histories, present


def _stored(backend: Backend) -> Counter[str]:
    if backend.name == "redis":
        with redis.Redis.from_url(backend.url, decode_responses=True) as server:
            keys = server.scan_iter("sessions:{*}:o:*")
            return Counter({key.rpartition(":o:")[2]: server.zcard(key) for key in keys})
    if backend.name != "postgres":
        with MongoClient[dict[str, Any]](backend.url) as client:
            messages = client["chat"]["chat_messages"].find({}, {"session_id": 1})
            return Counter(message["session_id"] for message in messages)

    async def count() -> Counter[str]:
        connection = await asyncpg.connect(backend.url)
        rows = await connection.fetch("SELECT session_id::text FROM chat_messages")
        await connection.close()
        return Counter(row[0] for row in rows)

    return asyncio.run(count())


# -- What is broken --------------------------------------------------------------------------------


def _kill_and_restart(server: Postgres | Mongod | Valkey, size: Size) -> Callable[[float], list[float]]:
    def kill(until: float) -> list[float]:
        returns = []
        for _ in range(size.kills):
            time.sleep(size.down)
            server.kill()
            time.sleep(size.down)
            returns.append(server.start())
        return returns

    return kill


def postgres_killed(size: Size) -> Outcome:
    server = Postgres()
    with running(server):
        return _write_while(_backend(server), _kill_and_restart(server, size), size, retry=IMPATIENT)


def mongodb_replica_set_killed(size: Size) -> Outcome:
    replica_set = ReplicaSet(1)
    with running(replica_set):
        backend = _backend(replica_set, connect_timeout=0.5)
        break_ = _kill_and_restart(replica_set.members[0], size)
        return _write_while(backend, break_, size, sync=True, retry=IMPATIENT)


def mongodb_standalone_killed(size: Size) -> Outcome:
    server = Mongod()
    with running(server):
        backend = _backend(server, connect_timeout=0.5)
        return _write_while(backend, _kill_and_restart(server, size), size, retry=IMPATIENT)


def redis_killed(size: Size) -> Outcome:
    server = Valkey()
    with running(server):
        return _write_while(_backend(server), _kill_and_restart(server, size), size, retry=IMPATIENT)


def postgres_connections_terminated(size: Size) -> Outcome:
    server = Postgres()

    def terminate(until: float) -> list[float]:
        async def work() -> None:
            connection = await asyncpg.connect(server.url)
            try:
                while time.monotonic() < until:
                    await connection.fetch(
                        "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
                        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
                        " ORDER BY random() LIMIT 1) AS other"
                    )
                    await asyncio.sleep(0.1)
            finally:
                await connection.close()

        asyncio.run(work())
        return []

    with running(server):
        return _write_while(_backend(server), terminate, size, sync=True)


def _disturb(server: Mongod, until: float, *, every: float) -> list[float]:
    """Kill operations and close connections of the package, at random."""
    commands = ["insert", "update", "delete", "find", "commitTransaction"]
    choice = random.Random(1)
    with server.client() as client:
        while time.monotonic() < until:
            data = {"appName": "agenthub-sessions", "failCommands": commands, "closeConnection": True}
            fail = {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data}
            client.admin.command(fail)
            pipeline = [{"$currentOp": {}}, {"$match": {"appName": "agenthub-sessions", "active": True}}]
            active = [operation["opid"] for operation in client.admin.aggregate(pipeline)]
            if active:
                client.admin.command({"killOp": 1, "op": choice.choice(active)})
            time.sleep(every)
        client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    return []


def mongodb_replica_set_disturbed(size: Size) -> Outcome:
    replica_set = ReplicaSet(1)
    with running(replica_set):
        backend = _backend(replica_set)
        disturb = functools.partial(_disturb, replica_set.members[0], every=0.1)
        return _write_while(backend, disturb, size)


def mongodb_standalone_disturbed(size: Size) -> Outcome:
    server = Mongod()
    with running(server):
        # The driver retries nothing on a standalone server: with more kills, most attempts would fail.
        disturb = functools.partial(_disturb, server, every=1)
        return _write_while(_backend(server), disturb, size, sync=True)


def mongodb_primary_lost(size: Size) -> Outcome:
    """Step the primary of three members down, kill the next one, and in the large size step the last down."""
    replica_set = ReplicaSet(3)

    def lose(until: float) -> list[float]:
        returns = []
        for turn in range(size.kills):
            time.sleep(size.down)
            primary = replica_set.wait_for_primary()
            if turn == 1:
                primary.kill()
                replica_set.wait_for_primary()
                returns.append(time.monotonic())
                primary.start()
                continue
            with primary.client() as client:
                step_down = {"replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 3}
                try:
                    client.admin.command(step_down)
                except PyMongoError as error:
                    pytest.fail(f"it did not step down: {error}")
            replica_set.wait_for_primary()
            returns.append(time.monotonic())
        return returns

    with running(replica_set):
        return _write_while(_backend(replica_set), lose, size)


KILLED = [postgres_killed, mongodb_replica_set_killed, mongodb_standalone_killed, redis_killed]
DISTURBED = [
    postgres_connections_terminated,
    mongodb_replica_set_disturbed,
    mongodb_standalone_disturbed,
]


@pytest.mark.parametrize(
    "size", [SMALL, pytest.param(LARGE, marks=pytest.mark.full_size)], ids=["small", "large"]
)
@pytest.mark.parametrize("scenario", [*KILLED, *DISTURBED, mongodb_primary_lost])
def test_acknowledged_messages_are_stored_once_and_in_order(
    scenario: Callable[[Size], Outcome], size: Size
) -> None:
    outcome = scenario(size)
    _assert_each_acknowledged_message_is_there_once_and_in_order(outcome)
    _assert_each_message_was_sent_and_each_batch_is_whole(outcome)
    _assert_no_session_is_half_deleted(outcome)
    _assert_what_was_done_is_not_reported_as_failed(outcome)
    errors = {call.error for call in outcome.calls} - {""}
    assert errors <= {"BackendUnavailableError"}
    if (
        scenario is postgres_killed
    ):  # It refuses connections at once while it is down; MongoDB's driver waits.
        assert errors
    if scenario not in DISTURBED:
        assert len(outcome.returns) == size.kills
        _assert_calls_are_served_soon_after_the_server_answers(outcome)


def _assert_each_acknowledged_message_is_there_once_and_in_order(outcome: Outcome) -> None:
    for session_id, calls in outcome.of_session().items():
        history = outcome.histories[session_id]
        assert len(set(history)) == len(history)
        # Also calls that were not acknowledged: no task has two calls in progress.
        assert all(int(one) < int(next_) for one, next_ in pairwise(history))
        if session_id in outcome.present:
            assert {content for call in calls if not call.error for content in call.contents} <= set(history)
    assert sum(len(call.contents) for call in outcome.calls if not call.error) > APPENDERS


def _assert_each_message_was_sent_and_each_batch_is_whole(outcome: Outcome) -> None:
    for session_id, calls in outcome.of_session().items():
        there = set(outcome.histories[session_id])
        assert there <= {content for call in calls for content in call.contents}
        for call in calls:
            assert there.isdisjoint(call.contents) or there.issuperset(call.contents), call


def _assert_no_session_is_half_deleted(outcome: Outcome) -> None:
    deleted = 0
    for session_id, calls in outcome.of_session().items():
        deletes = [call for call in calls if call.operation == "delete_session_async"]
        if session_id not in outcome.present:
            assert outcome.histories[session_id] == []
            # A caller whose session exists, and who never deleted it, still has it.
            assert deletes or calls[0].error
        elif deletes:
            assert deletes[-1].error
        if deletes and not deletes[-1].error:
            assert outcome.stored[session_id] == 0
            deleted += 1
    assert deleted


def _assert_what_was_done_is_not_reported_as_failed(outcome: Outcome) -> None:
    # Each session has one caller, so no other caller can have done it.
    for call in outcome.calls:
        if not call.error and call.operation.startswith(("ensure", "update", "delete")):
            assert call.result is True, call


def _assert_calls_are_served_soon_after_the_server_answers(outcome: Outcome) -> None:
    for returned in outcome.returns:
        served = min(call.end for call in outcome.calls if not call.error and call.end > returned)
        assert served - returned < 3 * RECOVERY_SECONDS
