"""A service's own validator rejects a message: a batch is still stored completely or not at all."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo import MongoClient

from sessions import BackendUnavailableError, SessionRepositoryFactory, SessionsError


@pytest.mark.parametrize("size", [2, 70])
@pytest.mark.parametrize("server", ["mongodb_url", "mongodb_standalone_url"])
async def test_a_batch_of_which_a_message_is_refused_leaves_none(
    server: str, size: int, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(server)
    async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repository:
        session_id = await repository.create_session_async("alice")
        await repository.add_message(session_id, "user", "before")
        with MongoClient[dict[str, Any]](url) as client:
            messages = client.get_default_database()["chat_messages"]
            client.get_default_database().command(
                "collMod", "chat_messages", validator={"content": {"$ne": "forbidden"}}
            )
            batch = [("user", f"{number}") for number in range(size - 1)]
            with pytest.raises(SessionsError) as refused:
                await repository.add_messages(session_id, [*batch, ("user", "forbidden")])
            assert isinstance(refused.value, BackendUnavailableError)
            assert "forbidden" not in str(refused.value)
            assert messages.count_documents({}) == 1
        history = await repository.get_session_history("alice", session_id)
        assert [message.content for message in history] == ["before"]
