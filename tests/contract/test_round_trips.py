"""The exact number of round trips of each operation, so that no change adds one unnoticed."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import ChatSession, NewMessage, SessionConflictError, SessionNotFoundError, VersionConflictError
from sessions.core.cursors import encode_cursor
from sessions.core.operations import Operations
from tests.support.databases import Backend
from tests.support.wire import counted

ABSENT, FIRST = str(uuid.uuid4()), str(uuid.uuid4())
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
SOON = datetime.now(UTC) + timedelta(hours=1)
MESSAGES = [("user", "Hello"), ("assistant", "Hi")]
CURSOR = encode_cursor(ChatSession(ABSENT, "title", "user", SOON, SOON))
BACKENDS = ("postgres", "sqlite", "mongodb-replica-set", "mongodb-standalone")

Operation = Callable[[Any, str, str], Awaitable[Any]]


async def fails(error: type[Exception], call: Awaitable[Any]) -> None:
    with pytest.raises(error):
        await call


async def export(repository: Any, _: str, __: str) -> None:
    async for _part in repository.export_user("user"):
        pass


async def add_to_absent(repository: Any, _: str, __: str) -> None:
    with pytest.raises(SessionNotFoundError):
        await repository.add_message(ABSENT, "user", "Hello")


async def ensure_of_another(repository: Any, session_id: str, _: str) -> None:
    with pytest.raises(SessionConflictError):
        await repository.ensure_session_exists(session_id, "another")


# Statements on PostgreSQL (where each is one round trip), calls of the driver on SQLite, and commands on
# MongoDB, on a replica set and standalone. Each on a user who has one session with three messages.
#
# In SQLite an append is a transaction: BEGIN, UPDATE, INSERT, COMMIT; so is each change of messages. In
# MongoDB an append is the insert and the update, a history read ends with a read of its session, and a
# deletion ends with two queries for orphaned messages; several writes are a transaction, or without
# transactions noted before and after them. Exports and batched deletes end with an empty batch, and batched
# deletes in MongoDB with a query for notes.
OPERATIONS: dict[str, tuple[Operation, tuple[int, int, int, int]]] = {
    "create_session": (
        lambda r, s, m: r.create_session_async("user", {"metadata": {"key": 1}}),
        (1, 1, 1, 1),
    ),
    "ensure_session_exists, a new one": (
        lambda r, s, m: r.ensure_session_exists(str(uuid.uuid4()), "user"),
        (1, 5, 4, 4),
    ),
    "ensure_session_exists, there already": (
        lambda r, s, m: r.ensure_session_exists(s, "user"),
        (1, 1, 1, 1),
    ),
    "ensure_session_exists, another's": (ensure_of_another, (1, 1, 1, 1)),
    "get_session": (lambda r, s, m: r.get_session("user", s), (1, 1, 1, 1)),
    "get_session, absent": (lambda r, s, m: r.get_session("user", ABSENT), (1, 1, 1, 1)),
    "update_session": (lambda r, s, m: r.update_session_async("user", s, {"title": "New"}), (1, 1, 1, 1)),
    "update_session, absent": (
        lambda r, s, m: r.update_session_async("user", ABSENT, {"title": "New"}),
        (1, 1, 1, 1),
    ),
    "list_paginated_sessions": (lambda r, s, m: r.list_paginated_sessions_async("user", 1, 1), (1, 1, 1, 1)),
    "list_sessions": (lambda r, s, m: r.list_sessions("user"), (1, 1, 1, 1)),
    "list_sessions, next page": (lambda r, s, m: r.list_sessions("user", cursor=CURSOR), (1, 1, 1, 1)),
    "count_sessions": (lambda r, s, m: r.count_sessions("user"), (1, 1, 1, 1)),
    "add_message": (lambda r, s, m: r.add_message(s, "user", "Hello"), (1, 4, 2, 2)),
    "add_message, owner checked": (
        lambda r, s, m: r.add_message(s, "user", "Hello", user_id="user"),
        (1, 4, 2, 2),
    ),
    "add_message, absent": (add_to_absent, (1, 3, 1, 1)),
    "add_messages, none": (lambda r, s, m: r.add_messages(s, []), (1, 1, 1, 1)),
    "add_messages, 2": (lambda r, s, m: r.add_messages(s, MESSAGES), (1, 4, 2, 2)),
    "add_messages, 200": (lambda r, s, m: r.add_messages(s, MESSAGES * 100), (1, 4, 3, 5)),
    "get_session_history": (lambda r, s, m: r.get_session_history("user", s), (1, 1, 1, 1)),
    "get_session_history, newest 2": (
        lambda r, s, m: r.get_session_history("user", s, limit=2),
        (1, 1, 1, 1),
    ),
    "get_session_history, before one": (
        lambda r, s, m: r.get_session_history("user", s, before=m),
        (1, 1, 2, 2),
    ),
    "get_session_history, absent": (lambda r, s, m: r.get_session_history("user", ABSENT), (1, 1, 1, 1)),
    "export_user": (export, (3, 3, 3, 3)),
    "search_messages": (lambda r, s, m: r.search_messages("user", "hello"), (1, 1, 3, 3)),
    "search_messages, in one session": (
        lambda r, s, m: r.search_messages("user", "hello", session_id=s, limit=1),
        (1, 1, 3, 3),
    ),
    "keep_latest_sessions": (lambda r, s, m: r.keep_latest_sessions("user", 0), (2, 2, 8, 12)),
    "keep_latest_sessions, none to delete": (
        lambda r, s, m: r.keep_latest_sessions("user", 10),
        (1, 1, 3, 2),
    ),
    "delete_sessions_older_than": (lambda r, s, m: r.delete_sessions_older_than(SOON), (2, 2, 8, 12)),
    "delete_sessions_older_than, none": (
        lambda r, s, m: r.delete_sessions_older_than(LONG_AGO),
        (1, 1, 3, 2),
    ),
    "delete_user": (lambda r, s, m: r.delete_user("user"), (2, 2, 8, 12)),
    "delete_user, none to delete": (lambda r, s, m: r.delete_user("nobody"), (1, 1, 3, 2)),
    "delete_session": (lambda r, s, m: r.delete_session_async("user", s), (1, 1, 6, 10)),
    "delete_session, absent": (lambda r, s, m: r.delete_session_async("user", ABSENT), (1, 1, 5, 3)),
    "create_session, with messages": (
        lambda r, s, m: r.create_session_async("user", messages=MESSAGES),
        (1, 4, 3, 6),
    ),
    "update_session, nothing": (lambda r, s, m: r.update_session_async("user", s, {}), (1, 1, 1, 1)),
    "update_session, merging": (
        lambda r, s, m: r.update_session_async("user", s, merge_metadata={"a.b": 1}, remove_metadata=["c"]),
        (1, 4, 1, 1),
    ),
    "update_session, not touching": (
        lambda r, s, m: r.update_session_async("user", s, {"title": "New"}, touch=False),
        (1, 1, 1, 1),
    ),
    "update_session, if the title is": (
        lambda r, s, m: r.update_session_async("user", s, {"title": "New"}, if_title="New Chat"),
        (1, 1, 1, 1),
    ),
    "update_session, of a version": (
        lambda r, s, m: r.update_session_async("user", s, {"title": "New"}, expected_version=1),
        (1, 1, 1, 1),
    ),
    "list_sessions, where": (lambda r, s, m: r.list_sessions("user", where={"a": [1, None]}), (1, 1, 1, 1)),
    "list_session_previews": (lambda r, s, m: r.list_session_previews("user"), (1, 1, 1, 1)),
    "list_session_previews, where": (
        lambda r, s, m: r.list_session_previews("user", cursor=CURSOR, where={"a": None}),
        (1, 1, 1, 1),
    ),
    "count_sessions, where": (lambda r, s, m: r.count_sessions("user", where={"a": 1}), (1, 1, 1, 1)),
    "add_message, with everything": (
        lambda r, s, m: r.add_message(
            *(s, "tool", "Hello"),
            user_id="user",
            message_id=uuid.uuid4(),
            timestamp=LONG_AGO,
            metadata={"a": 1},
            payload=[1],
            expected_version=1,
        ),
        (1, 4, 5, 8),
    ),
    "add_message, repeated": (
        lambda r, s, m: r.add_message(s, "user", "Bye", message_id=m),
        (2, 4, 4, 4),
    ),
    "add_messages, merging": (
        lambda r, s, m: r.add_messages(s, MESSAGES, merge_metadata={"a": 1}, expected_version=1),
        (1, 5, 5, 8),
    ),
    "add_messages, of another version": (
        lambda r, s, m: fails(VersionConflictError, r.add_messages(s, MESSAGES, expected_version=0)),
        (2, 4, 4, 3),
    ),
    "get_session_history, after the last": (
        lambda r, s, m: r.get_session_history("user", s, after=m, limit=5),
        (2, 2, 2, 2),
    ),
    "get_session_history, after one": (
        lambda r, s, m: r.get_session_history("user", s, after=FIRST, limit=5),
        (1, 1, 2, 2),
    ),
    "get_session_history, since": (
        lambda r, s, m: r.get_session_history("user", s, since=LONG_AGO, limit=5),
        (1, 1, 1, 1),
    ),
    "get_session_history, none": (lambda r, s, m: r.get_session_history("user", s, limit=0), (0, 0, 0, 0)),
    "get_message": (lambda r, s, m: r.get_message("user", s, m), (1, 1, 1, 1)),
    "get_message, absent": (lambda r, s, m: r.get_message("user", s, ABSENT), (1, 1, 2, 2)),
    "count_messages": (lambda r, s, m: r.count_messages("user", s), (1, 1, 1, 1)),
    "get_session_payloads": (lambda r, s, m: r.get_session_payloads("user", s), (1, 1, 1, 1)),
    "update_message": (lambda r, s, m: r.update_message("user", s, m, content="New"), (1, 6, 5, 10)),
    "update_message, with everything": (
        lambda r, s, m: r.update_message(
            *("user", s, m),
            content="New",
            metadata={"a": 1},
            payload=[1],
            expected_version=1,
        ),
        (1, 6, 5, 10),
    ),
    "update_message, merging": (
        lambda r, s, m: r.update_message("user", s, m, merge_metadata={"a": 1}),
        (1, 6, 5, 10),
    ),
    "pop_message": (lambda r, s, m: r.pop_message("user", s), (1, 6, 5, 8)),
    "delete_messages": (lambda r, s, m: r.delete_messages("user", s, [m, ABSENT]), (1, 5, 6, 9)),
    "delete_messages_from": (lambda r, s, m: r.delete_messages_from("user", s, m), (1, 6, 6, 9)),
    "clear_messages": (lambda r, s, m: r.clear_messages("user", s), (1, 5, 5, 8)),
    "clear_messages, of a version": (
        lambda r, s, m: r.clear_messages("user", s, expected_version=1),
        (1, 5, 5, 8),
    ),
    "replace_messages": (lambda r, s, m: r.replace_messages("user", s, MESSAGES), (1, 7, 7, 11)),
    "replace_messages, of a version": (
        lambda r, s, m: r.replace_messages("user", s, MESSAGES, expected_version=1),
        (1, 7, 7, 11),
    ),
    "fork_session": (lambda r, s, m: r.fork_session("user", s), (1, 6, 5, 8)),
    "fork_session, through one": (lambda r, s, m: r.fork_session("user", s, through=m), (1, 7, 6, 9)),
    "delete_session, of a version": (
        lambda r, s, m: r.delete_session_async("user", s, expected_version=1),
        (1, 1, 6, 10),
    ),
}
# Commands on Redis, where an operation is one of them, but for batches, which end with an empty one.
REDIS = {"get_session_history, none": 0, "export_user": 3, "delete_sessions_older_than": 3}
REDIS |= dict.fromkeys(("keep_latest_sessions", "delete_user", "search_messages"), 2)
EXEMPT_ON_POSTGRES = (
    *("export_user", "keep_latest_sessions", "delete_sessions_older_than", "delete_user"),
    # The second statement finds out why the first one stored or found nothing.
    *("add_message, repeated", "add_messages, of another version", "get_session_history, after the last"),
)
LIFE_CYCLE = {"aclose", "ensure_ready", "is_healthy", "load_and_validate_connection"}


async def test_each_operation_needs_an_exact_number_of_round_trips(backend: Backend) -> None:
    async with counted(backend) as (repository, wire):
        found = {}
        for name, (operation, _) in OPERATIONS.items():
            await repository.delete_user("user")
            session_id = await repository.create_session_async("user", None)
            messages = [NewMessage("user", "Hello", message_id=FIRST), MESSAGES[1], ("user", "Bye")]
            *_, last = await repository.add_messages(session_id, messages)
            wire.clear()
            await operation(repository, session_id, last)
            found[name] = len(wire.statements)
            assert wire.connections == 0, name

    if backend.name == "redis":
        assert found == {name: REDIS.get(name, 1) for name in OPERATIONS}
        return
    column = BACKENDS.index(backend.name)
    assert found == {name: expected[column] for name, (_, expected) in OPERATIONS.items()}


async def test_a_page_of_any_length_needs_one_round_trip(backend: Backend) -> None:
    async with counted(backend) as (repository, wire):
        # MongoDB's first batch has 101 documents, unless it is asked for more.
        await asyncio.gather(*(repository.create_session_async("user") for _ in range(103)))
        for operation in (repository.list_sessions, repository.list_session_previews):
            for limit in (1, 10, 101, 102, 103, 1000):
                wire.clear()
                await operation("user", limit=limit)
                assert len(wire.statements) == 1, (operation.__name__, limit)


def test_every_operation_is_counted() -> None:
    public = {name for name, _ in inspect.getmembers(Operations, inspect.isfunction) if name[0] != "_"}

    counted_here = {name.partition(",")[0] for name in OPERATIONS}
    assert public - LIFE_CYCLE | {"list_paginated_sessions"} == counted_here


def test_postgres_needs_one_statement_except_for_exports_and_batched_deletes() -> None:
    more = [name for name, (_, (postgres, *_)) in OPERATIONS.items() if postgres > 1]

    assert more == list(EXEMPT_ON_POSTGRES)


async def drained(items: Any) -> list[Any]:
    return [item async for item in items]


async def test_postgres_needs_one_statement_for_a_page_of_all_users_and_for_a_restore(
    postgres_url: str,
) -> None:
    async with counted(Backend("postgres", "postgres", postgres_url)) as (repository, wire):
        session_id = await repository.create_session_async("user", None)
        await repository.add_messages(session_id, MESSAGES * 100)
        admin = repository.admin
        [(chat_session, messages)] = await drained(admin.export())
        for expected, operation in [
            (1, lambda: admin.restore(chat_session, messages)),
            (1, lambda: admin.restore(chat_session, [])),
            (1, admin.sizes),
            # The last page is empty.
            (2, lambda: drained(admin.iter_users())),
            (2, lambda: drained(admin.iter_sessions())),
            (3, lambda: drained(admin.export())),
        ]:
            wire.clear()
            await operation()
            assert len(wire.statements) == expected
