"""The operations of a read-only user, and the rejected writes."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from sessions import ConfigurationError, SessionsError


async def converse(writer: Any) -> str:
    session_id: str = await writer.create_session_async("ann", {"title": "Rome"})
    await writer.add_messages(session_id, [("user", "Hello"), ("assistant", "Hi!")])
    return session_id


async def read_everything(reader: Any, session_id: str) -> None:
    """Call every operation that only reads."""
    assert (await reader.get_session("ann", session_id)).title == "Rome"
    assert await reader.get_session("bob", session_id) is None
    history = await reader.get_session_history("ann", session_id)
    assert [message.content for message in history] == ["Hello", "Hi!"]
    last = await reader.get_session_history("ann", session_id, limit=1, before=history[1].message_id)
    assert last == history[:1]
    assert len(await reader.list_paginated_sessions_async("ann")) == 1
    assert (await reader.list_sessions("ann")).next_cursor is None
    assert await reader.count_sessions("ann") == 1
    assert [len(messages) async for _, messages in reader.export_user("ann")] == [2]


def writes(repo: Any, session_id: str) -> dict[str, Callable[[], Any]]:
    return {
        "create": lambda: repo.create_session_async("ann"),
        "ensure": lambda: repo.ensure_session_exists(str(uuid.uuid4()), "ann"),
        "update": lambda: repo.update_session_async("ann", session_id, {"title": "x"}),
        "add": lambda: repo.add_message(session_id, "user", "secret content"),
        "add many": lambda: repo.add_messages(session_id, [("user", "secret content")], user_id="ann"),
        "delete": lambda: repo.delete_session_async("ann", session_id),
        "keep": lambda: repo.keep_latest_sessions("ann", 0),
        "delete user": lambda: repo.delete_user("ann"),
    }


async def assert_refused(
    repo: Any, session_id: str, reason: str, expected: type[SessionsError] = ConfigurationError
) -> None:
    for name, write in writes(repo, session_id).items():
        with pytest.raises(expected, match=reason) as caught:
            await write()
        assert "secret content" not in str(caught.value), name
    assert await repo.count_sessions("ann") == 1
