"""New sessions whose messages another call has stored, and not the session itself."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient

from sessions import MessageConflictError, NewMessage, SessionConflictError
from sessions.backends.mongodb.repository import MongoBackend
from tests.support.databases import Backend

ANSWER = ("assistant", "The answer")


class Killed(Exception):
    """Stands for the end of a process."""


async def interrupt(
    repository: Any, session_id: str, message: NewMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Create a session in steps, up to the insert of the session."""
    insert = MongoBackend.insert

    async def killed(self: Any, collection: Any, documents: Any, client_session: Any = None) -> None:
        if collection.name == "chat_sessions":
            raise Killed
        await insert(self, collection, documents, client_session)

    with monkeypatch.context() as patch:
        patch.setattr(MongoBackend, "insert", killed)
        patch.setattr(MongoBackend, "_store_new", MongoBackend._insert_new_in_steps)
        with pytest.raises(Killed):
            await repository.create_session_async("alice", messages=[message, ANSWER], session_id=session_id)


@pytest.fixture(params=["replica-set", "standalone"])
def backend(request: pytest.FixtureRequest) -> Backend:
    fixture = "mongodb_url" if request.param == "replica-set" else "mongodb_standalone_url"
    return Backend(f"mongodb-{request.param}", "mongodb", request.getfixturevalue(fixture))


async def test_a_session_is_created_although_another_call_was_interrupted(
    repository: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, message = str(uuid.uuid4()), NewMessage("user", "Hi", message_id=str(uuid.uuid4()))
    await interrupt(repository, session_id, message, monkeypatch)
    assert await repository.get_session("alice", session_id) is None

    await repository.create_session_async(
        "alice", {"title": "Mine"}, messages=[message, ("assistant", "Other")], session_id=session_id
    )
    history = await repository.get_session_history("alice", session_id)
    assert [found.content for found in history] == ["Hi", "Other"]
    assert history[0].message_id == message.message_id
    found = await repository.get_session("alice", session_id)
    assert found.title == "Mine"
    with MongoClient[dict[str, Any]](backend.url) as client:
        messages = client.get_default_database()["chat_messages"]
        assert messages.count_documents({"session_id": session_id}) == 2


async def test_an_interrupted_call_that_goes_on_finds_that_the_session_is_taken(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, message = str(uuid.uuid4()), NewMessage("user", "Hi", message_id=str(uuid.uuid4()))
    insert, others = MongoBackend.insert, []

    async def late(self: Any, collection: Any, documents: Any, client_session: Any = None) -> None:
        if collection.name == "chat_sessions" and not others:
            others.append("begun")
            await repository.create_session_async("alice", messages=[message, ANSWER], session_id=session_id)
        await insert(self, collection, documents, client_session)

    monkeypatch.setattr(MongoBackend, "_store_new", MongoBackend._insert_new_in_steps)
    monkeypatch.setattr(MongoBackend, "insert", late)
    with pytest.raises(SessionConflictError):
        await repository.create_session_async(
            "alice", messages=[message, ("assistant", "Late")], session_id=session_id
        )
    history = await repository.get_session_history("alice", session_id)
    assert [found.content for found in history] == ["Hi", "The answer"]


async def test_a_retry_stores_the_messages_that_the_attempt_before_did_not(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id, message = str(uuid.uuid4()), NewMessage("user", "Hi", message_id=str(uuid.uuid4()))
    await interrupt(repository, session_id, message, monkeypatch)
    finish, key = MongoBackend._finish, ObjectId()
    monkeypatch.setattr(MongoBackend, "new_key", lambda self: key)

    async def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(MongoBackend, "_finish", killed)
    arguments: Any = {"messages": [message, ANSWER], "session_id": session_id}
    with pytest.raises(Killed):
        await repository.create_session_async("alice", **arguments)
    monkeypatch.setattr(MongoBackend, "_finish", finish)
    await repository.create_session_async("alice", **arguments)
    history = await repository.get_session_history("alice", session_id)
    assert [found.content for found in history] == ["Hi", "The answer"]


async def test_an_id_that_a_message_of_another_session_has_is_a_conflict(
    repository: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = NewMessage("user", "Hi", message_id=str(uuid.uuid4()))
    await repository.create_session_async("bob", messages=[taken])
    session_id, message = str(uuid.uuid4()), NewMessage("user", "Hi", message_id=str(uuid.uuid4()))
    await interrupt(repository, session_id, message, monkeypatch)
    with pytest.raises(MessageConflictError):
        await repository.create_session_async("alice", messages=[message, taken], session_id=session_id)
    assert await repository.get_session("alice", session_id) is None
