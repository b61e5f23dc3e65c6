"""A session of the OpenAI Agents SDK, by the protocol ``agents.memory.Session``."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from agents.memory import Session, SessionSettings, SQLiteSession

from sessions import InvalidInputError, SessionConflictError
from sessions.integrations.openai_agents import AgentSession
from tests.integrations.openai_agents.items import ITEMS

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def said(*texts: str) -> list[Any]:
    return [{"role": "user", "content": text} for text in texts]


def opened(repository: Any, session_id: str = "trip", user_id: str = "alice", **options: Any) -> AgentSession:
    return AgentSession(session_id, repository=repository, user_id=user_id, **options)


def test_it_has_the_protocol_of_the_sdk() -> None:
    session: Session = opened(object())
    assert isinstance(session, Session)
    assert session.session_id == "trip"
    assert session.session_settings == SessionSettings()
    for name in ("get_items", "add_items", "pop_item", "clear_session"):
        theirs = inspect.signature(getattr(SQLiteSession, name)).parameters
        # The SDK passes `wrapper` to the sessions that take it.
        assert [*theirs, "wrapper"] == [*inspect.signature(getattr(AgentSession, name)).parameters]


async def test_items_come_back_equal_and_read_well(repository: Any) -> None:
    items = [item for item, *_ in ITEMS]
    await opened(repository).add_items(items[:3])
    await opened(repository).add_items(items[3:])
    session = opened(repository)
    assert await session.get_items() == items
    history = await repository.get_session_history("alice", session.stored_session_id)
    assert [(message.role, message.content) for message in history] == [tuple(rest) for _, *rest in ITEMS]
    assert [list(message.payload) for message in history] == [list(item) for item in items]
    facts = {message.content: message.metadata for message in history if message.metadata}
    assert facts["Sunny"] == facts['weather({"city": "Rome"})'] == {"tool.name": "weather"}
    assert facts["The Pantheon.\nNo more."] == {"model": "small-1"}
    [stored] = (await repository.list_sessions("alice", where={"framework": "openai-agents"})).sessions
    assert stored.title == "What is in Rome?"
    assert stored.metadata == {"framework": "openai-agents", "framework_session_id": "trip"}


async def test_a_limit_returns_the_newest_items_in_their_order(repository: Any) -> None:
    texts = [f"Message {number}" for number in range(5)]
    await opened(repository).add_items(said(*texts))
    for limit in (None, -5, 0, 1, 5, 6, 1001, 2**31 - 1, 2**40):
        expected = said(*(texts if limit is None else texts[-limit:] if limit > 0 else []))
        assert await opened(repository).get_items(limit) == expected
        session = opened(repository, session_settings=SessionSettings(limit=limit))
        assert await session.get_items() == expected
        assert await session.get_items(limit=3) == said(*texts[-3:])


async def test_more_than_a_thousand_items_are_read(repository: Any) -> None:
    texts = [f"Message {number}" for number in range(1200)]
    await opened(repository).add_items(said(*texts))
    assert await opened(repository).get_items() == said(*texts)
    assert await opened(repository).get_items(1100) == said(*texts[100:])


async def test_settings_may_be_a_mapping_and_change(repository: Any) -> None:
    session = opened(repository, session_settings={"limit": 1})
    assert session.session_settings == SessionSettings(limit=1)
    await session.add_items(said("One", "Two", "Three"))
    assert await session.get_items() == said("Three")
    session.session_settings = SessionSettings(limit=2)
    assert await session.get_items() == said("Two", "Three")
    session.session_settings = None
    assert len(await session.get_items()) == 3


@pytest.mark.parametrize("settings", [{"limt": 1}, [1]])
def test_settings_that_are_none_of_the_sdk_are_a_type_error(settings: Any) -> None:
    with pytest.raises(TypeError, match="settings"):
        opened(object(), session_settings=settings)


@pytest.mark.parametrize("session_id", [1, None, b"trip"])
def test_an_id_that_is_no_text_is_a_type_error(session_id: Any) -> None:
    with pytest.raises(TypeError, match="session_id must be a string"):
        opened(object(), session_id)


@pytest.mark.parametrize("value", [object(), {1}])
async def test_an_item_that_is_no_json_stores_none_of_the_batch(repository: Any, value: Any) -> None:
    """The SDK's own sessions raise the TypeError of ``json``."""
    session = opened(repository)
    for error in (TypeError, InvalidInputError):
        with pytest.raises(error):
            await session.add_items([*said("One"), {"role": "user", "content": value}])
    assert await session.get_items() == []


async def test_the_newest_item_is_popped_and_all_are_cleared(repository: Any) -> None:
    session = opened(repository)
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()
    await session.add_items([])
    assert await repository.count_sessions("alice") == 0
    await session.add_items(said("One", "Two", "Three"))
    assert [await session.pop_item(), await session.pop_item()] == said("Three", "Two")
    await session.add_items(said("Four"))
    assert await session.get_items() == said("One", "Four")
    await session.clear_session()
    assert await session.get_items() == []
    assert await session.pop_item() is None
    # With its title and its metadata.
    assert (await repository.get_session("alice", session.stored_session_id)).title == "One"
    await session.add_items(said("Five"))
    assert await session.get_items() == said("Five")


async def test_sessions_and_users_do_not_meet(repository: Any) -> None:
    for user_id in ("alice", "bob"):
        for session_id in ("1", "2"):
            await opened(repository, session_id, user_id).add_items(said(f"{user_id} {session_id}"))
    await opened(repository, "1", "alice").clear_session()
    await opened(repository, "2", "alice").pop_item()
    assert await opened(repository, "1", "bob").get_items() == said("bob 1")
    assert await opened(repository, "2", "bob").get_items() == said("bob 2")
    assert await repository.count_sessions("bob") == 2


async def test_a_uuid_is_the_id_of_the_session_and_belongs_to_one_user(repository: Any) -> None:
    mine, another = opened(repository, UUID), opened(repository, UUID, "bob")
    await mine.add_items(said("One"))
    assert await repository.count_messages("alice", UUID) == 1
    with pytest.raises(SessionConflictError):
        await another.add_items(said("Two"))
    assert (await another.get_items(), await another.pop_item()) == ([], None)
    await another.clear_session()
    assert await mine.get_items() == said("One")


async def test_of_items_that_cannot_be_stored_none_is(repository: Any) -> None:
    session = opened(repository)
    bad: Any = {"role": "user", "content": object()}
    with pytest.raises(InvalidInputError):
        await session.add_items([*said("One"), bad])
    assert await session.get_items() == []
    with pytest.raises(InvalidInputError, match="user_id"):
        opened(repository, user_id="")


async def test_changing_an_item_changes_nothing_that_is_stored(repository: Any) -> None:
    session, items = opened(repository), said("One")
    await session.add_items(items)
    items[0]["content"] = "changed"
    found: list[Any] = await session.get_items()
    found[0]["content"] = "changed"
    assert await session.get_items() == said("One")


async def test_messages_that_another_part_of_a_service_stored_are_items(repository: Any) -> None:
    stored = [("system", "Be brief."), ("user", "Hi"), ("tool", "42"), ("assistant", "Hello")]
    session_id = await repository.create_session_async("alice", messages=stored)
    session = opened(repository, session_id)
    expected: list[Any] = [{"role": role, "content": text} for role, text in stored if role != "tool"]
    assert await session.get_items() == expected
    # A limit counts items, whatever else there is.
    for limit in (0, 1, 2, 3, 4):
        assert await session.get_items(limit) == expected[3 - min(limit, 3) :]
    assert [await session.pop_item() for _ in range(4)] == [*expected[::-1], None]


async def test_concurrent_batches_are_kept_together(repository: Any) -> None:
    batches = [said(f"{number} first", f"{number} second") for number in range(10)]
    await asyncio.gather(*(opened(repository).add_items(batch) for batch in batches))
    items = await opened(repository).get_items()
    pairs = [items[index : index + 2] for index in range(0, 20, 2)]
    assert sorted(pairs, key=str) == sorted(batches, key=str)
    assert await repository.count_sessions("alice") == 1


async def test_a_write_whose_caller_is_cancelled_is_settled_when_the_call_returns(repository: Any) -> None:
    session = opened(repository)
    await session.add_items(said("One"))
    for number in range(5):
        writing = asyncio.create_task(session.add_items(said(f"A {number}", f"B {number}")))
        for _ in range(number):
            await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        before = await session.get_items()
        await asyncio.sleep(0.02)
        assert await session.get_items() == before
        assert len(before) % 2 == 1
