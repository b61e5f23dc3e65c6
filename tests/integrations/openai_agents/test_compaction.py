"""The SDK's session that compacts a history, around one of ours: what it replaces it replaces atomically."""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from agents.extensions.memory import RedisSession, SQLAlchemySession
from agents.memory import OpenAIResponsesCompactionSession

from sessions.integrations.openai_agents import AgentSession

VERSION = tuple(map(int, version("openai-agents").split(".")[:2]))
SUMMARY: Any = {"id": "cmp_1", "type": "compaction", "encrypted_content": "gAAAA"}


def said(*texts: str) -> list[Any]:
    return [{"role": "user", "content": text} for text in texts]


@pytest.fixture
def session(repository: Any) -> AgentSession:
    return AgentSession("trip", repository=repository, user_id="alice")


class Client:
    """What the compacting session needs of a client of OpenAI."""

    def __init__(self) -> None:
        self.responses = self
        self.asked: list[dict[str, Any]] = []

    async def compact(self, **options: Any) -> Any:
        self.asked.append(options)
        return SimpleNamespace(output=[SUMMARY], usage=None)


async def test_a_compaction_replaces_the_history(session: AgentSession) -> None:
    client: Any = Client()
    compacting = OpenAIResponsesCompactionSession("trip", session, client=client, compaction_mode="input")
    await compacting.add_items(said("One", "Two"))
    await compacting.run_compaction({"force": True})
    assert len(client.asked) == 1
    assert await session.get_items() == [SUMMARY]
    await compacting.add_items(said("Three"))
    assert await session.get_items() == [SUMMARY, *said("Three")]


async def test_a_reader_never_sees_a_history_between_the_old_and_the_new(
    session: AgentSession, repository: Any
) -> None:
    old = said(*map(str, range(5)))
    await session.add_items(old)
    seen: list[Any] = []
    is_over = False

    async def read() -> None:
        while not is_over:
            seen.append(await AgentSession("trip", repository=repository, user_id="alice").get_items())

    reading = asyncio.create_task(read())
    while not seen:
        await asyncio.sleep(0)
    assert await session._atomic_replace_items([SUMMARY])
    is_over = True
    await reading
    assert all(items in (old, [SUMMARY]) for items in seen)
    assert await session.get_items() == [SUMMARY]


async def test_a_suffix_is_replaced_unless_it_has_changed(session: AgentSession, repository: Any) -> None:
    await session.add_items(said(*map(str, range(6))))
    before = await repository.get_session_history("alice", session.stored_session_id)
    snapshot = await session._get_compaction_snapshot(3)
    assert snapshot is not None
    assert (snapshot.items, snapshot.complete) == (said("3", "4", "5"), False)
    assert await snapshot.replace_suffix(1, [SUMMARY, *said("new")])
    await session.add_items(said("6"))
    assert await session.get_items() == [*said("0", "1", "2", "3"), SUMMARY, *said("new", "6")]
    after = await repository.get_session_history("alice", session.stored_session_id)
    assert after[:4] == before[:4]
    assert not await snapshot.replace_suffix(1, [SUMMARY])
    assert not await snapshot.replace_suffix(3, [SUMMARY])
    whole = await session._get_compaction_snapshot(7)
    assert whole is not None
    assert whole.complete
    await session.pop_item()
    assert not await whole.replace_suffix(0, [SUMMARY])
    assert len(await session.get_items()) == 6


async def test_what_has_expired_before_the_suffix_is_left_out(session: AgentSession) -> None:
    await session.add_items(said("old", "old", "kept", "old", "last"))
    snapshot = await session._get_compaction_snapshot(1, prune_prefix=lambda item: item["content"] == "old")  # type: ignore[typeddict-item]
    assert snapshot is not None
    assert await snapshot.replace_suffix(0, [SUMMARY])
    assert await session.get_items() == [*said("kept", "old"), SUMMARY]


async def test_there_is_nothing_to_replace_without_items(session: AgentSession) -> None:
    snapshot = await session._get_compaction_snapshot(3)
    assert snapshot is not None
    assert (snapshot.items, snapshot.complete) == ([], True)
    assert not await snapshot.replace_suffix(0, [SUMMARY])


async def test_a_subclass_whose_items_may_have_another_form_replaces_nothing(repository: Any) -> None:
    class Encrypted(AgentSession):
        pass

    session = Encrypted("trip", repository=repository, user_id="alice")
    assert not await session._atomic_replace_items([SUMMARY])
    assert await session._get_compaction_snapshot(3) is None


def test_the_sdk_looks_for_these_private_names() -> None:
    # Our session has them for it: see `AgentSession`.
    source = inspect.getsource(inspect.getmodule(OpenAIResponsesCompactionSession) or object)
    if VERSION >= (0, 23):
        assert '"_get_compaction_snapshot"' in source
        theirs = inspect.signature(SQLAlchemySession._get_compaction_snapshot).parameters
        assert theirs.keys() == inspect.signature(AgentSession._get_compaction_snapshot).parameters.keys()
    if VERSION >= (0, 24):
        assert '"_atomic_replace_items"' in source
        theirs = inspect.signature(RedisSession._atomic_replace_items).parameters
        assert theirs.keys() == inspect.signature(AgentSession._atomic_replace_items).parameters.keys()
