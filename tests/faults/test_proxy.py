"""A proxy delays responses, cuts connections and drops packets: calls end in time, writes happen once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from sessions import BackendUnavailableError, NewMessage, RetryConfig
from tests.faults.breakable import Mongod, Postgres, ReplicaSet, Valkey, running
from tests.faults.proxy import Fault, Plan, Proxy, proxy
from tests.support.databases import Backend
from tests.support.timing import within

RETRY = RetryConfig(max_attempts=3, base_delay=0.01, max_delay=0.1)
RECOVERY_SECONDS = 10.0
# The messages of each session of one user.
State = dict[str, list[str]]
BASE: State = {"first": ["1", "2", "3"], "second": ["1"]}
SMALL = [("user", "10"), ("assistant", "11")]
LARGE = [("user", str(10 + index)) for index in range(80)]


class Names:
    """A user's name, and ids of sessions by their name in `BASE`."""

    def __init__(self) -> None:
        self.user = f"user {uuid.uuid4()}"

    def __getitem__(self, name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.user + name))

    def message(self, content: str, of: str = "first") -> str:
        """Return the id of a message by its content in `BASE`."""
        return self[f"{of} {content}"]


@dataclass
class Operation:
    """A call and its effects.

    Attributes:
        call: Makes the call.
        result: Its result; None if it is not known beforehand.
        adds: Messages that it adds to the first session.
        creates: Number of sessions that it creates.
        deletes: Sessions that it deletes.
        counts: Whether it returns the number of what it deleted, without that of which the response was lost.
        leaves: The messages of the first session after it; None for those before it and the added ones.
        holds: The messages of the session that it creates.
        repeats: Whether it is retried if an attempt may have taken effect.
        versions: By how much it may raise the version of the first session.
    """

    call: Callable[[Any, Names], Awaitable[Any]]
    result: Any = None
    adds: tuple[str, ...] = ()
    creates: int = 0
    deletes: tuple[str, ...] = ()
    counts: bool = False
    leaves: tuple[str, ...] | None = None
    holds: tuple[str, ...] = ()
    repeats: bool = True
    versions: tuple[int, ...] = (0, 1)

    @property
    def writes(self) -> bool:
        return bool(self.adds or self.creates or self.deletes or self.leaves is not None)


async def _export(repository: Any, names: Names) -> State:
    exported: State = {name: [] for name in BASE}
    async for found, part in repository.export_user(names.user):
        name = next(name for name in BASE if names[name] == found.session_id)
        exported[name] += [message.content for message in part]
    return exported


async def _payloads(repository: Any, names: Any) -> list[str]:
    found = await repository.get_session_payloads(names.user, names["first"])
    return [message.content for message in found]  # None of them has a payload.


async def _history(repository: Any, names: Names, **part: Any) -> list[str]:
    found = await repository.get_session_history(names.user, names["first"], **part)
    return [message.content for message in found]


async def _content(found: Awaitable[Any]) -> str | None:
    message = await found
    return None if message is None else str(message.content)


async def _previewed(repository: Any, names: Names) -> list[str]:
    found = await repository.list_session_previews(names.user)
    return sorted(preview.last_message.content for preview in found.previews)


async def _found(repository: Any, names: Names) -> list[str]:
    found = await repository.search_messages(names.user, "1")
    return [hit.message.content for hit in found.hits]


async def _title(repository: Any, names: Names) -> str:
    found = await repository.get_session(names.user, names["first"])
    assert found is not None
    title: str = found.title
    return title


async def _listed(found: Awaitable[Any]) -> int:
    page = await found
    return len(page if isinstance(page, list) else page.sessions)


LATER = datetime.now(UTC) + timedelta(days=1)
OPERATIONS = {
    "create_session": Operation(lambda r, n: r.create_session_async(n.user), creates=1),
    "ensure_session_exists": Operation(
        lambda r, n: r.ensure_session_exists(n["third"], n.user), True, creates=1
    ),
    "ensure_session_exists again": Operation(lambda r, n: r.ensure_session_exists(n["first"], n.user), False),
    "get_session": Operation(_title, "New Chat"),
    "update_session": Operation(
        lambda r, n: r.update_session_async(n.user, n["first"], {"title": "changed"}), True
    ),
    "delete_session": Operation(
        lambda r, n: r.delete_session_async(n.user, n["first"]), True, deletes=("first",)
    ),
    "list_paginated_sessions": Operation(lambda r, n: _listed(r.list_paginated_sessions_async(n.user)), 2),
    "list_sessions": Operation(lambda r, n: _listed(r.list_sessions(n.user)), 2),
    "count_sessions": Operation(lambda r, n: r.count_sessions(n.user), 2),
    "add_message": Operation(lambda r, n: r.add_message(n["first"], "user", "10"), adds=("10",)),
    "add_messages": Operation(
        lambda r, n: r.add_messages(n["first"], SMALL, user_id=n.user), adds=("10", "11")
    ),
    "add_messages, many": Operation(
        lambda r, n: r.add_messages(n["first"], LARGE), adds=tuple(content for _, content in LARGE)
    ),
    "get_session_history": Operation(_history, BASE["first"]),
    "get_session_history, limit": Operation(lambda r, n: _history(r, n, limit=2), BASE["first"][-2:]),
    "keep_latest_sessions": Operation(
        lambda r, n: r.keep_latest_sessions(n.user, 1), 1, deletes=("first",), counts=True
    ),
    "delete_sessions_older_than": Operation(
        lambda r, n: r.delete_sessions_older_than(LATER, user_id=n.user), 2, deletes=tuple(BASE), counts=True
    ),
    "delete_user": Operation(lambda r, n: r.delete_user(n.user), 2, deletes=tuple(BASE), counts=True),
    "export_user": Operation(_export, BASE),
    "create_session, with messages": Operation(
        lambda r, n: r.create_session_async(n.user, messages=SMALL), creates=1, holds=("10", "11")
    ),
    "update_session, merging": Operation(
        lambda r, n: r.update_session_async(n.user, n["first"], merge_metadata={"a": 1}), True
    ),
    "update_session, of a version": Operation(
        lambda r, n: r.update_session_async(n.user, n["first"], {"title": "changed"}, expected_version=1),
        True,
        repeats=False,
    ),
    "update_session, of a title": Operation(
        lambda r, n: r.update_session_async(n.user, n["first"], {"title": "changed"}, if_title="New Chat"),
        True,
        repeats=False,
    ),
    "update_session, if the title stays": Operation(
        lambda r, n: r.update_session_async(n.user, n["first"], merge_metadata={"a": 1}, if_title="New Chat"),
        True,
    ),
    "list_session_previews": Operation(_previewed, ["1", "3"]),
    "add_message, with an id": Operation(
        lambda r, n: r.add_message(n["first"], "user", "10", message_id=n["new"], expected_version=1),
        adds=("10",),
    ),
    "add_messages, merging": Operation(
        lambda r, n: r.add_messages(n["first"], SMALL, merge_metadata={"a": 1}), adds=("10", "11")
    ),
    "get_session_history, after": Operation(
        lambda r, n: _history(r, n, after=n.message("1"), limit=1), ["2"]
    ),
    "get_message": Operation(lambda r, n: _content(r.get_message(n.user, n["first"], n.message("2"))), "2"),
    "count_messages": Operation(lambda r, n: r.count_messages(n.user, n["first"]), 3),
    "get_session_payloads": Operation(_payloads, BASE["first"]),
    "search_messages": Operation(_found, ["1", "1"]),
    "update_message": Operation(
        lambda r, n: r.update_message(n.user, n["first"], n.message("2"), content="9", payload=[1]),
        True,
        leaves=("1", "9", "3"),
    ),
    "pop_message": Operation(
        lambda r, n: _content(r.pop_message(n.user, n["first"])), "3", leaves=("1", "2"), repeats=False
    ),
    "delete_messages": Operation(
        lambda r, n: r.delete_messages(n.user, n["first"], [n.message("1"), n.message("3")]),
        2,
        leaves=("2",),
        counts=True,
    ),
    "delete_messages_from": Operation(
        lambda r, n: r.delete_messages_from(n.user, n["first"], n.message("2")),
        2,
        leaves=("1",),
        repeats=False,
    ),
    "clear_messages": Operation(lambda r, n: r.clear_messages(n.user, n["first"]), 3, leaves=(), counts=True),
    "replace_messages": Operation(
        lambda r, n: r.replace_messages(n.user, n["first"], SMALL),
        leaves=("10", "11"),
        # The same messages once more: no reader sees a difference, but for the times.
        versions=(0, 1, 2),
    ),
    "fork_session": Operation(
        lambda r, n: r.fork_session(n.user, n["first"], through=n.message("2")), creates=1, holds=("1", "2")
    ),
}
WRITES = {name: operation for name, operation in OPERATIONS.items() if operation.writes}
# Operations of which README's command also loses half a response: a read, small writes, and large ones.
HALF_LOST = ("get_session_history", "add_message", "add_messages, many", "delete_user", "pop_message")
LOST = [pytest.param(name, Fault.CUT_BEFORE_REPLY, id=name) for name in OPERATIONS] + [
    pytest.param(
        name,
        Fault.CUT_AMID_REPLY,
        id=f"{name}, half",
        marks=[] if name in HALF_LOST else [pytest.mark.full_size],
    )
    for name in OPERATIONS
]


@pytest.fixture(
    scope="module", params=[Postgres, ReplicaSet, Mongod, pytest.param(Valkey, marks=pytest.mark.full_size)]
)
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    started = request.param()
    with running(started):
        yield started


@dataclass
class Broken:
    """A repository behind a proxy, and one with a direct connection."""

    proxy: Proxy
    repository: Any
    straight: Any
    seconds: float

    async def prepare(self, names: Names) -> None:
        for name, contents in BASE.items():
            await self.straight.ensure_session_exists(names[name], names.user)
            batch = [NewMessage("user", each, message_id=names.message(each, name)) for each in contents]
            await self.straight.add_messages(names[name], batch)

    async def state(self, names: Names) -> State:
        """Return the messages of each session, by session id."""
        found: State = {}
        async for chat_session, part in self.straight.export_user(names.user):
            found.setdefault(chat_session.session_id, []).extend(message.content for message in part)
        assert await self.straight.count_sessions(names.user) == len(found)
        return found


def _through(server: Any, port: int, seconds: float) -> Backend:
    """Return the database behind a proxy, with a time limit for all waits."""
    options = {"connect_timeout": seconds, "pool_timeout": seconds, "pool_size": 2 * len(OPERATIONS)}
    if server.backend == "postgres":
        url = server.url.replace(str(server.port), str(port))
        return Backend(server.backend, "postgres", url, options | {"statement_timeout": seconds})
    if server.backend == "redis":
        url = server.url.replace(str(server.port), str(port))
        return Backend(server.backend, "redis", url, options | {"timeout": seconds})
    url = f"mongodb://127.0.0.1:{port}/chat?directConnection=true"
    return Backend(server.backend, "mongodb", url, options | {"timeout": seconds})


@asynccontextmanager
async def _broken(server: Any, seconds: float) -> AsyncIterator[Broken]:
    port = server.members[0].port if isinstance(server, ReplicaSet) else server.port
    kind = server.backend.partition("-")[0]
    with proxy(port, kind) as between:
        straight = Backend(server.backend, kind, server.url).repository()
        repository = _through(server, between.port, seconds).repository(retry=RETRY)
        async with straight, repository:
            await straight.count_sessions("nobody")  # Makes the schema, in its own time.
            await repository.count_sessions("nobody")
            yield Broken(between, repository, straight, seconds)
            between.plan = None


def _bound(server: Any, seconds: float) -> float:
    """Return the maximum duration of a call, by its settings."""
    silence, abort = 1.0, 2.0  # As PostgreSQL's and MongoDB's managers have them.
    waits = 2 * seconds  # For a slot in the pool, and for a connection.
    work = 2 * (seconds + silence) if server.backend == "postgres" else seconds + abort
    return RETRY.max_attempts * (waits + work + RETRY.max_delay)


def _expected(operation: Operation, names: Names, created: State) -> State:
    kept = {names[name]: contents for name, contents in BASE.items() if name not in operation.deletes}
    if operation.adds:
        kept[names["first"]] = [*BASE["first"], *operation.adds]
    if operation.leaves is not None:
        kept[names["first"]] = [*operation.leaves]
    return kept | created


def _created(operation: Operation, names: Names, state: State) -> State:
    """Return what the sessions are to hold that the operation created."""
    there = {names[base] for base in BASE}
    return {found: [*operation.holds] for found in state if found not in there}


async def _assert_version(broken: Broken, operation: Operation, names: Names) -> None:
    found = await broken.straight.get_session(names.user, names["first"])
    assert found is None or found.version - 1 in operation.versions


async def _assert_done_once_or_not_at_all(broken: Broken, operation: Operation, names: Names) -> None:
    """Either outcome is possible; never partial, never twice."""
    state = await broken.state(names)
    created = _created(operation, names, state)
    assert len(created) <= operation.creates
    before = _expected(Operation(_title), names, created)
    after = _expected(operation, names, created)
    for session_id in before.keys() | state.keys():
        assert state.get(session_id) in (before.get(session_id), after.get(session_id))
    await _assert_version(broken, operation, names)


@pytest.mark.parametrize(("name", "fault"), LOST)
async def test_a_lost_response_neither_loses_nor_duplicates_a_write_and_is_not_an_error(
    server: Any, name: str, fault: Fault
) -> None:
    operation = OPERATIONS[name]
    async with _broken(server, seconds=20.0) as broken:
        for request in count():
            names = Names()
            await broken.prepare(names)
            if server.backend == "postgres":
                # A connection that has prepared no statement of the operation: one that has needs fewer
                # requests, so that the response to the last one would never be lost.
                await broken.repository.aclose()
                await broken.repository.count_sessions("nobody")
            broken.proxy.plan = plan = Plan(fault, request)
            try:
                result = await operation.call(broken.repository, names)
            except BackendUnavailableError:
                # Its caller is told, because a retry might do it twice.
                assert not operation.repeats
                assert plan.has_happened
                broken.proxy.plan = None
                await _assert_done_once_or_not_at_all(broken, operation, names)
                continue
            broken.proxy.plan = None
            if operation.counts:
                assert 0 <= result <= operation.result
            elif operation.result is not None:
                assert result == operation.result
            state = await broken.state(names)
            created = _created(operation, names, state)
            assert len(created) == operation.creates
            assert state == _expected(operation, names, created)
            await _assert_version(broken, operation, names)
            if not plan.has_happened:
                break
        assert request > 0


@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE_REPLY, Fault.CUT_AMID_REPLY])
async def test_a_lost_response_among_64_callers_neither_loses_nor_duplicates_a_message(
    server: Any, fault: Fault
) -> None:
    async with _broken(server, seconds=20.0) as broken:
        for request in count():
            names = Names()
            await broken.prepare(names)
            broken.proxy.plan = plan = Plan(fault, request)
            contents = [str(100 + number) for number in range(64)]
            added = await asyncio.gather(
                *(
                    broken.repository.add_message(names[list(BASE)[number % 2]], "user", content)
                    for number, content in enumerate(contents)
                )
            )
            broken.proxy.plan = None
            assert len(set(added)) == len(contents)
            state = await broken.state(names)
            for place, (name, before) in enumerate(BASE.items()):
                found = state[names[name]]
                assert found[: len(before)] == before
                assert sorted(found[len(before) :]) == contents[place::2]
                stored = await broken.straight.get_session(names.user, names[name])
                # One for the batch of the beginning, and one for each call.
                assert stored.version == 1 + len(contents) // 2
            if not plan.has_happened:
                break
        assert request > 0


async def test_every_call_without_a_response_ends_in_time_and_the_next_succeeds(server: Any) -> None:
    async with _broken(server, seconds=1.0) as broken:
        names = Names()
        await broken.prepare(names)
        broken.proxy.plan = Plan(Fault.BLACK_HOLE)

        async def ends_in_time(operation: Operation) -> None:
            with within(_bound(server, broken.seconds)), pytest.raises(BackendUnavailableError):
                await operation.call(broken.repository, names)

        await asyncio.gather(*map(ends_in_time, OPERATIONS.values()))
        assert not await broken.repository.is_healthy()
        broken.proxy.plan = None
        async with asyncio.timeout(3 * RECOVERY_SECONDS):
            while not await broken.repository.is_healthy():
                await asyncio.sleep(0)
        assert await broken.repository.add_message(names["first"], "user", "after")
        assert await broken.state(names) == _expected(Operation(_title, adds=("after",)), names, {})


async def test_connections_that_were_dropped_silently_are_replaced_and_closed_in_time(server: Any) -> None:
    async with _broken(server, seconds=3.0) as broken:
        names = Names()
        await broken.prepare(names)

        async def calls() -> None:
            found = await asyncio.gather(*(broken.repository.count_sessions(names.user) for _ in range(8)))
            assert found == [len(BASE)] * 8

        # As many connections as there are calls.
        broken.proxy.plan = Plan(Fault.DELAY, delay=0.2)
        await calls()
        broken.proxy.plan = None
        broken.proxy.silence()
        with within(_bound(server, broken.seconds)):
            await calls()
        broken.proxy.silence()
        with within(RECOVERY_SECONDS):
            await broken.repository.aclose()


async def test_a_response_that_never_arrives_neither_loses_nor_duplicates_a_write(server: Any) -> None:
    async with _broken(server, seconds=1.0) as broken:
        users = {name: Names() for name in WRITES}
        for names in users.values():
            await broken.prepare(names)
        broken.proxy.plan = Plan(Fault.DELAY, delay=120.0)

        async def times_out(name: str) -> None:
            with within(_bound(server, broken.seconds)), pytest.raises(BackendUnavailableError):
                await WRITES[name].call(broken.repository, users[name])

        # Concurrently, as each of them only waits.
        await asyncio.gather(*map(times_out, WRITES))
        broken.proxy.plan = None
        for name, operation in WRITES.items():
            await _assert_all_or_nothing(broken, operation, users[name])


async def _assert_all_or_nothing(broken: Broken, operation: Operation, names: Names) -> None:
    """Fail if an operation is applied partially, or twice; either outcome is possible."""
    state = await broken.state(names)
    created = {found: [] for found in state if found not in {names[base] for base in BASE}}
    assert len(created) <= operation.creates
    before = _expected(Operation(_title), names, created)
    after = _expected(operation, names, created)
    for session_id in before.keys() | state.keys():
        assert state.get(session_id) in (before.get(session_id), after.get(session_id))


async def test_slow_responses_within_the_timeout_succeed(server: Any) -> None:
    async with _broken(server, seconds=20.0) as broken:
        broken.proxy.plan = Plan(Fault.DELAY, delay=0.1)

        async def is_right(operation: Operation) -> None:
            names = Names()
            await broken.prepare(names)
            result = await operation.call(broken.repository, names)
            assert operation.result is None or result == operation.result

        await asyncio.gather(*map(is_right, OPERATIONS.values()))
