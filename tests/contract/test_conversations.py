"""Realistic conversations on every backend."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


async def test_conversations_read_back_equal_to_the_file(
    repository: Any, conversations: list[dict[str, Any]]
) -> None:
    chosen = conversations[:: max(1, len(conversations) // 80)]
    by_user: dict[str, list[str]] = defaultdict(list)
    for item in chosen:
        session_id, user_id = item["session_id"], item["user_id"]
        by_user[user_id].append(session_id)
        data = {"title": item["title"], "metadata": item["metadata"]}
        assert await repository.ensure_session_exists(session_id, user_id, data)
        first, *rest = [(message["role"], message["content"]) for message in item["messages"]]
        await repository.add_message(session_id, *first, user_id=user_id)
        await repository.add_messages(session_id, rest, user_id=user_id)
    for item in chosen:
        chat_session = await repository.get_session(item["user_id"], item["session_id"])
        assert (chat_session.title, chat_session.metadata) == (item["title"], item["metadata"])
        history = await repository.get_session_history(item["user_id"], item["session_id"])
        assert [{"role": m.role, "content": m.content} for m in history] == item["messages"]
    messages = {item["session_id"]: item["messages"] for item in chosen}
    for user_id, session_ids in by_user.items():
        listed = await repository.list_paginated_sessions_async(user_id, 0, 1000)
        assert {item.session_id for item in listed} == set(session_ids)
        exported = {item.session_id: part async for item, part in repository.export_user(user_id)}
        assert exported.keys() == set(session_ids)
        for session_id, part in exported.items():
            assert [{"role": m.role, "content": m.content} for m in part] == messages[session_id]
