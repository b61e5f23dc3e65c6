"""Every operation in its plain name, async and blocking: the user first, the owner checked."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from sessions import AsyncChats, Chats, MessageConflictError, NewMessage, SessionNotFoundError
from sessions import VersionConflictError as Conflict
from sessions.core.operations import Operations

PAST = datetime(2024, 2, 29, 12, tzinfo=UTC)
Call = Callable[..., Awaitable[Any]]


class Plain:
    """The plain names of `AsyncChats` or `Chats`, each awaitable; notes which were called."""

    def __init__(self, chats: AsyncChats | Chats) -> None:
        self.chats = chats
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Call:
        self.called.add(name)

        async def call(*arguments: Any, **options: Any) -> Any:
            result = getattr(self.chats, name)(*arguments, **options)
            if inspect.isasyncgen(result):
                return [item async for item in result]
            if inspect.isgenerator(result):
                return list(result)
            return await result if inspect.isawaitable(result) else result

        return call


@pytest.fixture(params=[AsyncChats, Chats])
def plain(request: pytest.FixtureRequest, repository: Any) -> Plain:
    return Plain(request.param(repository=repository))


async def test_each_operation_works_under_its_plain_name(plain: Plain) -> None:
    mine, asked = "alice", uuid.uuid4()
    first = NewMessage("user", "What is in Rome?", message_id=asked, metadata={"a": 1}, payload={"z": None})
    session_id = await plain.create_session(mine, title="Trip", metadata={"pinned": True}, messages=[first])
    other = str(uuid.uuid4())
    assert await plain.ensure_session_exists(mine, other, title="Other", metadata={"n": 1}) is True
    answer = await plain.add_message(
        *(mine, session_id, "assistant", "The Forum."),
        message_id=uuid.uuid4(),
        timestamp=PAST,
        metadata={"b": 1},
        payload=[1],
        expected_version=0,
    )
    added = await plain.add_messages(mine, session_id, [("tool", "x"), first], merge_metadata={"c": 1})
    assert added[1] == str(asked)
    history = await plain.get_session_history(mine, session_id)
    assert [message.message_id for message in history] == [answer, str(asked), added[0]]
    assert (history[0].timestamp, history[0].metadata, history[0].payload) == (PAST, {"b": 1}, [1])
    assert await plain.get_session_history(mine, session_id, after=answer, limit=1) == history[1:2]
    assert await plain.get_session_history(mine, session_id, since=PAST, limit=0) == []
    assert await plain.get_message(mine, session_id, asked) == history[1]
    assert await plain.count_messages(mine, session_id) == 3
    assert await plain.get_session_payloads(mine, session_id) == [[1], {"z": None}, history[2]]

    found = await plain.get_session(mine, session_id)
    assert (found.title, found.metadata, found.version) == ("Trip", {"pinned": True, "c": 1}, 2)
    assert await plain.update_session(
        mine, session_id, title="Rome", merge_metadata={"d": 1}, remove_metadata=["c"], if_title="Trip"
    )
    assert await plain.update_session(mine, session_id, {"title": "Roma"}, touch=False, expected_version=3)
    with pytest.raises(Conflict):
        await plain.update_session(mine, session_id, metadata={}, expected_version=3)
    assert (await plain.get_session(mine, session_id)).metadata == {"pinned": True, "d": 1}
    page = await plain.list_sessions(mine, where={"pinned": True})
    assert [item.session_id for item in page.sessions] == [session_id]
    previews = await plain.list_session_previews(mine, where={"pinned": [True, None]}, limit=1)
    assert previews.previews[0].last_message == history[-1]
    assert await plain.count_sessions(mine, where={"n": 1}) == 1
    hits = (await plain.search_messages(mine, "rome", session_id=session_id)).hits
    assert [hit.message for hit in hits] == [history[1]]

    assert await plain.update_message(
        mine, session_id, answer, content="New", payload=None, expected_version=4
    )
    fork_id = await plain.fork_session(mine, session_id, through=asked, session_data={"title": "Branch"})
    assert [item.content for item in await plain.get_session_history(mine, fork_id)] == [
        "New",
        "What is in Rome?",
    ]
    assert (await plain.pop_message(mine, session_id)).message_id == added[0]
    assert await plain.delete_messages(mine, session_id, [answer, uuid.uuid4()]) == 1
    assert await plain.delete_messages_from(mine, session_id, asked, inclusive=False) == 0
    assert await plain.delete_messages_from(mine, session_id, asked) == 1
    assert len(await plain.replace_messages(mine, session_id, [("system", "a"), ("user", "b")])) == 2
    assert await plain.clear_messages(mine, session_id) == 2
    assert {item.session_id for item, _ in await plain.export_user(mine)} == {session_id, other, fork_id}
    assert await plain.delete_session(mine, session_id, expected_version=(await _version(plain, session_id)))
    later = datetime.now(UTC) + timedelta(days=1)
    assert await plain.delete_sessions_older_than(mine, later, where={"n": 1}) == 1
    assert await plain.keep_latest_sessions(mine, 1) == 0
    assert await plain.delete_user(mine) == 1
    await plain.ensure_ready()
    assert await plain.is_healthy() is True

    public = {name for name, _ in inspect.getmembers(Operations, inspect.isfunction) if name[0] != "_"}
    assert public - {"aclose"} <= plain.called


async def _version(plain: Plain, session_id: str) -> int:
    version: int = (await plain.get_session("alice", session_id)).version
    return version


async def test_another_user_reaches_nothing_under_the_plain_names(plain: Plain) -> None:
    message = NewMessage("user", "secret", message_id=uuid.uuid4())
    session_id = await plain.create_session("alice", messages=[message])
    before = (
        await plain.get_session("alice", session_id),
        await plain.get_session_history("alice", session_id),
    )
    bob, message_id = "bob", message.message_id
    for call in (
        partial(plain.add_message, bob, session_id, "user", "Hi"),
        partial(plain.add_message, bob, session_id, "user", "secret", message_id=message_id),
        partial(plain.add_messages, bob, session_id, [], merge_metadata={"a": 1}),
        partial(plain.replace_messages, bob, session_id, []),
        partial(plain.fork_session, bob, session_id),
    ):
        with pytest.raises(SessionNotFoundError):
            await call()
    for result in (
        await plain.update_session(bob, session_id, merge_metadata={"a": 1}),
        await plain.get_message(bob, session_id, message_id),
        await plain.count_messages(bob, session_id),
        await plain.get_session_payloads(bob, session_id),
        await plain.update_message(bob, session_id, message_id, content="New"),
        await plain.pop_message(bob, session_id),
        await plain.delete_messages(bob, session_id, [message_id]),
        await plain.delete_messages_from(bob, session_id, message_id),
        await plain.clear_messages(bob, session_id),
        (await plain.list_session_previews(bob)).previews,
        (await plain.search_messages(bob, "secret")).hits,
        await plain.delete_session(bob, session_id, expected_version=0),
    ):
        assert not result
    with pytest.raises(MessageConflictError):
        await plain.create_session(bob, messages=[message])
    after = await plain.get_session("alice", session_id), await plain.get_session_history("alice", session_id)
    assert after == before
