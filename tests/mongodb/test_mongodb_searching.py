"""What a search in MongoDB does beside other writers, and for a user with very many sessions."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from sessions import SearchPage
from sessions.backends.mongodb import searching


@pytest.fixture(params=["mongodb_url", "mongodb_standalone_url"], ids=["replica-set", "standalone"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    with MongoClient[dict[str, Any]](url) as client:
        yield client.get_default_database()


async def test_sessions_are_searched_some_at_a_time(repository: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [await repository.create_session_async("user") for _ in range(7)]
    for number in range(21):
        # The session that was written to last has the newest hit, and the oldest ones.
        await repository.add_message(ids[number * 5 % 7], "user", f"hit {number}")
    expected = [f"hit {number}" for number in reversed(range(21))]

    for at_once in (1, 2, 3, 7, 8):
        monkeypatch.setattr(searching, "SESSIONS_AT_ONCE", at_once)
        for limit in (1, 4, 20, 21, 100):
            page = await repository.search_messages("user", "hit", limit=limit)
            assert [hit.message.content for hit in page.hits] == expected[:limit]
            assert (page.next_cursor is None) is (limit > 20)


async def test_a_session_that_is_deleted_meanwhile_has_no_hits(
    repository: Any, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, staying = [await repository.create_session_async("user") for _ in range(2)]
    for session_id in (staying, going):
        await repository.add_message(session_id, "user", f"hit of {session_id}")
    visible, deleted = searching.MongoSearch._find_hits, []

    async def then_delete(*arguments: Any) -> Any:
        found = await visible(*arguments)
        if not deleted:
            deleted.append(raw.chat_sessions.delete_one({"session_id": going}).deleted_count)
        return found

    monkeypatch.setattr(searching.MongoSearch, "_find_hits", then_delete)
    page = await repository.search_messages("user", "hit")

    assert deleted == [1]
    assert [hit.message.content for hit in page.hits] == [f"hit of {staying}"]


async def test_a_session_that_another_user_creates_meanwhile_has_no_hits(
    repository: Any, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = str(uuid.uuid4())
    assert await repository.ensure_session_exists(session_id, "user")
    visible, changed = searching.MongoSearch._find_hits, []

    async def after_a_change(*arguments: Any) -> Any:
        if not changed:
            raw.chat_sessions.delete_one({"session_id": session_id})
            changed.append(await repository.ensure_session_exists(session_id, "another"))
            await repository.add_message(session_id, "user", "hit of another")
            # Of a program that knows no field for the session's document.
            raw.chat_messages.update_many({"session_id": session_id}, {"$unset": {"session_oid": 1}})
        return await visible(*arguments)

    monkeypatch.setattr(searching.MongoSearch, "_find_hits", after_a_change)

    assert await repository.search_messages("user", "hit") == SearchPage([], None)
    assert changed == [True]
    assert len((await repository.search_messages("another", "hit")).hits) == 1


async def test_what_is_not_visible_does_not_shorten_a_page(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async("user")
    for number in range(6):
        await repository.add_message(session_id, "user", f"hit {number}")
        hidden = await repository.add_message(session_id, "user", f"hit, of an earlier session {number}")
        raw.chat_messages.update_one({"_id": hidden}, {"$set": {"session_oid": "earlier"}})
        hidden = await repository.add_message(session_id, "user", f"hit, of half a batch {number}")
        raw.chat_messages.update_one({"_id": hidden}, {"$set": {"batch": f"never stored {number}"}})

    contents, cursor = [], None
    for left in (4, 2, 0):
        page = await repository.search_messages("user", "hit", limit=2, cursor=cursor)
        contents += [hit.message.content for hit in page.hits]
        cursor = page.next_cursor
        assert (cursor is None) is (left == 0)
    assert contents == [f"hit {number}" for number in reversed(range(6))]
