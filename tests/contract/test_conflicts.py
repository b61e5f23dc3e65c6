"""Duplicate keys: the row is from an earlier attempt of the same call, or it is a conflict."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from sessions import MessageConflictError, SessionConflictError
from sessions.core.identifiers import new_message_id, utc_now
from sessions.core.values import EarlierAttempts, MessageRow, NewSession
from sessions.validation import DEFAULT_TITLE
from tests.support.databases import Backend


async def append(repository: Any, session_id: str, rows: list[MessageRow]) -> bool:
    """Append messages with the given ids."""
    calls = repository._calls
    added: bool = await calls.run("add_messages", calls.backend.append, session_id, None, rows, None, None)
    return added


def rows_of(number: int) -> list[MessageRow]:
    return [MessageRow(new_message_id(), "user", f"text {place}") for place in range(number)]


async def history(repository: Any, session_id: str, user: str = "alice") -> list[MessageRow]:
    found = await repository.get_session_history(user, session_id)
    return [MessageRow(item.message_id, item.role, item.content) for item in found]


@pytest.mark.parametrize("number", [1, 2, 200])
async def test_messages_that_an_earlier_attempt_stored_are_stored_once(repository: Any, number: int) -> None:
    session_id = await repository.create_session_async("alice")
    rows = rows_of(number)
    for _ in range(3):
        assert await append(repository, session_id, rows)
    assert await history(repository, session_id) == rows


async def test_a_batch_that_an_earlier_attempt_stored_in_part_is_completed(repository: Any) -> None:
    session_id = await repository.create_session_async("alice")
    rows = rows_of(150)
    assert await append(repository, session_id, rows[:60])
    assert await append(repository, session_id, rows)
    assert sorted(await history(repository, session_id)) == sorted(rows)


@pytest.mark.parametrize("number", [1, 2, 200])
@pytest.mark.parametrize("differs", ["role", "content", "session"])
async def test_a_taken_message_id_is_a_conflict_and_nothing_is_stored(
    repository: Any, number: int, differs: str
) -> None:
    session_id, other = [await repository.create_session_async("alice") for _ in range(2)]
    rows = rows_of(number)
    taken = rows[-1][0]
    stored = {
        "role": (session_id, MessageRow(taken, "assistant", rows[-1].content)),
        "content": (session_id, MessageRow(taken, "user", "another text")),
        "session": (other, rows[-1]),
    }
    there, row = stored[differs]
    assert await append(repository, there, [row])
    before = await repository.get_session("alice", session_id)

    with pytest.raises(MessageConflictError) as caught:
        await append(repository, session_id, rows)

    assert "text" not in str(caught.value)
    assert await history(repository, session_id) == ([row] if there == session_id else [])
    assert await history(repository, other) == ([row] if there == other else [])
    assert await repository.get_session("alice", session_id) == before


async def test_an_id_that_occurs_twice_in_a_batch_is_a_conflict(repository: Any) -> None:
    session_id = await repository.create_session_async("alice")
    [row] = rows_of(1)
    with pytest.raises(MessageConflictError):
        await append(repository, session_id, [row, MessageRow(row.message_id, "user", "another text")])
    assert await history(repository, session_id) == []


def new_session(repository: Any, session_id: str, user: str) -> NewSession:
    return NewSession(session_id, user, DEFAULT_TITLE, {}, utc_now(), repository._calls.backend.new_key())


async def test_a_session_that_an_earlier_attempt_created_is_stored_once(repository: Any) -> None:
    new = new_session(repository, str(uuid.uuid4()), "alice")
    for _ in range(2):
        await repository._calls.run("create_session", repository._calls.backend.create, new, [])
    assert await repository.count_sessions("alice") == 1


async def test_a_session_id_taken_by_another_call_is_a_conflict(repository: Any) -> None:
    session_id = str(uuid.uuid4())
    await repository._calls.run(
        "create_session", repository._calls.backend.create, new_session(repository, session_id, "alice"), []
    )
    for user in ("alice", "bob"):
        with pytest.raises(SessionConflictError):
            await repository._calls.run(
                "create_session",
                repository._calls.backend.create,
                new_session(repository, session_id, user),
                [],
            )
    assert await repository.count_sessions("bob") == 0


async def test_a_retry_does_not_mistake_the_session_of_another_call_for_its_own(
    repository: Any,
) -> None:
    session_id = str(uuid.uuid4())
    assert await repository.ensure_session_exists(session_id, "alice")
    retried = new_session(repository, session_id, "alice")
    found = await repository._calls.run(
        "ensure", repository._calls.backend.ensure, retried, EarlierAttempts(1, True)
    )
    assert found is False


async def test_a_message_of_a_deleted_session_is_assigned_to_the_session_created_again(
    mongodb: Backend,
) -> None:
    """An attempt stored it, and was killed before it undid the insert; the retry finds another session."""
    async with mongodb.repository() as repository:
        session_id = str(uuid.uuid4())
        assert await repository.ensure_session_exists(session_id, "alice")
        rows = rows_of(3)
        assert await append(repository, session_id, rows)
        connection = await repository._connection_manager.connect()
        left = await connection.collections["chat_messages"].find().to_list(None)
        await repository.delete_session_async("alice", session_id)
        assert await repository.ensure_session_exists(session_id, "bob")
        await connection.collections["chat_messages"].insert_many(left)
        assert await history(repository, session_id, "bob") == []

        assert await append(repository, session_id, rows[:2])
        assert await history(repository, session_id, "bob") == rows[:2]
        assert await repository.remove_orphaned_messages()
        assert await history(repository, session_id, "bob") == rows[:2]


@pytest.fixture(params=["mongodb-replica-set", "mongodb-standalone"])
def mongodb(request: pytest.FixtureRequest) -> Backend:
    fixture = "mongodb_url" if request.param == "mongodb-replica-set" else "mongodb_standalone_url"
    return Backend(request.param, "mongodb", request.getfixturevalue(fixture))
