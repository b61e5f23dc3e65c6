"""Documents of release 0.1: read as before, and their orphaned messages kept out of later sessions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from bson import ObjectId

from sessions import SessionRepositoryFactory
from sessions.cli.importing import import_lines
from sessions.cli.storing import message_id as _message_id
from sessions.core.identifiers import new_message_id, uuid7_time

CREATED = datetime(2026, 1, 2, tzinfo=UTC)


def session_of_release(session_id: str, user: str) -> dict[str, Any]:
    return {
        "_id": ObjectId(),
        "session_id": session_id,
        "title": "New Chat",
        "user_id": user,
        "created_at": CREATED,
        "updated_at": CREATED,
        "metadata": {},
    }


def message_of_release(chat_session: dict[str, Any], message_id: str, content: str) -> dict[str, Any]:
    timestamp = uuid7_time(message_id)
    random_bits = int(message_id[19:23] + message_id[24:], 16)
    tag = int.from_bytes(hashlib.blake2b(str(chat_session["_id"]).encode(), digest_size=4).digest(), "big")
    seconds = int(timestamp.timestamp()).to_bytes(4, "big")
    return {
        "_id": ObjectId(seconds + (random_bits ^ tag).to_bytes(8, "big")),
        "message_id": message_id,
        "session_id": chat_session["session_id"],
        "role": "user",
        "content": content,
        "timestamp": timestamp,
    }


async def test_old_messages_are_shown_among_new_ones_and_deleted_with_them(url: str, raw: Any) -> None:
    async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repo:
        await repo._ensure_connection()
        old = session_of_release(str(uuid.uuid4()), "alice")
        raw.chat_sessions.insert_one(old)
        ids = [new_message_id() for _ in range(5)]
        raw.chat_messages.insert_many([message_of_release(old, one, f"old {one}") for one in ids])
        ids.append(await repo.add_message(old["session_id"], "user", "new"))
        ids += await repo.add_messages(old["session_id"], [("user", "new")] * 100)

        history = await repo.get_session_history("alice", old["session_id"])
        assert [message.message_id for message in history] == ids
        found = await repo.search_messages("alice", "OLD", limit=4)
        assert [hit.message.message_id for hit in found.hits] == ids[4:0:-1]
        assert await repo.delete_session_async("alice", old["session_id"])
        assert raw.chat_messages.count_documents({}) == 0


async def test_orphaned_messages_of_the_former_release_are_not_visible_in_a_session_created_again(
    url: str, raw: Any
) -> None:
    async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repo:
        await repo._ensure_connection()
        old = session_of_release(str(uuid.uuid4()), "alice")
        assert await repo.ensure_session_exists(old["session_id"], "bob")
        raw.chat_messages.insert_one(message_of_release(old, new_message_id(), "secret"))
        own = await repo.add_message(old["session_id"], "user", "own")

        history = await repo.get_session_history("bob", old["session_id"])
        assert [message.message_id for message in history] == [own]
        assert (await repo.search_messages("bob", "secret")).hits == []


@pytest.mark.parametrize("size", [3, 4096, 5000])
async def test_an_import_completes_what_the_former_release_stored_of_it(
    url: str, raw: Any, size: int
) -> None:
    """It stored at most 4,096 messages of a session, and reported that all were stored."""
    async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repo:
        await repo._ensure_connection()
        old = session_of_release(str(uuid.uuid4()), "alice")
        raw.chat_sessions.insert_one(old)
        moment = int(CREATED.timestamp() * 1000)
        contents = [f"message {place}" for place in range(size)]
        stored = [
            message_of_release(old, _message_id(old["session_id"], moment, place), content)
            for place, content in enumerate(contents[:4096])
        ]
        raw.chat_messages.insert_many(stored)
        line = {"session_id": old["session_id"], "user_id": "alice", "title": "New Chat"}
        line["messages"] = [{"role": "user", "content": content} for content in contents]
        totals = await import_lines(
            repo, [json.dumps(line).encode()], report=pytest.fail, advance=lambda _, __: None
        )

        assert totals.messages == max(0, size - 4096)
        history = await repo.get_session_history("alice", old["session_id"])
        assert [message.content for message in history] == contents
        assert raw.chat_messages.count_documents({}) == size


async def test_the_former_names_of_the_clean_up_still_work(url: str, raw: Any) -> None:
    async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repo:
        await repo._ensure_connection()
        for clean_up in (repo.remove_leftovers, partial(asyncio.to_thread, repo.remove_leftovers_sync)):
            deleted = session_of_release(str(uuid.uuid4()), "alice")
            raw.chat_messages.insert_one(message_of_release(deleted, new_message_id(), ""))

            assert (await clean_up()).removed == 1
            assert raw.chat_messages.count_documents({}) == 0
