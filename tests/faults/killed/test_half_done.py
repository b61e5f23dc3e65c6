"""A process is killed at each step of an operation on a standalone MongoDB, which has no transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pymongo import MongoClient

from sessions import SessionNotFoundError, SessionRepositoryType
from sessions.cli import database
from tests.faults.killed.dying import MAX_STEPS, Dying
from tests.support.databases import Backend

SMALL, LARGE = 3, 80
# The messages of each session; None if the session does not exist.
State = dict[str, list[str] | None]
BASE = {"first": ["1", "2", "3"], "second": ["1"]}


@dataclass
class Work:
    """An operation of several steps.

    Attributes:
        operation: Its async name.
        arguments: Returns its arguments, for a user's sessions.
        gone: The sessions that it deletes.
        added: Number of messages that it adds to the first session.
        orphaned: Sessions whose document is removed first, as by an interrupted delete.
    """

    operation: str
    arguments: Callable[[str, Callable[[str], str]], list[Any]]
    gone: set[str] = field(default_factory=set)
    added: int = 0
    orphaned: set[str] = field(default_factory=set)

    @property
    def new_messages(self) -> list[str]:
        return [str(10 + index) for index in range(self.added)]


def _batch(size: int) -> Work:
    work = Work("add_messages", lambda _user, _id: [], added=size)
    work.arguments = lambda _user, id_of: [
        id_of("first"),
        [["user", content] for content in work.new_messages],
    ]
    return work


WORKS = {
    "delete": Work("delete_session_async", lambda user, id_of: [user, id_of("first")], {"first"}),
    "small batch": _batch(SMALL),
    "large batch": _batch(LARGE),
    "delete of a user": Work("delete_user", lambda user, _: [user], set(BASE)),
    "keeping the latest": Work("keep_latest_sessions", lambda user, _: [user, 1], {"first"}),
    "removing orphaned messages": Work("remove_orphaned_messages", lambda _user, _id: [], orphaned={"first"}),
    "creating anew": Work(
        "ensure_session_exists", lambda user, id_of: [id_of("first"), user], orphaned={"first"}
    ),
}


async def _prepare(repository: Any, backend: Backend, user: str, work: Work) -> Callable[[str], str]:
    ids = {name: f"{user}-{name}" for name in BASE}
    for name, contents in BASE.items():
        await repository.ensure_session_exists(ids[name], user)
        await repository.add_messages(ids[name], [("user", content) for content in contents])
    orphaned = {"session_id": {"$in": [ids[name] for name in work.orphaned]}}
    with MongoClient[dict[str, Any]](backend.url) as client:
        client.get_default_database()["chat_sessions"].delete_many(orphaned)
        # The steps must not depend on earlier partial states.
        client.get_default_database()["chat_unfinished"].delete_many({})
    return ids.__getitem__


async def _state(repository: Any, user: str, id_of: Callable[[str], str]) -> State:
    """Return the visible state, after checking that all operations agree on it."""
    seen: State = {}
    for name in BASE:
        found = await repository.get_session(user, id_of(name))
        history = [message.content for message in await repository.get_session_history(user, id_of(name))]
        newest = await repository.get_session_history(user, id_of(name), limit=4)
        assert [message.content for message in newest] == history[-4:]
        seen[name] = None if found is None else history
        assert found or not history
    there = {id_of(name) for name, history in seen.items() if history is not None}
    assert await repository.count_sessions(user) == len(there)
    assert {found.session_id for found in await repository.list_paginated_sessions_async(user)} == there
    assert {found.session_id for found in (await repository.list_sessions(user)).sessions} == there
    exported: dict[str, list[str]] = {}
    async for found, part in repository.export_user(user):
        exported.setdefault(found.session_id, []).extend(message.content for message in part)
    assert exported == {id_of(name): history for name, history in seen.items() if history is not None}
    return seen


def _assert_not_half_done(seen: State, work: Work) -> None:
    for name, before in BASE.items():
        allowed: list[list[str] | None] = [before]
        if name in work.orphaned:
            allowed = [None, []] if work.operation == "ensure_session_exists" else [None]
        elif name in work.gone:
            allowed = [before, None]
        elif name == "first":
            allowed = [before, [*before, *work.new_messages]]
        assert seen[name] in allowed


def _stored(backend: Backend, collection: str = "chat_messages") -> Counter[str]:
    with MongoClient[dict[str, Any]](backend.url) as client:
        found = client.get_default_database()[collection].find()
        return Counter(document.get("session_id", "") for document in found)


# -- After the kill ---------------------------------------------------------------------------------


async def _use(repository: Any, backend: Backend, user: str, seen: State, id_of: Any) -> None:
    """A deleted session accepts no messages; created again, it is empty."""
    for name, history in seen.items():
        if history is None:
            with pytest.raises(SessionNotFoundError):
                await repository.add_message(id_of(name), "user", "late")
            assert await repository.ensure_session_exists(id_of(name), "another user")
            assert await repository.get_session_history("another user", id_of(name)) == []
        await repository.add_message(id_of(name), "user", "next")
        owner = "another user" if history is None else user
        found = await repository.get_session_history(owner, id_of(name))
        assert [message.content for message in found] == [*(history or []), "next"]


async def _remove(repository: Any, backend: Backend, user: str, seen: State, id_of: Any) -> None:
    """The next clean-up, for any user, removes the partial state, and so does ``sessions db check``."""
    noted = _stored(backend, "chat_unfinished").total()
    if noted and user.endswith(("0", "2", "4", "6", "8")):
        assert await repository.delete_user("nobody") == 0
    else:
        assert "reachable" in await database.check(SessionRepositoryType.MONGODB, backend.url)
    stored = _stored(backend)
    for name, history in seen.items():
        assert stored[id_of(name)] == len(history or [])
    assert await _state(repository, user, id_of) == seen
    assert (await repository.remove_orphaned_messages()).removed == 0


# What README's command uses after the kill: a deleted session, one with a new batch, one created anew.
USED = ("delete", "large batch", "creating anew")


@pytest.mark.parametrize(
    ("name", "then"),
    [
        pytest.param(name, then, marks=[] if then is _remove or name in USED else [pytest.mark.full_size])
        for name in WORKS
        for then in (_use, _remove)
    ],
)
async def test_an_operation_killed_at_any_step_is_atomic(
    processes: Dying, backend: Backend, name: str, then: Callable[..., Awaitable[None]]
) -> None:
    work = WORKS[name]
    async with backend.repository() as repository:
        for step in range(MAX_STEPS):
            user = f"user-{step}"
            id_of = await _prepare(repository, backend, user, work)
            processes.start(backend, work.operation, *work.arguments(user, id_of), step=step)
            killed = processes.was_killed()
            seen = await _state(repository, user, id_of)
            _assert_not_half_done(seen, work)
            await then(repository, backend, user, seen, id_of)
            if not killed:
                break
        assert step > 1
        assert not killed
