"""Every operation once, so that every statement is sent."""

from __future__ import annotations

from typing import Any


async def use_everything(repo: Any, user: str) -> None:
    """Call every operation for a user who has nothing, neither before nor after it."""
    session_id = await repo.create_session_async(user, {"title": "T", "metadata": {"a": 1}})
    other = "00000000-0000-4000-8000-000000000001"
    assert [await repo.ensure_session_exists(other, user) for _ in range(2)] == [True, False]
    first = await repo.add_message(session_id, "user", "one")
    second = await repo.add_message(session_id, "assistant", "two", user_id=user)
    third, fourth = await repo.add_messages(session_id, [("user", "three"), ("user", "four")])
    (fifth,) = await repo.add_messages(session_id, [("user", "five")], user_id=user)
    assert await repo.update_session_async(user, session_id, {"title": "New"})
    assert (await repo.get_session(user, session_id)).title == "New"
    history = await repo.get_session_history(user, session_id)
    assert [message.message_id for message in history] == [first, second, third, fourth, fifth]
    newest = await repo.get_session_history(user, session_id, limit=2, before=fifth)
    assert [message.message_id for message in newest] == [third, fourth]
    assert len(await repo.get_session_history(user, session_id, before=second)) == 1
    assert len(await repo.list_paginated_sessions_async(user)) == 2
    found = await repo.search_messages(user, "F", limit=1)
    assert [hit.message.message_id for hit in found.hits] == [fifth]
    found = await repo.search_messages(user, "F", session_id=session_id, cursor=found.next_cursor)
    assert [hit.message.message_id for hit in found.hits] == [fourth]
    page = await repo.list_sessions(user, limit=1)
    assert [item.session_id for item in page.sessions] == [session_id]
    page = await repo.list_sessions(user, limit=1, cursor=page.next_cursor)
    assert [item.session_id for item in page.sessions] == [other]
    assert [len(messages) async for _, messages in repo.export_user(user)] in ([0, 5], [5, 0])
    assert await repo.count_sessions(user) == 2
    assert await repo.keep_latest_sessions(user, 1) == 1
    moment = (await repo.get_session(user, session_id)).updated_at
    assert await repo.delete_sessions_older_than(moment) == 0
    assert await repo.delete_sessions_older_than(moment, user_id=user) == 0
    assert await repo.delete_session_async(user, session_id)
    await repo.create_session_async(user)
    assert await repo.delete_user(user) == 1
