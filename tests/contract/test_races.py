"""What holds while many callers in two processes do things to the same sessions at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from sessions import SessionNotFoundError
from tests.support import raw_rows
from tests.support.databases import Backend
from tests.support.racers import Racers, racers

TASKS = 25  # In each of two processes.
USERS = ["user", "other"]


@pytest.fixture(scope="module", name="racers")
def _racers() -> Iterator[Racers]:
    with racers() as started:
        yield started


def new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def test_one_of_many_callers_creates_a_session(backend: Backend, racers: Racers) -> None:
    ids = new_ids(5)
    results = racers.run(backend, *[{"work": "ensure", "session_ids": ids, "users": ["user"] * TASKS}] * 2)
    for outcomes in zip(*results, strict=True):
        assert Counter(outcome for each in outcomes for outcome in each) == {True: 1, False: 2 * TASKS - 1}
    assert [row["session_id"] for row in raw_rows.sessions(backend)] == sorted(ids)


def test_one_of_many_users_gets_a_session_and_the_others_an_error(backend: Backend, racers: Racers) -> None:
    ids = new_ids(5)
    users = [[f"user {process} {number}" for number in range(TASKS)] for process in range(2)]
    results = racers.run(backend, *[{"work": "ensure", "session_ids": ids, "users": each} for each in users])
    owners = {row["session_id"]: row["user_id"] for row in raw_rows.sessions(backend)}
    assert sorted(owners) == sorted(ids)
    for session_id, outcomes in zip(ids, zip(*results, strict=True), strict=True):
        by_user = dict(zip(users[0] + users[1], outcomes[0] + outcomes[1], strict=True))
        assert by_user.pop(owners[session_id]) is True
        assert {outcome.partition(":")[0] for outcome in by_user.values()} == {"SessionConflictError"}


def converse(
    racers: Racers, backend: Backend, goals: dict[str, int], **arguments: Any
) -> list[dict[str, Any]]:
    results = racers.run(
        backend,
        *[{"work": "converse", "users": USERS, "seed": seed} | arguments for seed in range(2)],
        goals={"append": 200, "read": 50} | goals,
    )
    assert sum(result["tasks"] for result in results) >= 50
    assert [strange for result in results for strange in result["strange"]] == []
    assert raw_rows.orphans(backend) == []
    return results


def test_a_message_is_acknowledged_or_gone_with_its_session(backend: Backend, racers: Racers) -> None:
    with backend.repository() as repository:
        # Each user has their own; the other one's guesses at them come to nothing.
        kept, doomed = ([repository.create_session(user_id) for user_id in USERS * 3] for _ in range(2))
    goals = {"delete": len(doomed)}
    results = converse(racers, backend, goals, kept=kept, doomed=doomed, recreate=False)
    assert {row["session_id"] for row in raw_rows.sessions(backend)} == set(kept)
    added = [message for result in results for message in result["added"]]
    acknowledged = Counter(
        (session_id, content) for session_id, _, content, _, _ in added if session_id in kept
    )
    stored = Counter((row["session_id"], row["content"]) for row in raw_rows.messages(backend))
    assert stored == acknowledged
    assert stored
    assert sum(result["deleted"] for result in results) == len(doomed)


def test_a_session_created_again_has_exactly_its_own_messages(backend: Backend, racers: Racers) -> None:
    goals = {"delete": 10} | {f"creation by {user_id}": 3 for user_id in USERS}
    results = converse(racers, backend, goals, kept=[], doomed=new_ids(3), recreate=True)
    assert sum(result["deleted"] for result in results) >= 10
    created = [made for result in results for made in result["created"]]
    assert {user_id for _, user_id, _, _ in created} == set(USERS)
    added = [message for result in results for message in result["added"]]
    stored = raw_rows.messages(backend)
    for row in raw_rows.sessions(backend):
        session_id, user_id = row["session_id"], row["user_id"]
        makings = [made for made in created if made[0] == session_id]
        # The last one took effect after all others had begun, and before all had ended.
        began_last, ended_last = max(start for *_, start, _ in makings), max(end for *_, end in makings)
        last = [start for _, creator, start, end in makings if creator == user_id and end >= began_last]
        contents = {item["content"] for item in stored if item["session_id"] == session_id}
        mine = [message for message in added if message[0] == session_id and message[1] == user_id]
        assert {content for _, _, content, began, _ in mine if began > ended_last} <= contents
        assert contents <= {content for _, _, content, _, ended in mine if ended > min(last)}
        with backend.repository() as repository:
            history = repository.get_session_history_sync(user_id, session_id)
        assert {message.content for message in history} == contents


def test_of_two_updates_one_state_is_left_and_never_a_mix(backend: Backend, racers: Racers) -> None:
    with backend.repository() as repository:
        ids = [repository.create_session("user", {"title": "a", "metadata": {"state": "a", "a": ["a"]}})] * 2
        job = {"work": "update", "session_ids": ids, "user_id": "user", "tasks": TASKS, "times": 3}
        assert racers.run(backend, job | {"name": "one"}, job | {"name": "two"}) == [[], []]
        left = repository.get_session_sync("user", ids[0])
    assert left.metadata == {"state": left.title, left.title: [left.title]}
    assert left.title.endswith("-2")


@pytest.mark.parametrize("many", [1_500, pytest.param(5_000, marks=pytest.mark.full_size)])
def test_paging_shows_every_untouched_session_once_while_others_change(
    backend: Backend, racers: Racers, many: int
) -> None:
    with backend.repository() as repository:
        assert repository.count_sessions_sync("user") == 0
    ids = raw_rows.add_sessions(backend, "user", raw_rows.in_milliseconds(many))
    raw_rows.add_sessions(backend, "other", raw_rows.in_milliseconds(50))
    touched, untouched = ids[::5], [session_id for number, session_id in enumerate(ids) if number % 5]
    churn = {"work": "churn", "user_id": "user", "tasks": TASKS}
    limits = [97, 211, 500]
    *_, pages = racers.run(
        backend,
        churn | {"session_ids": touched[::2], "seed": 1},
        churn | {"session_ids": touched[1::2], "seed": 2},
        {"work": "page", "user_id": "user", "limits": limits, "untouched": untouched},
        goals={f"change by {seed}": 4 * TASKS for seed in (1, 2)}
        | {f"run with {each}": 3 for each in limits},
    )
    assert pages["rows"] >= len(untouched)
    assert (pages["twice"], pages["missed"]) == (0, 0)


@pytest.mark.parametrize(
    "operation", ["add_message", "add_messages", "update_session", "update_message", "replace_messages"]
)
def test_of_writers_that_expect_the_same_version_exactly_one_succeeds(
    backend: Backend, racers: Racers, operation: str
) -> None:
    with backend.repository() as repository:
        session_id = repository.create_session("user")
        message_id = repository.add_message_sync(session_id, "user", "first")
        versions = [1, 2, 3]
        job = {"work": "expect", "session_id": session_id, "message_id": message_id, "tasks": 10}
        results = racers.run(backend, *[job | {"operation": operation, "versions": versions}] * 2)
        for one, two in zip(*results, strict=True):
            assert Counter(one + two) == {"done": 1, "VersionConflictError": 19}
        left = repository.get_session_sync("user", session_id)
        history = repository.get_session_history_sync("user", session_id)
    assert left.version == 4
    stored = {"add_message": 4, "add_messages": 10, "replace_messages": 2}.get(operation, 1)
    assert len(history) == stored
    assert len(left.metadata) == (3 if operation == "add_messages" else 0)


def test_concurrent_merges_of_different_keys_are_all_kept(backend: Backend, racers: Racers) -> None:
    with backend.repository() as repository:
        session_id = repository.create_session("user", {"metadata": {"first": 1}})
        job = {"work": "merge", "session_id": session_id, "tasks": TASKS}
        for outcomes in racers.run(backend, job | {"name": "one"}, job | {"name": "two"}):
            assert [type(outcome) for outcome in outcomes[1::2]] == [bool] * (TASKS // 2)
            assert [type(outcome) for outcome in outcomes[::2]] == [list] * (TASKS - TASKS // 2)
        left = repository.get_session_sync("user", session_id)
        assert repository.count_messages_sync("user", session_id) == 2 * (TASKS - TASKS // 2)
    expected = {f"{name} {number}": number for name in ("one", "two") for number in range(TASKS)}
    assert left.metadata == {"first": 1} | expected
    assert left.version == 2 * TASKS


def test_no_two_pops_return_the_same_message(backend: Backend, racers: Racers) -> None:
    with backend.repository() as repository:
        session_id = repository.create_session("user")
        ids = repository.add_messages_sync(session_id, [("user", str(number)) for number in range(40)])
        popped = racers.run(backend, *[{"work": "pop", "session_id": session_id, "tasks": 5}] * 2)
        assert sorted(popped[0] + popped[1]) == sorted(ids)
        assert repository.get_session_sync("user", session_id).version == 1 + 40
    assert raw_rows.messages(backend) == []


def test_messages_that_many_callers_send_with_the_same_ids_are_stored_once(
    backend: Backend, racers: Racers
) -> None:
    ids = new_ids(3)
    with backend.repository() as repository:
        session_id = repository.create_session("user")
        job = {"work": "send", "session_id": session_id, "ids": ids, "tasks": 6}
        for outcomes in racers.run(backend, job, job):
            assert outcomes == [ids] * 6 + ids * 6
        history = repository.get_session_history_sync("user", session_id)
        version = repository.get_session_sync("user", session_id).version
        # From another process, later, and all at once.
        assert racers.run(backend, job) == [[ids] * 6 + ids * 6]
        assert repository.get_session_history_sync("user", session_id) == history
        assert repository.get_session_sync("user", session_id).version == version
    assert sorted(message.message_id for message in history) == sorted(ids)
    assert 1 <= version <= 3


def test_a_message_id_belongs_to_one_of_the_sessions_that_race_for_it(
    backend: Backend, racers: Racers
) -> None:
    ids = new_ids(20)
    with backend.repository() as repository:
        sessions = [repository.create_session("user") for _ in range(2)]
    results = racers.run(
        backend, *[{"work": "grab", "session_ids": [session_id], "ids": ids} for session_id in sessions]
    )
    owners = {row["message_id"]: row["session_id"] for row in raw_rows.messages(backend)}
    assert sorted(owners) == sorted(ids)
    for session_id, [outcomes] in zip(sessions, results, strict=True):
        for message_id, outcome in zip(ids, outcomes, strict=True):
            if owners[message_id] == session_id:
                assert outcome == message_id
            else:
                assert outcome.startswith("MessageConflictError")


@pytest.mark.parametrize("kind", ["mongodb_url", "mongodb_standalone_url"])
def test_first_calls_from_twenty_processes_prepare_an_empty_database_once(
    kind: str, racers: Racers, request: pytest.FixtureRequest
) -> None:
    backend = Backend(kind, "mongodb", request.getfixturevalue(kind))
    assert racers.run(backend, *[{"work": "count", "cold": True}] * 20) == [0] * 20
    with MongoClient[dict[str, Any]](backend.url) as client:
        database = client.get_default_database()
        assert sorted(database.list_collection_names()) == ["chat_messages", "chat_sessions"]
        keys = {name: database[name].index_information() for name in database.list_collection_names()}
        for name in keys:
            options = database[name].options()
            assert options["validationLevel"] == "moderate"
            assert "$jsonSchema" in options["validator"]
    assert sorted(tuple(index["key"]) for index in keys["chat_sessions"].values()) == [
        (("_id", 1),),
        (("session_id", 1),),
        (("user_id", 1), ("updated_at", -1), ("session_id", 1)),
    ]
    assert [index["key"] for index in keys["chat_sessions"].values() if index.get("unique")] == [
        [("session_id", 1)]
    ]
    assert sorted(tuple(index["key"]) for index in keys["chat_messages"].values()) == [
        (("_id", 1),),
        (("session_id", 1), ("timestamp", 1), ("write_order", 1), ("message_id", 1)),
    ]


@pytest.mark.parametrize("operation", ["delete_session", "delete_user", "delete_sessions_older_than"])
async def test_what_is_deleted_goes_while_more_callers_write_to_it_than_the_pool_has_connections(
    backend: Backend, repository: Any, operation: str
) -> None:
    count = 1 if operation == "delete_session" else 5
    ids = [await repository.create_session_async("user") for _ in range(count)]
    other = await repository.create_session_async("other")
    added: Counter[str] = Counter()
    refused = 0

    async def write(session_id: str) -> None:
        nonlocal refused
        with contextlib.suppress(SessionNotFoundError):
            while True:
                await repository.add_message(session_id, "user", "Hi", user_id="user")
                added[session_id] += 1
        refused += 1

    writing = [asyncio.create_task(write(session_id)) for session_id in ids for _ in range(30 // len(ids))]
    while min(added[session_id] for session_id in ids) < 100 // count:
        await asyncio.sleep(0.01)
    if operation == "delete_session":
        assert await repository.delete_session_async("user", ids[0]) is True
    elif operation == "delete_user":
        assert await repository.delete_user("user") == 5
    else:
        tomorrow = datetime.now(UTC) + timedelta(1)
        assert await repository.delete_sessions_older_than(tomorrow, user_id="user") == 5
    # No writer gets anything but the truth, and none goes on.
    await asyncio.gather(*writing)
    assert refused == len(writing) == 30
    assert [row["session_id"] for row in raw_rows.sessions(backend)] == [other]
    assert raw_rows.messages(backend) == []
