from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sessions import AsyncSessionRepository, BaseSessionRepository
from sessions.repositories.mongo_session_repository import MongoSessionRepository
from sessions.repositories.postgres_session_repository import PostgresSessionRepository
from sessions.repositories.redis_session_repository import RedisSessionRepository
from sessions.repositories.sqlite_session_repository import SqliteSessionRepository
from sessions.testing.twins import find_twin_mismatches, pairs_of

REPOSITORIES = [
    AsyncSessionRepository,
    MongoSessionRepository,
    PostgresSessionRepository,
    RedisSessionRepository,
    SqliteSessionRepository,
]
# The names that users know: the async one, then the sync one.
PAIRS = {
    ("create_session_async", "create_session"),
    ("update_session_async", "update_session"),
    ("list_paginated_sessions_async", "list_paginated_sessions"),
    ("delete_session_async", "delete_session"),
    ("get_session_history", "get_session_history_sync"),
    ("add_message", "add_message_sync"),
    ("ensure_session_exists", "ensure_session_exists_sync"),
    ("get_session", "get_session_sync"),
    ("add_messages", "add_messages_sync"),
    ("list_sessions", "list_sessions_sync"),
    ("count_sessions", "count_sessions_sync"),
    ("list_session_previews", "list_session_previews_sync"),
    ("get_message", "get_message_sync"),
    ("count_messages", "count_messages_sync"),
    ("get_session_payloads", "get_session_payloads_sync"),
    ("update_message", "update_message_sync"),
    ("pop_message", "pop_message_sync"),
    ("delete_messages", "delete_messages_sync"),
    ("delete_messages_from", "delete_messages_from_sync"),
    ("clear_messages", "clear_messages_sync"),
    ("replace_messages", "replace_messages_sync"),
    ("fork_session", "fork_session_sync"),
    ("search_messages", "search_messages_sync"),
    ("keep_latest_sessions", "keep_latest_sessions_sync"),
    ("delete_sessions_older_than", "delete_sessions_older_than_sync"),
    ("delete_user", "delete_user_sync"),
    ("export_user", "export_user_sync"),
    ("ensure_ready", "ensure_ready_sync"),
    ("is_healthy", "is_healthy_sync"),
    ("aclose", "close"),
}
# The six operations of the interface, as users call them: whether it is async, and the arguments.
SIX = {
    "create_session": (False, ["user_id", "session_data"]),
    "get_session_history": (True, ["user_id", "session_id"]),
    "update_session": (False, ["user_id", "session_id", "data"]),
    "list_paginated_sessions": (False, ["user_id", "page=0", "limit=10"]),
    "delete_session": (False, ["user_id", "session_id"]),
    "add_message": (True, ["session_id", "role", "content"]),
}


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_twins_take_and_return_the_same(repository: type[Any]) -> None:
    assert find_twin_mismatches(repository) == []


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_every_operation_has_the_two_names_that_users_know(repository: type[Any]) -> None:
    further = {
        ("remove_orphaned_messages", "remove_orphaned_messages_sync"),
        ("remove_leftovers", "remove_leftovers_sync"),
    }
    assert set(pairs_of(repository)) == PAIRS | (further if repository is MongoSessionRepository else set())


@pytest.mark.parametrize("name", SIX)
def test_the_six_operations_stay_async_or_blocking_with_their_arguments(name: str) -> None:
    is_async, arguments = SIX[name]
    for repository in (BaseSessionRepository, *REPOSITORIES):
        method = getattr(repository, name)
        assert inspect.iscoroutinefunction(method) is is_async
        parameters = list(inspect.signature(method).parameters.values())[1:]
        for parameter, argument in zip(parameters, arguments, strict=False):
            argument_name, _, default = argument.partition("=")
            assert parameter.name == argument_name
            assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            if default:
                assert repr(parameter.default) == default
        # Additional parameters are optional and keyword-only.
        for parameter in parameters[len(arguments) :]:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
            assert parameter.default is not inspect.Parameter.empty


class Twins:
    async def one(self, a: int, *, b: str = "x") -> list[str]: ...

    def one_sync(self, a: int, *, b: str = "x") -> list[str]: ...

    async def many(self, a: int) -> AsyncIterator[int]:
        yield a

    def many_sync(self, a: int) -> Iterator[int]: ...


class NoTwin(Twins):
    async def other(self) -> None: ...


class OtherDefault(Twins):
    def one_sync(self, a: int, *, b: str = "y") -> list[str]: ...


class OtherOrder(Twins):
    def one_sync(self, *, b: str = "x", a: int) -> list[str]: ...


class OtherType(Twins):
    def one_sync(self, a: str, *, b: str = "x") -> list[str]: ...


class OtherKind(Twins):
    def one_sync(self, a: int, b: str = "x") -> list[str]: ...


class OtherResult(Twins):
    def one_sync(self, a: int, *, b: str = "x") -> list[int]: ...


class OtherItems(Twins):
    def many_sync(self, a: int) -> Iterator[str]: ...


class AsyncTwin(Twins):
    async def one_sync(self, a: int, *, b: str = "x") -> list[str]: ...


class OnlySync(Twins):
    def other_sync(self) -> None: ...


@pytest.mark.parametrize(
    ("class_", "mismatch"),
    [
        (NoTwin, "other has no sync twin other_sync"),
        (OtherDefault, "takes other arguments"),
        (OtherOrder, "takes other arguments"),
        (OtherType, "takes other arguments"),
        (OtherKind, "takes other arguments"),
        (OtherResult, "returns something else"),
        (OtherItems, "returns something else"),
        (AsyncTwin, "one has no sync twin one_sync"),
        (OnlySync, "other_sync has no async twin"),
    ],
)
def test_a_difference_between_twins_is_found(class_: type[Any], mismatch: str) -> None:
    assert find_twin_mismatches(Twins) == []
    assert any(mismatch in text for text in find_twin_mismatches(class_))
