"""The statements that the SQL repositories would send, taken down instead, on data made in the server."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

from sessions import ChatMessage, ChatSession, NewMessage
from sessions.core.cursors import encode_cursor, encode_search_cursor

Sent = tuple[str, tuple[Any, ...]]

# One user and one session have half of the rows, which the planner cannot know before the first ANALYZE.
USER = "big"
SESSIONS, MESSAGES = 20_000, 40_000
NEWEST = datetime(2026, 1, 1, tzinfo=UTC)


def session_id(number: int) -> str:
    """Return the id of the session that is so many seconds older than the newest."""
    return f"00000000-0000-4000-8000-{number:012x}"


def message_id(number: int) -> str:
    """Return the id of the message that is so many seconds older than the newest: a UUIDv7 of that time."""
    moment = NEWEST - timedelta(seconds=number)
    milliseconds = f"{int(moment.timestamp() * 1000):012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7000-8000-{number:012x}"


# One somewhere in the midst of the user's sessions, or of the session's messages.
MIDDLE = 501
THEN = NEWEST - timedelta(seconds=MIDDLE)
BIG_SESSION = session_id(1)
CHAT_SESSION = ChatSession(session_id(MIDDLE), "title", USER, THEN, THEN)
CURSOR = encode_cursor(CHAT_SESSION)
MESSAGE_ID = message_id(MIDDLE)
MESSAGE = NewMessage("user", "Hello", metadata={"a": 1}, payload=[1], timestamp=THEN)
WHERE = {"pinned": [True, None], "kind": "a"}
SEARCH_CURSOR = encode_search_cursor(THEN, 0, MESSAGE_ID)

# By what each does; all on what `USER` and `BIG_SESSION` have.
READS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "whole history": lambda r: r.get_session_history(USER, BIG_SESSION),
    "newest messages": lambda r: r.get_session_history(USER, BIG_SESSION, limit=50),
    "all payloads": lambda r: r.get_session_payloads(USER, BIG_SESSION),
    "newest payloads": lambda r: r.get_session_payloads(USER, BIG_SESSION, limit=50),
    "messages before one": lambda r: r.get_session_history(USER, BIG_SESSION, limit=50, before=MESSAGE_ID),
    "all messages before one": lambda r: r.get_session_history(USER, BIG_SESSION, before=MESSAGE_ID),
    "messages after one": lambda r: r.get_session_history(USER, BIG_SESSION, limit=50, after=MESSAGE_ID),
    "all messages after one": lambda r: r.get_session_history(USER, BIG_SESSION, after=MESSAGE_ID),
    "messages since then": lambda r: r.get_session_history(USER, BIG_SESSION, limit=50, since=THEN),
    "all messages since then": lambda r: r.get_session_history(USER, BIG_SESSION, since=THEN),
    "one message": lambda r: r.get_message(USER, BIG_SESSION, MESSAGE_ID),
    "count of messages": lambda r: r.count_messages(USER, BIG_SESSION),
    "first page": lambda r: r.list_paginated_sessions_async(USER, 0, 20),
    "a later page": lambda r: r.list_paginated_sessions_async(USER, 3, 20),
    "a far page": lambda r: r.list_paginated_sessions_async(USER, 400, 20),
    "first page of a listing": lambda r: r.list_sessions(USER, limit=20),
    "next page of a listing": lambda r: r.list_sessions(USER, limit=20, cursor=CURSOR),
    "count": lambda r: r.count_sessions(USER),
    "get": lambda r: r.get_session(USER, BIG_SESSION),
    "first sessions to export": lambda r: r._calls.run(
        "export", r._calls.backend.export_sessions, USER, None, 1000
    ),
    "next sessions to export": lambda r: r._calls.run(
        "export", r._calls.backend.export_sessions, USER, CHAT_SESSION, 1000
    ),
    "first messages to export": lambda r: r._calls.run(
        "export", r._calls.backend.export_messages, BIG_SESSION, USER, None, 1000
    ),
    "next messages to export": lambda r: r._calls.run(
        "export", r._calls.backend.export_messages, BIG_SESSION, USER, (THEN, 0, MESSAGE_ID), 1000
    ),
}
ADMINISTRATION: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "next users": lambda r: r._calls.run("iter_users", r._calls.backend.list_users, USER, 1000),
    "next sessions of all users": lambda r: r._calls.run(
        "iter_sessions", r._calls.backend.list_all, session_id(MIDDLE), 1000
    ),
}


async def restore(repository: Any) -> None:
    """Restore a session with one message; in SQLite several statements."""
    message = ChatMessage(MESSAGE_ID, CHAT_SESSION.session_id, "user", "Hello", THEN)
    await repository.admin.restore(CHAT_SESSION, [message])


# They sort what they find, and filter what they read.
SEARCHES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "search": lambda r: r.search_messages(USER, "hello"),
    "search for no case": lambda r: r.search_messages(USER, "привет 旅行"),
    "search after a hit": lambda r: r.search_messages(USER, "hello", cursor=SEARCH_CURSOR),
    "search a session": lambda r: r.search_messages(USER, "hello", session_id=BIG_SESSION),
    "search a session after a hit": lambda r: r.search_messages(
        USER, "hello", session_id=BIG_SESSION, cursor=SEARCH_CURSOR
    ),
}
WRITES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "append": lambda r: r.add_message(BIG_SESSION, "user", "Hello"),
    "append, owner checked": lambda r: r.add_message(BIG_SESSION, "user", "Hello", user_id=USER),
    "append two": lambda r: r.add_messages(BIG_SESSION, [("user", "Hello"), ("assistant", "Hi")]),
    "ensure": lambda r: r.ensure_session_exists(BIG_SESSION, USER),
    "update": lambda r: r.update_session_async(USER, BIG_SESSION, {"title": "New"}),
    "delete": lambda r: r.delete_session_async(USER, BIG_SESSION),
    "update a message": lambda r: r.update_message(USER, BIG_SESSION, MESSAGE_ID, content="Hi"),
    "pop a message": lambda r: r.pop_message(USER, BIG_SESSION),
    "delete messages": lambda r: r.delete_messages(USER, BIG_SESSION, [MESSAGE_ID, message_id(503)]),
    "delete messages from one": lambda r: r.delete_messages_from(USER, BIG_SESSION, MESSAGE_ID),
    "delete messages after one": lambda r: r.delete_messages_from(
        USER, BIG_SESSION, MESSAGE_ID, inclusive=False
    ),
    "clear messages": lambda r: r.clear_messages(USER, BIG_SESSION),
    "replace messages": lambda r: r.replace_messages(
        USER, BIG_SESSION, [NewMessage("user", "Hi", message_id=MESSAGE_ID), ("assistant", "Hello")]
    ),
    "replace many messages": lambda r: r.replace_messages(
        USER,
        BIG_SESSION,
        [NewMessage("user", "Hi", message_id=message_id(number)) for number in range(1, 2001)],
    ),
    "delete many messages": lambda r: r.delete_messages(
        USER, BIG_SESSION, [message_id(number) for number in range(1, 2001)]
    ),
    "fork": lambda r: r.fork_session(USER, BIG_SESSION),
    "fork through a message": lambda r: r.fork_session(USER, BIG_SESSION, through=MESSAGE_ID),
    "keep the latest": lambda r: r.keep_latest_sessions(USER, 100),
    "delete a user": lambda r: r.delete_user(USER),
    "delete a user's old sessions": lambda r: r.delete_sessions_older_than(THEN, user_id=USER),
}

PREVIEWS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "first page of previews": lambda r: r.list_session_previews(USER, limit=20),
    "next page of previews": lambda r: r.list_session_previews(USER, limit=20, cursor=CURSOR),
}
# They look at the metadata of each row of a range.
FILTERED: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "first page where": lambda r: r.list_sessions(USER, limit=20, where=WHERE),
    "next page where": lambda r: r.list_sessions(USER, limit=20, cursor=CURSOR, where=WHERE),
    "first page of previews where": lambda r: r.list_session_previews(USER, limit=20, where=WHERE),
    "next page of previews where": lambda r: r.list_session_previews(
        USER, limit=20, cursor=CURSOR, where=WHERE
    ),
    "count where": lambda r: r.count_sessions(USER, where=WHERE),
    "delete a user's old sessions where": lambda r: r.delete_sessions_older_than(
        THEN, user_id=USER, where=WHERE
    ),
}
# With all that a write may hold and expect.
COMPLETE_WRITES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "append all that a message holds": lambda r: r.add_messages(BIG_SESSION, [MESSAGE]),
    "append under a version": lambda r: r.add_messages(
        BIG_SESSION, [MESSAGE, MESSAGE], user_id=USER, merge_metadata={"a": 1}, expected_version=7
    ),
    "append none": lambda r: r.add_messages(BIG_SESSION, [], user_id=USER),
    "merge only": lambda r: r.add_messages(BIG_SESSION, [], merge_metadata={"a": 1}),
    "create with messages": lambda r: r.create_session_async(USER, messages=[MESSAGE]),
    "update under conditions": lambda r: r.update_session_async(
        USER,
        BIG_SESSION,
        merge_metadata={"a": 1},
        remove_metadata=["b"],
        if_title="title",
        expected_version=0,
    ),
    "delete under a version": lambda r: r.delete_session_async(USER, BIG_SESSION, expected_version=0),
}


class TakenDownError(Exception):
    """Ends an operation where it would send its statement."""


async def first_statement(
    operation: Awaitable[Any], listening: Callable[[Callable[..., None]], AbstractContextManager[None]]
) -> Sent:
    """Return the first statement of an operation, with its parameters; it is not executed.

    Args:
        operation: Not yet awaited.
        listening: Lets what it is given be called with each statement and its parameters.
    """
    sent: list[Sent] = []

    def take_down(statement: str, values: Any) -> None:
        sent.append((statement, values))
        raise TakenDownError

    with listening(take_down), contextlib.suppress(TakenDownError):
        await operation
    return sent[0]
