"""Previews, commands and the order of messages on MongoDB, and documents of the previous release."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient, monitoring

from sessions import MessageConflictError, NewMessage, SessionRepositoryFactory, VersionConflictError
from sessions.backends.mongodb.collections import NEWEST_FIRST
from sessions.backends.mongodb.expressions import page_query
from sessions.backends.mongodb.options import client_class
from sessions.backends.mongodb.previews import WITH_NEWEST_MESSAGE
from sessions.core.identifiers import new_message_id
from sessions.models.documents import ChatMessageDocument
from tests.mongodb.stored import USER, contents, version

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FORMER_INDEX = "session_id_1_timestamp_1_message_id_1"


class Commands(monitoring.CommandListener):
    """Records the names of the sent commands."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.sent.append(event.command_name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


# --- documents of the previous release --------------------------------------------------------------


async def test_documents_of_the_previous_release_count_as_version_0(repository: Any, raw: Any) -> None:
    await repository.ensure_ready()
    oid, old_ids = ObjectId(), [str(uuid.uuid4()) for _ in range(2)]
    times = {"created_at": MOMENT, "updated_at": MOMENT}
    raw.chat_sessions.insert_one(
        {"_id": oid, "session_id": "s", "title": "t", "user_id": USER, "metadata": {}} | times
    )
    message = {"session_id": "s", "session_oid": oid, "role": "user", "timestamp": MOMENT}
    raw.chat_messages.insert_many(
        [message | {"_id": one, "message_id": one, "content": one} for one in sorted(old_ids)]
    )
    assert await version(repository, "s") == 0
    [preview] = (await repository.list_session_previews(USER)).previews
    assert preview.last_message.content == max(old_ids)
    assert (preview.last_message.metadata, preview.last_message.payload) == ({}, None)

    # Of the same time: the older documents come first.
    await repository.add_message("s", "user", "new", timestamp=MOMENT, expected_version=0)
    assert await contents(repository, "s") == [*sorted(old_ids), "new"]
    with pytest.raises(VersionConflictError):
        await repository.update_session_async(USER, "s", {"title": "u"}, expected_version=0)
    assert await repository.update_session_async(USER, "s", {"title": "u"}, expected_version=1)
    raw.chat_sessions.update_one({"session_id": "s"}, {"$unset": {"version": 1}})
    assert await repository.update_session_async(USER, "s", {"title": "v"}, expected_version=0)
    raw.chat_sessions.update_one({"session_id": "s"}, {"$unset": {"version": 1}})
    assert await repository.delete_session_async(USER, "s", expected_version=0)


async def test_the_validator_of_the_previous_release_is_widened_again(url: str, raw: Any) -> None:
    """A process of the previous release sets its validator, and creates its index, when it starts."""
    async with SessionRepositoryFactory.create_repository("mongodb", url=url) as repository:
        session_id = await repository.create_session_async(USER)
        wide = raw.chat_messages.options()["validator"]
        assert wide == ChatMessageDocument.VALIDATOR
        former = {
            "$jsonSchema": {**wide["$jsonSchema"], "properties": dict(wide["$jsonSchema"]["properties"])}
        }
        former["$jsonSchema"]["properties"]["role"] = {"enum": ["user", "assistant"]}
        raw.command("collMod", "chat_messages", validator=former, validationLevel="moderate")
        raw.chat_messages.create_index([("session_id", 1), ("timestamp", 1), ("message_id", 1)])

        await repository.add_messages(session_id, [("tool", "1"), ("system", "2")])
        raw.command("collMod", "chat_messages", validator=former, validationLevel="moderate")
        await repository.add_message(session_id, "developer", "3", expected_version=1)
        assert await contents(repository, session_id) == ["1", "2", "3"]
        assert raw.chat_messages.options()["validator"] == wide
        assert FORMER_INDEX in raw.chat_messages.index_information()
        await repository.ensure_ready()
        assert FORMER_INDEX not in raw.chat_messages.index_information()


# --- commands ---------------------------------------------------------------------------------------


async def test_an_append_takes_two_commands_and_a_page_of_previews_one(url: str) -> None:
    listener = Commands()
    client = client_class()(url, event_listeners=[listener])
    repository = SessionRepositoryFactory.create_repository("mongodb", client=client)
    sent: dict[str, list[str]] = {}

    async def record(name: str, call: Any) -> Any:
        listener.sent.clear()
        result = await call
        sent[name] = list(listener.sent)
        return result

    ids = [await repository.create_session_async(USER) for _ in range(5)]
    for number, session_id in enumerate(ids):
        await repository.add_messages(session_id, [("user", f"{n}") for n in range(50 * number)])
    await record("append", repository.add_message(ids[0], "user", "last"))
    fields: dict[str, Any] = {"metadata": {"a": 1}, "payload": [1], "timestamp": MOMENT}
    await record("fields", repository.add_message(ids[0], "tool", "", message_id=str(uuid.uuid4()), **fields))
    await record("update", repository.update_session_async(USER, ids[0], merge_metadata={"a": 1}))
    page = await record("previews", repository.list_session_previews(USER, where={"b": None}))
    closed = client.close()
    if closed is not None:
        await closed

    assert sent == {
        "append": ["insert", "update"],
        "fields": ["insert", "update"],
        "update": ["update"],
        "previews": ["aggregate"],
    }
    assert [preview.last_message and preview.last_message.content for preview in page.previews] == [
        "last",
        *["199", "149", "99", "49"],
    ]


async def test_previews_read_one_message_of_each_session(repository: Any, raw: Any) -> None:
    for _ in range(12):
        session_id = await repository.create_session_async(USER)
        await repository.add_messages(session_id, [("user", f"{n}") for n in range(50)])
    page = [{"$match": page_query(USER, None, None)}, {"$sort": dict(NEWEST_FIRST)}, {"$limit": 10}]
    command = {"aggregate": "chat_sessions", "pipeline": [*page, WITH_NEWEST_MESSAGE], "cursor": {}}
    explained = raw.command("explain", command, verbosity="executionStats")["stages"]
    sessions = explained[0]["$cursor"]["executionStats"]
    assert sessions["totalKeysExamined"] == sessions["totalDocsExamined"] == 10
    [messages] = [stage for stage in explained if "$lookup" in stage]
    assert messages["totalDocsExamined"] == 10
    assert messages["collectionScans"] == 0
    assert any(name.startswith("session_id") for name in messages["indexesUsed"])


async def test_a_preview_shows_the_newest_message_that_is_visible(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    await repository.add_messages(session_id, [("user", f"{n}") for n in range(70)])
    chat_session = raw.chat_sessions.find_one({"session_id": session_id})
    hidden: dict[str, Any] = {"session_id": session_id, "role": "user", "content": "hidden"}
    hidden |= {"timestamp": datetime.now(UTC) + timedelta(days=1), "session_oid": chat_session["_id"]}

    async def newest() -> str | None:
        [preview] = (await repository.list_session_previews(USER)).previews
        return preview.last_message and preview.last_message.content

    assert await newest() == "69"
    # Of an incomplete batch, of an edit that is not committed, of a deleted session with the same id.
    for marks in ({"batch": "absent"}, {"batch": ObjectId()}, {"session_oid": ObjectId()}):
        message_id = str(uuid.uuid4())
        raw.chat_messages.insert_one(hidden | marks | {"_id": message_id, "message_id": message_id})
        assert await newest() == "69"
    await repository.clear_messages(USER, session_id)
    assert await newest() is None


async def test_a_message_that_does_not_say_whose_it_is_belongs_to_the_session(
    repository: Any, raw: Any
) -> None:
    session_id = await repository.create_session_async(USER)
    message = {"session_id": session_id, "role": "user", "timestamp": MOMENT, "metadata": {"k": [1]}}
    stored = {"absent": {}, "none": {"session_oid": None}, "of another": {"session_oid": ObjectId()}}
    for content, field in stored.items():
        for message_id, oid in ((f"{content} 1", f"{content} 1"), (f"{content} 2", ObjectId())):
            ids = {"_id": oid, "message_id": message_id}
            raw.chat_messages.insert_one(message | field | ids | {"content": content})
    shown = ["absent", "absent", "none", "none"]

    history = await repository.get_session_history(USER, session_id)
    assert [message.content for message in history] == shown
    assert history[0].metadata == {"k": [1]}
    assert history[0].session_id == session_id
    assert await repository.get_session_history(USER, session_id, limit=3) == history[1:]
    assert await repository.count_messages(USER, session_id) == len(shown)
    assert await repository.get_message(USER, session_id, "none 2") == history[3]
    assert await repository.get_message(USER, session_id, "of another 1") is None
    assert len((await repository.search_messages(USER, "n")).hits) == len(shown)


async def test_a_session_and_its_message_may_be_larger_together_than_a_document(repository: Any) -> None:
    session_id = await repository.create_session_async(USER, {"metadata": {"k": "x" * 9_000_000}})
    await repository.add_message(session_id, "user", "y" * 9_000_000)
    [preview] = (await repository.list_session_previews(USER)).previews
    assert len(preview.session.metadata["k"]) == len(preview.last_message.content) == 9_000_000


async def test_a_message_id_that_is_taken_leaves_nothing_of_a_new_session(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER, messages=[("user", "1")])
    [taken] = await repository.get_session_history(USER, session_id)
    messages = [("user", "new"), NewMessage("user", "1", message_id=taken.message_id)]
    with pytest.raises(MessageConflictError):
        await repository.create_session_async(USER, messages=messages)
    assert await repository.count_sessions(USER) == 1
    assert raw.chat_messages.count_documents({}) == 1
    assert raw.chat_unfinished.count_documents({}) == 0


def test_messages_are_in_write_order_whatever_their_ids_are(url: str) -> None:
    with (
        SessionRepositoryFactory.create_repository("mongodb", url=url) as repository,
        MongoClient[dict[str, Any]](url) as client,
    ):
        session_id = repository.create_session(USER)
        expected = []
        # UUIDv7 of the caller, the newest first; and other ids, among new ones.
        given = [new_message_id() for _ in range(100)][::-1]
        for number, one in enumerate(given):
            message_id = (one, None, str(uuid.uuid4()), None)[number % 4]
            content = str(number)
            expected.append(content)
            repository.add_message_sync(session_id, "user", content, message_id=message_id)
        ids = [str(uuid.uuid4()) if number % 2 else None for number in range(50)]
        batch = [NewMessage("user", f"b{number}", message_id=one) for number, one in enumerate(ids)]
        repository.add_messages_sync(session_id, batch)
        expected += [message.content for message in batch]
        # With one given timestamp, before all others.
        for number in range(20):
            repository.add_message_sync(
                session_id, "user", f"early {number}", message_id=str(uuid.uuid4()), timestamp=MOMENT
            )
        expected = [*(f"early {number}" for number in range(20)), *expected]
        history = repository.get_session_history_sync(USER, session_id)
        assert [message.content for message in history] == expected
        stored = client.get_default_database().chat_messages
        assert stored.count_documents({"write_order": {"$type": "long"}}) == len(expected)


async def test_among_concurrent_messages_with_new_ids_the_ids_decide(repository: Any) -> None:
    session_id = await repository.create_session_async(USER)
    await asyncio.gather(*[repository.add_message(session_id, "user", f"{n}") for n in range(200)])
    ids = [message.message_id for message in await repository.get_session_history(USER, session_id)]
    assert ids == sorted(ids)


# --- payloads alone ---------------------------------------------------------------------------------


async def test_payloads_alone_are_those_of_the_visible_messages(repository: Any, raw: Any) -> None:
    session_id = await repository.create_session_async(USER)
    ids = [new_message_id() for _ in range(2)]
    mine = [NewMessage("user", "mine", message_id=one, payload=number) for number, one in enumerate(ids)]
    await repository.add_messages(session_id, mine)
    for _ in range(2):
        assert await repository.get_session_payloads(USER, session_id) == [0, 1]
    stored = raw.chat_messages.find_one({"_id": ids[1]})
    of_another = stored | {"_id": "a", "message_id": "a", "session_oid": ObjectId(), "payload": '"hidden"'}
    incomplete = stored | {"_id": "b", "message_id": "b", "batch": "c", "payload": '"hidden"'}
    dropped = stored | {"_id": "d", "message_id": "d", "dropped_by": [ObjectId()], "payload": "2"}
    of_program = {name: value for name, value in stored.items() if name != "session_oid"}
    of_program |= {"_id": ObjectId(), "message_id": "e", "payload": "3"}
    raw.chat_messages.insert_many([of_another, incomplete, dropped, of_program])
    assert await repository.get_session_payloads(USER, session_id) == [0, 1, 2, 3]
    assert await repository.get_session_payloads(USER, session_id, limit=3) == [1, 2, 3]
    raw.chat_messages.update_one({"_id": ids[0]}, {"$set": {"payload": "null"}})
    raw.chat_messages.update_one({"_id": ids[1]}, {"$unset": {"payload": ""}})
    history = await repository.get_session_history(USER, session_id)
    for _ in range(2):
        assert await repository.get_session_payloads(USER, session_id) == [*history[:2], 2, 3]
