"""The API in plain names: isolation, and consistency of both styles with the repository."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sessions import (
    AsyncChats,
    AsyncSessionRepository,
    Chats,
    ConfigurationError,
    InvalidInputError,
    SessionNotFoundError,
    SessionRepositoryFactory,
)
from sessions.config import DatabaseSettings
from sessions.repositories import options
from sessions.repositories.mongo_session_repository import MongoSessionRepository
from sessions.repositories.postgres_session_repository import PostgresSessionRepository
from sessions.repositories.redis_session_repository import RedisSessionRepository
from sessions.repositories.sqlite_session_repository import SqliteSessionRepository

OPERATIONS = [
    name
    for name, _ in inspect.getmembers(AsyncChats, inspect.isfunction)
    # A transaction belongs to an event loop.
    if not name.startswith("_") and name not in ("using", "run_in_transaction")
]


@pytest.fixture
def chats(sqlite_url: str) -> Iterator[Chats]:
    with Chats(sqlite_url) as opened:
        yield opened


async def test_a_conversation_in_plain_names(sqlite_url: str) -> None:
    async with AsyncChats(sqlite_url) as chats:
        session_id = await chats.create_session("alice", title="Trip to Rome", metadata={"channel": "web"})
        await chats.add_message("alice", session_id, "user", "What should I see first?")
        await chats.add_messages("alice", session_id, [("assistant", "The Pantheon."), ("user", "And then?")])
        history = await chats.get_session_history("alice", session_id)
        newest = await chats.get_session_history("alice", session_id, limit=1)
        found = await chats.get_session("alice", session_id)

        assert [message.role for message in history] == ["user", "assistant", "user"]
        assert newest == history[-1:]
        assert found is not None
        assert (found.title, found.metadata) == ("Trip to Rome", {"channel": "web"})
        assert await chats.update_session("alice", session_id, title="Rome")
        assert (await chats.list_sessions("alice")).sessions[0].title == "Rome"
        assert [part async for _, part in chats.export_user("alice")] == [history]
        assert await chats.is_healthy()
        assert await chats.delete_session("alice", session_id)
        assert await chats.count_sessions("alice") == 0


def test_another_user_sees_and_changes_nothing(chats: Chats) -> None:
    session_id = chats.create_session("alice", {"title": "Mine"})
    chats.add_message("alice", session_id, "user", "Secret")
    soon = datetime.now(UTC) + timedelta(hours=1)

    assert chats.get_session("bob", session_id) is None
    assert chats.get_session_history("bob", session_id) == []
    assert not chats.update_session("bob", session_id, title="Theirs")
    assert not chats.delete_session("bob", session_id)
    assert chats.delete_sessions_older_than("bob", soon) == 0
    assert chats.keep_latest_sessions("bob", 0) == chats.delete_user("bob") == 0
    with pytest.raises(SessionNotFoundError):
        chats.add_message("bob", session_id, "user", "Hello")
    with pytest.raises(SessionNotFoundError):
        chats.add_messages("bob", session_id, [("user", "Hello")])
    found = chats.get_session("alice", session_id)
    assert found is not None
    assert found.title == "Mine"
    assert len(chats.get_session_history("alice", session_id)) == 1


@pytest.mark.parametrize("user_id", [None, "", 7])
def test_the_owner_has_to_be_named(chats: Chats, user_id: Any) -> None:
    session_id = chats.create_session("alice")
    calls = [
        lambda: chats.add_message(user_id, session_id, "user", "Hello"),
        lambda: chats.add_messages(user_id, session_id, [("user", "Hello")]),
        lambda: chats.delete_sessions_older_than(user_id, datetime.now(UTC)),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError) as refused:
            call()
        assert refused.value.argument == "user_id"
    assert chats.get_session_history("alice", session_id) == []


def test_a_session_of_a_chosen_id_is_created_once(chats: Chats) -> None:
    session_id = uuid.uuid4()
    assert chats.ensure_session_exists("alice", session_id, title="First")
    assert not chats.ensure_session_exists("alice", session_id, title="Second")
    found = chats.get_session("alice", session_id)
    assert found is not None
    assert (found.session_id, found.title) == (str(session_id), "First")


def test_a_value_may_be_given_by_keyword_or_in_a_mapping_but_not_both(chats: Chats) -> None:
    session_id = chats.create_session("alice", {"title": "Mapping"}, metadata={"by": "keyword"})
    found = chats.get_session("alice", session_id)
    assert found is not None
    assert (found.title, found.metadata) == ("Mapping", {"by": "keyword"})
    with pytest.raises(InvalidInputError) as refused:
        chats.create_session("alice", {"title": "Mapping"}, title="Keyword")
    assert refused.value.argument == "title"
    with pytest.raises(InvalidInputError) as refused:
        chats.update_session("alice", session_id, {"title": "Mapping"}, title="Keyword")
    assert refused.value.argument == "title"
    assert chats.count_sessions("alice") == 1


def test_without_a_url_the_settings_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "postgres")
    assert isinstance(Chats().repository, PostgresSessionRepository)
    assert isinstance(AsyncChats(backend="mongodb").repository, MongoSessionRepository)


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("sqlite://", SqliteSessionRepository),
        ("postgres://host/database", PostgresSessionRepository),
        ("postgresql+asyncpg://host/database", PostgresSessionRepository),
        ("mongodb+srv://host.example/database", MongoSessionRepository),
        ("redis://host", RedisSessionRepository),
        ("rediss://host/1", RedisSessionRepository),
        ("valkey://host", RedisSessionRepository),
        ("unix:///run/valkey.sock", RedisSessionRepository),
    ],
)
def test_a_url_chooses_the_backend(url: str, repository: type[AsyncSessionRepository]) -> None:
    assert isinstance(AsyncChats(url, pool_size=3).repository, repository)


def test_what_cannot_be_opened_says_which_option_is_wrong() -> None:
    with pytest.raises(ConfigurationError, match="url: must start with"):
        Chats("mysql://user:secret@host/database")
    with pytest.raises(ConfigurationError, match="repository: goes with no other option"):
        Chats("sqlite://", repository=Chats("sqlite://").repository)
    wrong: Any = {"busy_timeot": 1}
    with pytest.raises(ConfigurationError, match="busy_timeot"):
        Chats("sqlite://", **wrong)


def test_the_repository_and_the_chats_are_of_one_database(sqlite_url: str) -> None:
    repository = SessionRepositoryFactory.create_repository("sqlite", url=sqlite_url)
    with Chats(repository=repository) as chats:
        session_id = chats.create_session("alice")
        assert repository.get_session_sync("alice", session_id) is not None
        assert chats.repository is repository
        assert repository.chats.repository is repository


def test_both_styles_take_and_return_the_same() -> None:
    assert {"add_message", "get_session_history", "export_user", "ensure_ready"} <= set(OPERATIONS)
    for name in OPERATIONS:
        asynchronous = getattr(AsyncChats, name)
        blocking = getattr(Chats, "close" if name == "aclose" else name)
        assert asynchronous.__doc__ == blocking.__doc__, name
        taken, taken_blocking = inspect.signature(asynchronous), inspect.signature(blocking)
        assert taken.parameters == taken_blocking.parameters, name
        assert name in ("aclose", "ensure_ready", "is_healthy") or list(taken.parameters)[1] == "user_id"
        if name != "export_user":
            assert taken.return_annotation == taken_blocking.return_annotation, name


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (options.PostgresOptions, "postgres"),
        (options.MongoOptions, "mongodb"),
        (options.SqliteOptions, "sqlite"),
        (options.RedisOptions, "redis"),
    ],
)
def test_the_options_that_type_checkers_know_are_those_of_the_settings(typed: Any, key: str) -> None:
    own = {"retry", "connection_manager", "client" if key in ("mongodb", "redis") else "engine"}
    settings = getattr(DatabaseSettings(), key)
    assert set(typed.__annotations__) - own == settings.file_keys()
    assert set(typed.__annotations__) - {"connection_manager", "url"} <= set(
        options.ChatsOptions.__annotations__
    )


def test_only_admin_looks_across_users() -> None:
    others = {"aclose", "ensure_ready", "is_healthy", "run_in_transaction", "using", "close"}
    for kind in (AsyncChats, Chats):
        for name, member in inspect.getmembers(kind):
            if name.startswith("_") or isinstance(member, property):
                continue
            parameters = list(inspect.signature(member).parameters)
            assert name in others or parameters[:2] == ["self", "user_id"], name
