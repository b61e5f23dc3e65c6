"""No user reads, changes, deletes or counts data of another user, whatever ids they guess."""

from __future__ import annotations

import asyncio
import inspect
import random
import sqlite3
import uuid
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

from sessions import (
    ChatSession,
    InvalidInputError,
    MessageConflictError,
    NewMessage,
    SessionConflictError,
    SessionNotFoundError,
    SessionRepositoryFactory,
)
from sessions.backends.mongodb.mapping import message_document
from sessions.backends.mongodb.options import client_class
from sessions.core import identifiers
from sessions.core.values import MessageRow
from sessions.testing import AsyncCaller
from tests.support import raw_rows
from tests.support.databases import Backend

USERS = ["mine", "yours"]
MONGODB = ["mongodb-replica-set", "mongodb-standalone"]
STEPS = 150


@pytest.fixture(params=MONGODB)
def mongodb(request: pytest.FixtureRequest) -> Backend:
    fixture = "mongodb_url" if request.param == "mongodb-replica-set" else "mongodb_standalone_url"
    return Backend(request.param, "mongodb", request.getfixturevalue(fixture))


class User:
    """Runs random operations on ids that both users know, and tracks its own data."""

    def __init__(
        self,
        repository: Any,
        user_id: str,
        guesses: list[str],
        messages: list[tuple[str, str]],
        seed: int,
    ) -> None:
        self.messages_of_both = messages
        self.repository, self.user_id, self.guesses = repository, user_id, guesses
        self.choice = random.Random(seed)
        self.mine: dict[str, list[str]] = {}
        self.titles: dict[str, str] = {}
        self.conflicts = self.strangers = 0

    async def act(self) -> None:
        actions = [self.create, self.ensure, self.update, self.delete, self.retain]
        actions += [self.pop, self.replace, self.fork, self.edit, self.clear]
        actions += [self.write] * 3 + [self.read, self.list] * 2
        for step in range(STEPS):
            action = self.choice.choice(actions)
            await action(self.choice.choice(self.guesses), f"{self.user_id} {step}")

    async def create(self, _: str, text: str) -> None:
        session_id = await self.repository.create_session_async(
            self.user_id, {"title": text, "metadata": {"of": self.user_id}}
        )
        self.guesses.append(session_id)
        self.mine[session_id], self.titles[session_id] = [], text

    async def ensure(self, session_id: str, text: str) -> None:
        data = {"title": text, "metadata": {"of": self.user_id}}
        try:
            created = await self.repository.ensure_session_exists(session_id, self.user_id, data)
        except SessionConflictError:
            assert session_id not in self.mine
            self.conflicts += 1
            return
        assert created is (session_id not in self.mine)
        if created:
            self.mine[session_id], self.titles[session_id] = [], text

    async def write(self, session_id: str, text: str) -> None:
        batch = [("user", text)] * self.choice.choice((1, 2))
        try:
            if len(batch) == 1:
                await self.repository.add_message(session_id, *batch[0], user_id=self.user_id)
            else:
                await self.repository.add_messages(session_id, batch, user_id=self.user_id)
        except SessionNotFoundError:
            assert session_id not in self.mine
            self.strangers += 1
        else:
            self.mine[session_id] += [content for _, content in batch]

    async def update(self, session_id: str, text: str) -> None:
        changed = await self.repository.update_session_async(self.user_id, session_id, {"title": text})
        assert changed is (session_id in self.mine)
        if changed:
            self.titles[session_id] = text

    async def pop(self, session_id: str, _: str) -> None:
        popped = await self.repository.pop_message(self.user_id, session_id)
        expected = self.mine.get(session_id)
        assert (popped and popped.content) == (expected.pop() if expected else None)

    async def replace(self, session_id: str, text: str) -> None:
        batch = [("user", text)] * self.choice.choice((0, 2))
        try:
            await self.repository.replace_messages(self.user_id, session_id, batch)
        except SessionNotFoundError:
            assert session_id not in self.mine
            self.strangers += 1
        else:
            self.mine[session_id] = [content for _, content in batch]

    async def fork(self, session_id: str, text: str) -> None:
        data = {"title": text, "metadata": {"of": self.user_id}}
        try:
            fork_id = await self.repository.fork_session(self.user_id, session_id, session_data=data)
        except SessionNotFoundError:
            assert session_id not in self.mine
            self.strangers += 1
        else:
            self.mine[fork_id], self.titles[fork_id] = [*self.mine[session_id]], text

    async def edit(self, _: str, text: str) -> None:
        """Change and delete a message of any user, by its id in that user's session."""
        history = [(key, place) for key, contents in self.mine.items() for place in range(len(contents))]
        known = self.messages_of_both
        if history:
            session_id, place = self.choice.choice(history)
            found = (await self.repository.get_session_history(self.user_id, session_id))[place]
            known.append((session_id, found.message_id))
        if not known:
            return
        session_id, message_id = self.choice.choice(known)
        found = await self.repository.get_message(self.user_id, session_id, message_id)
        arguments = self.user_id, session_id
        changed = await self.repository.update_message(*arguments, message_id, content=text)
        assert changed is (found is not None)
        if found is None:
            assert await self.repository.delete_messages(*arguments, [message_id]) == 0
            return
        place = [
            message.message_id for message in await self.repository.get_session_history(*arguments)
        ].index(message_id)
        self.mine[session_id][place] = text
        if self.choice.random() < 0.3:
            kept = self.mine[session_id][:place]
            deleted = await self.repository.delete_messages_from(*arguments, message_id)
            assert deleted == len(self.mine[session_id]) - len(kept)
            self.mine[session_id] = kept

    async def clear(self, session_id: str, _: str) -> None:
        cleared = await self.repository.clear_messages(self.user_id, session_id)
        assert cleared == len(self.mine.get(session_id, []))
        if session_id in self.mine:
            self.mine[session_id] = []

    async def read(self, session_id: str, _: str) -> None:
        chat_session = await self.repository.get_session(self.user_id, session_id)
        history = await self.repository.get_session_history(self.user_id, session_id)
        newest = await self.repository.get_session_history(self.user_id, session_id, limit=2)
        expected = self.mine.get(session_id)
        assert (chat_session is None) is (expected is None)
        assert [message.content for message in history] == (expected or [])
        assert newest == history[-2:]
        assert await self.repository.count_messages(self.user_id, session_id) == len(history)
        found = await self.repository.search_messages(self.user_id, "e", session_id=session_id, limit=1000)
        assert [hit.message for hit in found.hits] == [
            message for message in reversed(history) if "e" in message.content
        ]

    async def delete(self, session_id: str, _: str) -> None:
        deleted = await self.repository.delete_session_async(self.user_id, session_id)
        assert deleted is (session_id in self.mine)
        self.mine.pop(session_id, None)

    async def list(self, _: str, __: str) -> None:
        listed = await self.repository.list_paginated_sessions_async(self.user_id, 0, 1000)
        page = await self.repository.list_sessions(self.user_id, limit=1000)
        assert page.sessions == listed
        previews = (await self.repository.list_session_previews(self.user_id, limit=1000)).previews
        assert [item.session for item in previews] == listed
        assert [item.last_message and item.last_message.content for item in previews] == [
            (self.mine[item.session_id] or [None])[-1] for item in listed
        ]
        of_mine, of_yours = [
            await self.repository.count_sessions(self.user_id, where={"of": user_id}) for user_id in USERS
        ]
        assert (of_mine, of_yours) == ((len(listed), 0) if self.user_id == USERS[0] else (0, len(listed)))
        assert {item.session_id: item.title for item in listed} == {
            session_id: self.titles[session_id] for session_id in self.mine
        }
        assert all(item.user_id == self.user_id == item.metadata["of"] for item in listed)
        assert await self.repository.count_sessions(self.user_id) == len(self.mine)
        exported = [part async for part in self.repository.export_user(self.user_id)]
        assert {
            item.session_id: [message.content for message in part] for item, part in exported
        } == self.mine

    async def retain(self, _: str, __: str) -> None:
        if self.choice.random() < 0.7:
            return
        kept = {
            item.session_id for item in (await self.repository.list_sessions(self.user_id, limit=5)).sessions
        }
        deleted = await self.choice.choice([self._keep, self._expire])()
        assert deleted == len(self.mine) - len(kept) if deleted else len(self.mine) == len(kept)
        self.mine = {session_id: self.mine[session_id] for session_id in kept}

    async def _keep(self) -> int:
        deleted: int = await self.repository.keep_latest_sessions(self.user_id, 5)
        return deleted

    async def _expire(self) -> int:
        newest = (await self.repository.list_sessions(self.user_id, limit=5)).sessions
        # All sessions beyond the newest may have the time of the last of these.
        cutoff = newest[-1].updated_at if newest else datetime.now(UTC)
        deleted: int = await self.repository.delete_sessions_older_than(cutoff, user_id=self.user_id)
        return deleted + await self._keep()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full_size)])
async def test_random_operations_of_two_users_are_isolated(
    backend: Backend, repository: Any, seed: int
) -> None:
    guesses, messages = [str(uuid.uuid4()) for _ in range(4)], list[tuple[str, str]]()
    async with backend.repository(pool_size=4) as second:
        users = [
            User(each, user_id, guesses, messages, seed * 10 + number)
            for number, (each, user_id) in enumerate(zip((repository, second), USERS, strict=True))
        ]
        await asyncio.gather(*[user.act() for user in users])
    for user in users:
        assert user.conflicts + user.strangers > 0
        for session_id in guesses:
            await user.read(session_id, "")
        await user.list("", "")
    owners = {session_id: user.user_id for user in users for session_id in user.mine}
    assert {row["session_id"]: row["user_id"] for row in raw_rows.sessions(backend)} == owners
    assert raw_rows.orphans(backend) == []


async def _outcome(repository: Any, operation: str, arguments: dict[str, Any]) -> Any:
    chats = AsyncCaller(repository)
    try:
        if operation == "export_user":
            return [item async for item in chats.export_user(**arguments)]
        return await getattr(chats, operation)(**arguments)
    except Exception as error:
        return type(error), error.args, type(error.__cause__), type(error.__context__)


async def test_a_foreign_and_an_absent_session_look_the_same_to_each_operation(
    backend: Backend, repository: Any
) -> None:
    foreign = await repository.create_session_async("yours", {"title": "Secret", "metadata": {"a": 1}})
    message_id = await repository.add_message(foreign, "user", "secret")
    before = raw_rows.everything(backend)
    tomorrow = datetime.now(UTC) + timedelta(1)
    for operation, arguments in [
        ("get_session", {}),
        ("update_session", {"data": {"title": "Mine", "metadata": {}}}),
        ("update_session", {"data": {}}),
        ("delete_session", {}),
        ("get_session_history", {}),
        ("get_session_history", {"limit": 1, "before": message_id}),
        ("search_messages", {"query": "secret"}),
        ("search_messages", {"query": "e", "limit": 1}),
        ("add_message", {"role": "user", "content": "mine"}),
        ("add_messages", {"messages": [("user", "mine")] * 2}),
        ("add_messages", {"messages": [("user", "mine")] * 200}),
        ("add_messages", {"messages": []}),
        ("add_message", {"role": "user", "content": "secret", "message_id": message_id}),
        ("add_message", {"role": "user", "content": "other", "message_id": message_id}),
        ("add_message", {"role": "user", "content": "mine", "expected_version": 1}),
        ("add_messages", {"messages": [("user", "mine")], "merge_metadata": {"b": 1}}),
        ("add_messages", {"messages": [("user", "mine")], "expected_version": 0}),
        ("update_session", {"merge_metadata": {"b": 1}}),
        ("update_session", {"remove_metadata": ["a"], "touch": False}),
        ("update_session", {"data": {"title": "Mine"}, "if_title": "Secret"}),
        ("update_session", {"data": {"title": "Mine"}, "expected_version": 1}),
        ("update_session", {"data": {"title": "Mine"}, "expected_version": 0}),
        ("delete_session", {"expected_version": 1}),
        ("delete_session", {"expected_version": 0}),
        ("get_session_history", {"after": message_id}),
        ("get_session_history", {"since": datetime(2020, 1, 1, tzinfo=UTC)}),
        ("get_message", {"message_id": message_id}),
        ("count_messages", {}),
        ("get_session_payloads", {}),
        ("update_message", {"message_id": message_id, "content": "mine"}),
        ("update_message", {"message_id": message_id, "merge_metadata": {"a": 1}, "payload": 1}),
        ("update_message", {"message_id": message_id, "content": "mine", "expected_version": 0}),
        ("pop_message", {}),
        ("delete_messages", {"message_ids": [message_id]}),
        ("delete_messages_from", {"message_id": message_id}),
        ("delete_messages_from", {"message_id": message_id, "inclusive": False}),
        ("clear_messages", {}),
        ("clear_messages", {"expected_version": 0}),
        ("replace_messages", {"messages": []}),
        ("replace_messages", {"messages": [("user", "mine")], "expected_version": 0}),
        ("fork_session", {}),
        ("fork_session", {"through": message_id, "session_data": {"title": "Mine"}}),
    ]:
        outcomes = [
            await _outcome(repository, operation, {"user_id": "mine", "session_id": session_id} | arguments)
            for session_id in (foreign, str(uuid.uuid4()), foreign)
        ]
        assert outcomes[0] == outcomes[1] == outcomes[2], operation
    for operation, arguments in [
        ("list_paginated_sessions", {}),
        ("count_sessions", {}),
        ("count_sessions", {"where": {"a": 1}}),
        ("delete_sessions_older_than", {"cutoff": tomorrow, "where": {"a": 1}}),
        ("keep_latest_sessions", {"keep_last_n": 0}),
        ("delete_sessions_older_than", {"cutoff": tomorrow}),
        ("delete_user", {}),
        ("export_user", {}),
    ]:
        assert not await _outcome(repository, operation, {"user_id": "mine"} | arguments), operation
    for where in (None, {}, {"a": 1}, {"a": [1, None]}):
        assert (await repository.list_sessions("mine", where=where)).sessions == []
        assert (await repository.list_session_previews("mine", where=where)).previews == []
    cursor = (await repository.list_sessions("yours", limit=1)).next_cursor
    assert cursor is None
    another = await repository.create_session_async("yours")
    cursor = (await repository.list_sessions("yours", limit=1)).next_cursor
    # A cursor at another user's session gives no access to their sessions.
    assert (await repository.list_sessions("mine", cursor=cursor)).sessions == []
    await repository.add_message(another, "user", "secret")
    cursor = (await repository.search_messages("yours", "secret", limit=1)).next_cursor
    for arguments in ({}, {"cursor": cursor}):
        assert (await repository.search_messages("mine", "secret", **arguments)).hits == []
    sessions, messages = raw_rows.everything(backend)
    assert [row for row in sessions if row["session_id"] == foreign] == before[0]
    assert [row for row in messages if row["session_id"] == foreign] == before[1]


async def test_a_message_id_of_one_user_is_rejected_in_the_history_of_another(repository: Any) -> None:
    mine, yours = [await repository.create_session_async(user_id) for user_id in USERS]
    await repository.add_message(mine, "user", "first")
    anchor = await repository.add_message(yours, "user", "secret")
    await repository.add_message(mine, "user", "second")
    for argument in ("before", "after"):
        with pytest.raises(InvalidInputError, match=f"^{argument}: the session has no message with this id$"):
            await repository.get_session_history("mine", mine, **{argument: anchor})


async def test_a_message_id_of_one_user_does_nothing_in_a_session_of_another(
    backend: Backend, repository: Any
) -> None:
    mine, yours = [await repository.create_session_async(user_id) for user_id in USERS]
    await repository.add_message(mine, "user", "mine")
    secret = await repository.add_message(yours, "user", "secret", metadata={"a": 1}, payload=[1])
    of_yours = [
        await repository.get_session("yours", yours),
        await repository.get_session_history("yours", yours),
    ]
    before = raw_rows.everything(backend)
    absent = str(uuid.uuid4())
    outcomes = []
    for message_id in (secret, absent):
        outcomes.append(
            [
                await _outcome(repository, operation, {"user_id": "mine", "session_id": mine} | arguments)
                for operation, arguments in [
                    ("get_message", {"message_id": message_id}),
                    ("update_message", {"message_id": message_id, "content": "stolen", "payload": 1}),
                    ("delete_messages", {"message_ids": [message_id]}),
                    ("delete_messages_from", {"message_id": message_id}),
                    ("delete_messages_from", {"message_id": message_id, "inclusive": False}),
                    ("fork_session", {"through": message_id}),
                    ("get_session_history", {"before": message_id}),
                    ("get_session_history", {"after": message_id, "limit": 1}),
                ]
            ]
        )
    assert outcomes[0] == outcomes[1]
    assert raw_rows.everything(backend) == before
    # A taken id is a conflict, whoever has it; the error tells nothing of the message.
    for operation, messages in [
        ("add_messages", [NewMessage("user", "secret", message_id=secret)]),
        ("replace_messages", [NewMessage("user", "secret", message_id=secret)]),
    ]:
        with pytest.raises(MessageConflictError) as caught:
            await getattr(AsyncCaller(repository), operation)(
                user_id="mine", session_id=mine, messages=messages
            )
        assert "secret" not in str(caught.value)
        assert yours not in str(caught.value)
    with pytest.raises(MessageConflictError):
        await repository.create_session_async("mine", messages=messages)
    assert raw_rows.everything(backend) == before
    assert [
        await repository.get_session("yours", yours),
        await repository.get_session_history("yours", yours),
    ] == of_yours


class Commands(CommandListener):
    """Records what a client sends to the two collections."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []

    def started(self, event: Any) -> None:
        collection = event.command.get(event.command_name)
        if collection in ("chat_sessions", "chat_messages"):
            self.sent.append((event.command_name, collection, event.command))

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...


@asynccontextmanager
async def recorded(backend: Backend) -> Any:
    commands = Commands()
    client = client_class()(backend.url, event_listeners=[commands])
    try:
        async with SessionRepositoryFactory.create_repository("mongodb", client=client) as repository:
            await repository.count_sessions("nobody")
            commands.sent.clear()
            yield repository, commands
    finally:
        closing = client.close()
        if inspect.isawaitable(closing):  # Motor's close is a plain call.
            await closing


async def test_mongodb_decides_ownership_before_it_deletes_a_message(mongodb: Backend) -> None:
    takes_transactions = mongodb.name == "mongodb-replica-set"
    async with recorded(mongodb) as (repository, commands):
        session_id = await repository.create_session_async("yours")
        await repository.add_messages(session_id, [("user", "Hi")] * 3)
        commands.sent.clear()

        assert await repository.delete_session_async("mine", session_id) is False

        # The session is read first. In a transaction it is deleted then; otherwise the operation is recorded.
        mine = {"session_id": session_id, "user_id": "mine"}
        (name, collection, command), *others = commands.sent
        assert (name, collection) == ("aggregate" if takes_transactions else "find", "chat_sessions")
        assert (command["pipeline"][0]["$match"] if takes_transactions else command["filter"]) == mine
        if takes_transactions:
            (name, collection, command), *others = others
            assert (name, collection, command["deletes"][0]["q"]) == ("delete", "chat_sessions", mine)
        written = [sent[:2] for sent in others if sent[0] in ("insert", "update", "delete")]
        assert written == []
        assert [sent for sent in commands.sent if sent[1] == "chat_messages"] == []
        assert len(await repository.get_session_history("yours", session_id)) == 3

        commands.sent.clear()
        assert await repository.delete_session_async("yours", session_id) is True
        deleted_from = [collection for name, collection, _ in commands.sent if name == "delete"]
        assert deleted_from[0] == "chat_sessions"


async def test_every_query_of_mongodb_for_a_user_names_the_user_or_an_owned_document(
    mongodb: Backend,
) -> None:
    async with recorded(mongodb) as (repository, commands):
        session_id = await repository.create_session_async("mine")
        commands.sent.clear()
        await repository.get_session("mine", session_id)
        await repository.update_session_async("mine", session_id, {"title": "T"})
        await repository.list_paginated_sessions_async("mine")
        await repository.list_sessions("mine")
        await repository.delete_session_async("mine", session_id)
        first = [command for _, collection, command in commands.sent if collection == "chat_sessions"][:5]
        filters = [
            command["pipeline"][0]["$match"]
            if "pipeline" in command
            else command.get("filter") or [*command.get("updates", []), *command.get("deletes", [])][0]["q"]
            for command in first
        ]
        assert [found.get("user_id") for found in filters] == ["mine"] * 5


@pytest.mark.parametrize("made_by", ["create_session", "ensure_session_exists"])
async def test_an_orphaned_message_of_a_killed_writer_is_not_visible_in_a_later_session(
    mongodb: Backend, made_by: str
) -> None:
    """Its message is stored after the session is deleted and created again; the insert is never undone."""
    async with mongodb.repository() as repository:
        if made_by == "create_session":
            session_id = await repository.create_session_async("yours")
        else:
            session_id = str(uuid.uuid4())
            assert await repository.ensure_session_exists(session_id, "yours")
        with MongoClient[dict[str, Any]](mongodb.url) as client:
            database = client.get_default_database()
            earlier = database["chat_sessions"].find_one({"session_id": session_id})
            assert earlier
            assert await repository.delete_session_async("yours", session_id)
            assert await repository.ensure_session_exists(session_id, "mine")
            own = []
            for number in range(5):
                row = MessageRow(identifiers.new_message_id(), "user", "secret")
                database["chat_messages"].insert_one(message_document(session_id, earlier["_id"], row))
                own.append(await repository.add_message(session_id, "user", f"own {number}", user_id="mine"))

        history = await repository.get_session_history("mine", session_id)
        assert [message.message_id for message in history] == own
        for limit in range(1, 8):
            part = await repository.get_session_history("mine", session_id, limit=limit)
            assert [message.message_id for message in part] == own[-limit:]
            part = await repository.get_session_history("mine", session_id, limit=limit, before=own[4])
            assert [message.message_id for message in part] == own[:4][-limit:]
            found = await repository.search_messages("mine", "e", limit=limit)
            assert [hit.message.content for hit in found.hits] == []
            found = await repository.search_messages("mine", "own", limit=limit)
            assert [hit.message.message_id for hit in found.hits] == own[::-1][:limit]
        exported = [part async for _, part in repository.export_user("mine")]
        assert [message.message_id for part in exported for message in part] == own

        assert await repository.delete_session_async("mine", session_id)
    assert raw_rows.everything(mongodb) == ([], [])


@pytest.mark.parametrize("made_by", ["create_session", "with messages", "ensure_session_exists", "restore"])
async def test_messages_that_a_program_without_foreign_keys_left_are_not_visible_in_a_later_session(
    sqlite_url: str, made_by: str
) -> None:
    own = ["own"] if made_by == "with messages" else []
    async with SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url) as repository:
        secret = [("user", "secret")]
        ids = [await repository.create_session_async("yours", messages=secret) for _ in range(2)]
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute("DELETE FROM chat_sessions")
            assert connection.execute("SELECT count(*) FROM chat_messages").fetchone() == (2,)

        for session_id in ids:
            if made_by == "ensure_session_exists":
                assert await repository.ensure_session_exists(session_id, "mine")
            elif made_by == "restore":
                now = datetime.now(UTC)
                await repository.admin.restore(ChatSession(session_id, "title", "mine", now, now), [])
            else:
                messages = [("user", content) for content in own]
                await repository.create_session_async("mine", messages=messages, session_id=session_id)
            history = await repository.get_session_history("mine", session_id)
            assert [message.content for message in history] == own
        assert (await repository.search_messages("mine", "secret")).hits == []


async def test_messages_that_other_programs_stored_are_shown_whatever_their_ids(mongodb: Backend) -> None:
    async with mongodb.repository() as repository:
        session_id = await repository.create_session_async("mine")
        ids = ["m-1", str(uuid.uuid4()), identifiers.new_message_id(), "e\u0301" * 100]
        moment = datetime.now(UTC)
        with MongoClient[dict[str, Any]](mongodb.url) as client:
            for number, message_id in enumerate(ids):
                client.get_default_database()["chat_messages"].insert_one(
                    {"message_id": message_id, "session_id": session_id, "role": "user", "content": "Hi"}
                    | {"timestamp": moment + timedelta(seconds=number)}
                    | ({"_id": message_id} if number % 2 else {})
                )
        history = await repository.get_session_history("mine", session_id)
        assert [message.message_id for message in history] == ids
