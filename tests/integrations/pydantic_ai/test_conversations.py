"""Conversations of Pydantic AI, by the documentation of its ``ConversationStore``."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic_ai import DeferredToolRequests
from pydantic_ai.conversation import Conversation, ConversationTypeAdapter
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    InMemoryConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import BinaryContent, ImageUrl, ModelRequest, ToolCallPart, UserPromptPart
from pydantic_ai.usage import RunUsage

from sessions import InvalidInputError
from sessions.integrations.pydantic_ai import ConversationStore
from tests.integrations.pydantic_ai.talking import MESSAGES, answered, asked, texts, turn

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(repository: Any) -> ConversationStore:
    return ConversationStore(repository, user_id="alice")


async def saved(store: Any, *turns: int | str, conversation_id: str = "trip", **options: Any) -> Conversation:
    conversation = Conversation(conversation_id=conversation_id)
    for number in turns:
        conversation.messages += turn(number)
        await store.save(conversation, **options)
    return conversation


async def test_a_conversation_comes_back_equal_and_reads_well(
    store: ConversationStore, repository: Any
) -> None:
    messages = [message for message, *_ in MESSAGES]
    calls = [ToolCallPart("buy", {"n": 2**70, "half": "\ud800", "nul": "\0"}, tool_call_id="9")]
    conversation = Conversation(
        conversation_id="trip",
        messages=messages,
        usage=RunUsage(requests=2, input_tokens=5, output_tokens=2, tool_calls=1, details={"cached": 1}),
        deferred_tool_requests=DeferredToolRequests(approvals=calls, metadata={"9": {"why": "costs"}}),
    )
    entries = await store.save(conversation)
    assert [entry.message for entry in entries] == messages
    assert [entry.parent_id for entry in entries] == [None, *(entry.id for entry in entries[:-1])]
    again = ConversationStore(repository, user_id="alice")
    loaded = await again.load("trip")
    assert loaded == conversation
    assert loaded is not None
    assert loaded.new_message_index == len(messages)
    assert await again.load_entries("trip") == entries
    [chat_session] = (await repository.list_sessions("alice", where={"framework": "pydantic-ai"})).sessions
    assert chat_session.title == "How is Rome?"
    assert chat_session.metadata["framework_session_id"] == "trip"
    history = await repository.get_session_history("alice", chat_session.session_id)
    assert [(message.role, message.content) for message in history] == [
        (role, text) for _, role, text, _ in MESSAGES
    ]
    for message, (*_, facts), entry in zip(history, MESSAGES, entries, strict=True):
        assert {key: message.metadata.get(key) for key in facts} == facts
        assert message.metadata["pydantic_ai.entry"] == entry.id == message.message_id


async def test_contents_that_are_not_text_come_back(store: ConversationStore, repository: Any) -> None:
    data = bytes(range(256))
    image = BinaryContent(data, media_type="image/png")
    prompt = ModelRequest(parts=[UserPromptPart(["Look:", image, ImageUrl("https://example.org/a.png")])])
    await store.save(Conversation(conversation_id="trip", messages=[prompt, answered("Nice.")]))
    loaded = await ConversationStore(repository, user_id="alice").load("trip")
    assert loaded is not None
    [part] = loaded.messages[0].parts
    assert isinstance(part, UserPromptPart)
    assert part.content[0] == "Look:"
    assert getattr(part.content[1], "data", None) == data
    assert part.content[2] == ImageUrl("https://example.org/a.png")
    [chat_session] = (await repository.list_sessions("alice")).sessions
    [first, _] = await repository.get_session_history("alice", chat_session.session_id)
    assert first.content == "Look:\n[binary]\n[image]"


async def test_a_save_stores_new_messages_only(store: ConversationStore, repository: Any) -> None:
    conversation = await saved(store, 1)
    first = conversation.revision
    assert await store.save(conversation) == []
    assert conversation.revision != first
    conversation.messages += turn(2)
    assert [entry.message for entry in await store.save(conversation)] == turn_of(conversation, 2)
    [chat_session] = (await repository.list_sessions("alice")).sessions
    assert await repository.count_messages("alice", chat_session.session_id) == 4
    assert await store.load("absent") is None
    assert await store.load_entries("absent") is None


def turn_of(conversation: Conversation, number: int) -> list[Any]:
    return conversation.messages[2 * number - 2 : 2 * number]


async def test_the_loser_of_two_writers_has_a_conflict(store: ConversationStore, repository: Any) -> None:
    await saved(store, 1)
    mine, theirs = await store.load("trip"), await ConversationStore(repository, user_id="alice").load("trip")
    assert mine is not None
    assert theirs is not None
    mine.messages += turn("mine")
    theirs.messages += turn("theirs")
    await store.save(theirs)
    with pytest.raises(ConversationConflict) as caught:
        await store.save(mine)
    assert caught.value.conversation_id == "trip"
    with pytest.raises(ConversationConflict):
        await saved(store, 1)
    assert texts(await store.load("trip"))[2:] == ["Question theirs", "Answer theirs"]


async def test_a_change_of_the_session_alone_is_no_conflict(
    store: ConversationStore, repository: Any
) -> None:
    conversation = await saved(store, 1)
    [chat_session] = (await repository.list_sessions("alice")).sessions
    record = await store.read_record("trip")
    assert record is not None
    await repository.update_session_async("alice", chat_session.session_id, {"title": "Mine"})
    # What the store has read before is not what it is now.
    await store.write_record(replace(record, revision="next"), expected_revision=record.revision)
    assert (await repository.get_session("alice", chat_session.session_id)).title == "Mine"
    await repository.update_session_async("alice", chat_session.session_id, {"title": "Other"})
    await store.delete_record("trip", expected_revision="next")
    assert await repository.count_sessions("alice") == 0
    with pytest.raises(ConversationConflict):
        await store.save(conversation)


async def test_a_conversation_stored_again_is_not_the_one_that_was_loaded(
    store: ConversationStore, repository: Any
) -> None:
    for _ in range(5):
        await saved(store, 1)
        record = await store.read_record("trip")
        assert record is not None
        other = ConversationStore(repository, user_id="alice")
        await other.delete("trip")
        await saved(other, "again")
        # By what it has read: the version of the new session is not that of the former.
        with pytest.raises(ConversationConflict):
            await store.write_record(replace(record, revision="next"), expected_revision=record.revision)
        with pytest.raises(ConversationConflict):
            await store.delete_record("trip", expected_revision=record.revision)
        assert texts(await store.load("trip"))[0] == "Question again"
        await store.delete("trip")


async def test_a_window_is_the_end_of_the_history(store: ConversationStore) -> None:
    expected = texts(await saved(store, 1, 2, 3))
    messages = [entry.message for entry in await store.load_entries("trip") or []]
    for limit in (0, 1, 2, 3, 6, 7, 5000):
        window = await store.load("trip", limit=limit)
        assert texts(window) == (expected[-limit:] if limit else [])
        entries = await store.load_entries("trip", limit=limit)
        assert entries is not None
        assert [entry.message for entry in entries] == (messages[-limit:] if limit else [])
    with pytest.raises(UserError):
        await store.load("trip", limit=-1)


async def test_a_window_is_continued_at_the_end_of_the_whole_history(store: ConversationStore) -> None:
    expected = texts(await saved(store, 1, 2, 3))
    for limit in (0, 1, 3, 100):
        window = await store.load("trip", limit=limit)
        assert window is not None
        window.messages += turn(f"after {limit}")
        await store.save(window)
        expected += [f"Question after {limit}", f"Answer after {limit}"]
        assert texts(await store.load("trip")) == expected


async def test_a_history_that_was_rewritten_leaves_a_branch(
    store: ConversationStore, repository: Any
) -> None:
    conversation = await saved(store, 1, 2)
    before = await store.load_entries("trip")
    assert before is not None
    copy = ConversationTypeAdapter.validate_json(ConversationTypeAdapter.dump_json(conversation))
    copy.messages[2:] = turn("other")
    stored = await store.save(copy)
    assert [entry.parent_id for entry in stored] == [before[1].id, stored[0].id]
    assert texts(await store.load("trip")) == ["Question 1", "Answer 1", "Question other", "Answer other"]
    assert texts(await store.load("trip", limit=2)) == ["Question other", "Answer other"]
    record = await store.read_record("trip")
    assert record is not None
    assert record.branches == [before[-1].id]
    assert await ConversationStore(repository, user_id="alice").read_history(before[-1].id) == before


async def test_a_conversation_branches_and_returns(store: ConversationStore, repository: Any) -> None:
    conversation = await saved(store, 1, 2)
    entries = await store.load_entries("trip")
    assert entries is not None
    branched = await store.branch("trip", at=2, expected_revision=conversation.revision)
    assert texts(branched) == ["Question 1", "Answer 1"]
    with pytest.raises(ConversationConflict):
        await store.branch("trip", at=2, expected_revision=conversation.revision)
    branched.messages += turn("else")
    await store.save(branched)
    assert texts(await store.load("trip"))[2:] == ["Question else", "Answer else"]
    assert texts(await store.load("trip", limit=3)) == ["Answer 1", "Question else", "Answer else"]
    back = await ConversationStore(repository, user_id="alice").branch(
        "trip", from_entry=entries[-1].id, expected_revision=branched.revision
    )
    assert texts(back) == texts(conversation)
    assert texts(await store.load("trip", limit=1)) == ["Answer 2"]
    empty = await store.branch("trip", at=0, expected_revision=back.revision)
    assert texts(empty) == texts(await store.load("trip")) == []
    wrong: Any
    for wrong in ({"at": 9}, {"from_entry": "absent"}, {}):
        with pytest.raises(UserError):
            await store.branch("trip", expected_revision=empty.revision, **wrong)


async def test_a_fork_shares_its_entries_and_outlives_the_other(
    store: ConversationStore, repository: Any
) -> None:
    await saved(store, 1, 2, scope="web")
    entries = await store.load_entries("trip")
    assert entries is not None
    fork = await store.fork("trip", at=3, new_conversation_id="fork")
    whole = await ConversationStore(repository, user_id="alice").fork("trip", scope="mobile")
    assert await store.load_entries("fork") == entries[:3]
    assert await store.load_entries(whole.conversation_id) == entries
    record = await store.read_record("fork")
    assert record is not None
    assert (record.forked_from, record.forked_at, record.scope) == ("trip", entries[2].id, "web")
    fork.messages.append(answered("Else"))
    await store.save(fork)
    nested = await store.fork("fork", new_conversation_id="nested")
    with pytest.raises(ConversationConflict):
        await store.fork("trip", new_conversation_id="fork")
    assert texts(await store.load("trip")) == ["Question 1", "Answer 1", "Question 2", "Answer 2"]
    await store.delete("trip")
    assert texts(nested) == texts(await store.load("nested")) == [*texts(fork)[:3], "Else"]
    await store.delete("fork")
    assert texts(await ConversationStore(repository, user_id="alice").load("nested", limit=2))[1] == "Else"
    assert (await store.read_entry(entries[3].id)) == entries[3]
    await store.delete(whole.conversation_id)
    with pytest.raises(LookupError):
        await store.read_entry(entries[3].id)
    with pytest.raises(LookupError):
        await store.read_history(entries[3].id)
    with pytest.raises(UserError):
        await store.fork("trip")
    [left] = (await repository.list_sessions("alice")).sessions
    assert left.title == "Question 1"


async def test_an_entry_is_found_by_its_id_alone(store: ConversationStore, repository: Any) -> None:
    for name in ("one", "two", "three"):
        await saved(store, name, conversation_id=name)
    entries = await store.load_entries("two")
    assert entries is not None
    other = ConversationStore(repository, user_id="alice")
    assert await other.read_entry(entries[0].id) == entries[0]
    assert await other.read_history(entries[1].id) == entries
    assert await other.read_history(None) == []
    with pytest.raises(LookupError):
        await ConversationStore(repository, user_id="bob").read_entry(entries[0].id)
    for absent in ("absent", "0192d4a8-0000-7000-8000-000000000000"):
        with pytest.raises(LookupError):
            await other.read_entry(absent)


async def test_a_head_that_no_entry_has_is_a_conflict_and_stores_nothing(
    store: ConversationStore, repository: Any
) -> None:
    conversation = await saved(store, 1)
    with pytest.raises(ConversationConflict):
        await store.write_record(
            ConversationRecord(conversation_id="new", head_id="absent"), expected_revision=None
        )
    record = await store.read_record("trip")
    assert record is not None
    new = [ConversationEntry(id="a", parent_id="absent", message=asked("Hi"))]
    for lost in (replace(record, head_id="absent", revision="x"), replace(record, head_id="a", revision="x")):
        with pytest.raises(ConversationConflict):
            await store.write_record(lost, new_entries=new, expected_revision=record.revision)
    assert await store.load("trip") == conversation
    assert await repository.count_sessions("alice") == 1
    with pytest.raises(ConversationConflict):
        await store.delete_record("absent", expected_revision="x")


async def test_entries_may_have_any_ids_and_be_in_two_conversations(store: ConversationStore) -> None:
    entries = [
        ConversationEntry(id="a", parent_id=None, message=asked("Hi")),
        ConversationEntry(id="b", parent_id="a", message=answered("Hello")),
        ConversationEntry(id="0192d4a8-0000-7000-8000-000000000000", parent_id="b", message=asked("So?")),
    ]
    for name in ("one", "two"):
        record = ConversationRecord(conversation_id=name, head_id=entries[-1].id)
        await store.write_record(record, new_entries=entries, expected_revision=None)
        assert await store.load_entries(name) == entries
    await store.delete("one")
    assert await store.load_entries("two") == entries


# The times are those of the records, also of a host whose clock is wrong.
@pytest.mark.parametrize("start", [LONG_AGO, datetime(2999, 1, 1, tzinfo=UTC)])
async def test_conversations_are_listed_by_scope_the_last_saved_first(
    store: ConversationStore, start: datetime
) -> None:
    for number in (3, 1, 4, 0, 2):
        record = ConversationRecord(
            conversation_id=str(number),
            head_id=None,
            scope="even" if number % 2 == 0 else 'o"d\0',
            updated_at=start + timedelta(days=number),
        )
        await store.write_record(record, expected_revision=None)

    async def listed(**options: Any) -> str:
        return "".join(record.conversation_id for record in await store.list_conversations(**options))

    assert await listed() == "43210"
    assert await listed(limit=2) == "43"
    assert await listed(limit=0) == ""
    assert await listed(scope="even") == "420"
    assert await listed(scope="even", limit=1) == "4"
    assert await listed(scope='o"d\0') == "31"
    assert await listed(scope="absent") == ""
    oldest = await store.read_record("0")
    assert oldest is not None
    later = replace(oldest, updated_at=start + timedelta(days=9))
    await store.write_record(later, expected_revision=oldest.revision)
    assert await listed(limit=2) == "04"
    again = replace(later, revision="again", updated_at=LONG_AGO)
    await store.write_record(again, expected_revision=later.revision)
    assert (await listed(limit=3), await listed()) == ("432", "43210")
    with pytest.raises(UserError):
        await store.list_conversations(limit=-1)


async def test_another_scope_sees_nothing(store: ConversationStore) -> None:
    conversation = await saved(store, 1, scope="web")
    assert await store.load("trip", scope="mobile") is None
    assert await store.load_entries("trip", scope="mobile") is None
    with pytest.raises(ConversationConflict):
        await store.save(conversation, scope="mobile")
    with pytest.raises(UserError):
        await store.fork("trip", source_scope="mobile")
    await store.delete("trip", scope="mobile")
    assert await store.load("trip", scope="web") == conversation
    await store.save(conversation)
    assert (await store.list_conversations(scope="web"))[0].conversation_id == "trip"
    await store.delete("trip", scope="web")
    assert await store.load("trip") is None


async def test_users_do_not_meet(store: ConversationStore, repository: Any) -> None:
    other = ConversationStore(repository, user_id="bob")
    await saved(store, 1)
    assert await other.load("trip") is None
    assert list(await other.list_conversations()) == []
    await saved(other, 2)
    await other.delete("trip")
    assert texts(await store.load("trip")) == ["Question 1", "Answer 1"]
    # A UUID is one session, of whoever has it first.
    conversation = await saved(store, 1, conversation_id="0f8fad5b-d9cb-469f-a165-70867728950e")
    with pytest.raises(ConversationConflict):
        await saved(other, 1, conversation_id=conversation.conversation_id)
    assert await repository.count_messages("alice", conversation.conversation_id) == 2
    with pytest.raises(InvalidInputError, match="user_id"):
        ConversationStore(repository, user_id="")


async def test_a_session_of_another_part_of_a_service_becomes_a_conversation(
    store: ConversationStore, repository: Any
) -> None:
    session_id = await repository.create_session_async("alice", messages=[("user", "Before")])
    assert await store.load(session_id) is None
    conversation = await saved(store, 1, 2, conversation_id=session_id)
    assert await store.load(session_id) == conversation
    assert (await repository.get_session("alice", session_id)).title == "Question 1"
    assert await repository.count_messages("alice", session_id) == 5


async def test_what_is_returned_is_a_copy(store: ConversationStore) -> None:
    conversation = await saved(store, 1)
    part: Any = conversation.messages[0].parts[0]
    part.content = "changed"
    record = await store.read_record("trip")
    assert record is not None
    record.branches.append("changed")
    loaded = await store.load("trip")
    assert texts(loaded)[0] == "Question 1"
    assert (await store.list_conversations())[0].branches == []


async def test_of_concurrent_saves_one_wins(store: ConversationStore) -> None:
    await saved(store, 1)
    loaded = [await store.load("trip") for _ in range(5)]
    for number, conversation in enumerate(loaded):
        assert conversation is not None
        conversation.messages += turn(f"of {number}")
    results = await asyncio.gather(*(store.save(each) for each in loaded if each), return_exceptions=True)
    assert [type(result) for result in results].count(ConversationConflict) == 4
    assert len(texts(await store.load("trip"))) == 4


class Pair:
    """Does the same to our store and to the framework's, and compares what comes of it."""

    def __init__(self, ours: ConversationStore) -> None:
        self.stores = (ours, InMemoryConversationStore())

    async def both(self, call: Any) -> tuple[Any, Any]:
        results: list[Any] = []
        for store in self.stores:
            try:
                results.append(await call(store))
            except UserError as error:
                results.append(type(error))
        return results[0], results[1]

    async def compare(self) -> None:
        """Compare all that is stored; entries by their messages, as their ids are made at random."""
        pictures = []
        for store in self.stores:
            picture: dict[str, Any] = {}
            for record in await store.list_conversations():
                entries = await store.load_entries(record.conversation_id) or []
                lines = [await store.read_history(tip) for tip in record.branches]
                picture[record.conversation_id] = (
                    [entry.message for entry in entries],
                    [[entry.message for entry in line] for line in lines],
                    (record.scope, record.forked_from, record.forked_at is None, record.usage),
                    texts(await store.load(record.conversation_id, limit=3)),
                )
            pictures.append(picture)
        assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.full_size) for seed in range(2, 12))]
)
async def test_it_does_what_the_frameworks_own_store_does(store: ConversationStore, seed: int) -> None:
    choice, pair = random.Random(seed), Pair(store)
    for step in range(25):
        name = f"conversation {choice.randrange(4)}"
        other = f"conversation {choice.randrange(4)}"
        action = choice.choice(
            ["save", "save", "save", "rewrite", "branch", "back", "fork", "delete", "window"]
        )
        messages, place, keep = turn(step), choice.randrange(5), choice.randrange(1, 4)

        async def save(store: Any, name: str = name, messages: Any = messages) -> Any:
            conversation = await store.load(name) or Conversation(conversation_id=name)
            conversation.messages += messages
            return len(await store.save(conversation))

        async def rewrite(store: Any, name: str = name, messages: Any = messages, place: int = place) -> Any:
            conversation = await store.load(name) or Conversation(conversation_id=name)
            conversation.messages[place:] = messages
            return len(await store.save(conversation))

        async def branch(store: Any, name: str = name, place: int = place) -> Any:
            record = await store.read_record(name)
            revision = record.revision if record else None
            return texts(await store.branch(name, at=place, expected_revision=revision))

        async def back(store: Any, name: str = name) -> Any:
            record = await store.read_record(name)
            if record is None or not record.branches:
                return None
            tip = record.branches[0]
            return texts(await store.branch(name, from_entry=tip, expected_revision=record.revision))

        async def fork(store: Any, name: str = name, other: str = other, place: int = place) -> Any:
            return texts(await store.fork(name, at=place, new_conversation_id=other))

        async def delete(store: Any, name: str = name) -> Any:
            return await store.delete(name)

        async def window(store: Any, name: str = name, messages: Any = messages, keep: int = keep) -> Any:
            conversation = await store.load(name, limit=keep)
            if conversation is None:
                return None
            conversation.messages += messages
            return len(await store.save(conversation))

        ours, theirs = await pair.both(locals()[action])
        assert ours == theirs, (step, action)
        await pair.compare()
