"""Examples of AgentHub's documentation, with its import paths, without ``app.``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from sessions.connections.base import ConnectionType
from sessions.models.message import ChatMessage
from sessions.models.session import ChatSession
from sessions.repositories.base_session_repository import BaseSessionRepository
from sessions.repositories.session_repository_factory import (
    SessionRepositoryFactory,
    SessionRepositoryType,
    register_repository,
)

URL_SETTINGS = {"mongodb": "MONGODB_URL", "postgres": "POSTGRES_URL", "sqlite": "SQLITE_PATH"}
URL_SETTINGS |= {"redis": "REDIS_URL"}


@pytest.fixture
def configured(backend: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each backend, known only from the settings."""
    value = backend.url.removeprefix("sqlite:///")
    monkeypatch.setenv(URL_SETTINGS[backend.repository_type], value)
    if backend.repository_type != "mongodb":  # Which is the default.
        monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", backend.repository_type)
    return backend.repository_type


@pytest.fixture
def repo(configured: str) -> BaseSessionRepository:
    return SessionRepositoryFactory.get_default_repository()


# -- Getting started -------------------------------------------------------------------------------


async def test_getting_started(repo: Any) -> None:
    session_id = repo.create_session(user_id="user123", session_data={"title": "New Chat"})

    await repo.add_message(session_id=session_id, role="user", content="Hello!")
    await repo.add_message(session_id=session_id, role="assistant", content="Hi! How can I help?")

    messages = await repo.get_session_history(user_id="user123", session_id=session_id)
    assert all(isinstance(message, ChatMessage) for message in messages)
    assert [f"{message.role}: {message.content}" for message in messages] == [
        "user: Hello!",
        "assistant: Hi! How can I help?",
    ]


def test_getting_started_as_a_script_of_its_own(repo: Any) -> None:
    async def main() -> list[ChatMessage]:
        session_id = repo.create_session(user_id="user123", session_data={"title": "New Chat"})
        await repo.add_message(session_id=session_id, role="user", content="Hello!")
        history: list[ChatMessage] = await repo.get_session_history(user_id="user123", session_id=session_id)
        return history

    for _ in range(2):
        [message] = asyncio.run(main())
        assert message.content == "Hello!"


def test_the_default_repository_is_mongodb(monkeypatch: pytest.MonkeyPatch, mongodb_url: str) -> None:
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    repo = SessionRepositoryFactory.get_default_repository()
    assert repo.connection_type == ConnectionType.MONGODB
    session_id = repo.create_session(user_id="user123", session_data={"title": "New Chat"})
    assert repo.delete_session("user123", session_id) is True


# -- Creating --------------------------------------------------------------------------------------


async def test_create_with_metadata(repo: Any) -> None:
    session_data = {
        "title": "Customer Support Chat",
        "metadata": {
            "source": "web",
            "category": "billing",
            "priority": "high",
            "tags": ["urgent", "payment"],
        },
    }
    first = repo.create_session(user_id="user123", session_data=session_data)
    second = await repo.create_session_async(user_id="user123", session_data=session_data)
    assert first != second
    for chat_session in repo.list_paginated_sessions("user123"):
        assert isinstance(chat_session, ChatSession)
        assert chat_session.title == session_data["title"]
        assert chat_session.metadata == session_data["metadata"]


async def test_ensure_under_an_id_of_ones_own(
    mongodb_url: str, mongodb_standalone_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (mongodb_url, mongodb_standalone_url):
        monkeypatch.setenv("MONGODB_URL", url)
        repo = SessionRepositoryFactory.get_default_repository()
        for expected in (True, False):
            created = await repo.ensure_session_exists(
                session_id="predetermined-session-id",
                user_id="user123",
                session_data={"title": "Restored Chat"},
            )
            assert created is expected
        [chat_session] = repo.list_paginated_sessions("user123")
        assert chat_session.session_id == "predetermined-session-id"
        assert chat_session.title == "Restored Chat"


async def test_ensure_under_a_uuid(repo: Any) -> None:
    session_id = str(uuid.uuid4())
    for expected in (True, False):
        created = await repo.ensure_session_exists(
            session_id=session_id, user_id="user123", session_data={"title": "Restored Chat"}
        )
        assert created is expected


# -- Listing, updating, deleting -------------------------------------------------------------------


async def test_list_pages(repo: Any) -> None:
    for number in range(60):
        await repo.create_session_async("user123", {"title": f"Chat {number}"})
    first = repo.list_paginated_sessions(user_id="user123", page=0, limit=50)
    second = repo.list_paginated_sessions(user_id="user123", page=1, limit=50)
    assert (len(first), len(second)) == (50, 10)
    assert len({chat_session.session_id for chat_session in first + second}) == 60
    assert [len(repo.list_paginated_sessions("user123", page=page)) for page in (0, 5, 6)] == [10, 10, 0]


async def test_update_title_metadata_and_both(repo: Any) -> None:
    session_id = repo.create_session("user123", {"title": "New Chat", "metadata": {"source": "web"}})
    for data, title, metadata in (
        ({"title": "Billing Question"}, "Billing Question", {"source": "web"}),
        ({"metadata": {"resolved": True}}, "Billing Question", {"resolved": True}),
        ({"title": "Done", "metadata": {"rating": 5}}, "Done", {"rating": 5}),
    ):
        assert repo.update_session(user_id="user123", session_id=session_id, data=data) is True
        [chat_session] = repo.list_paginated_sessions("user123")
        assert (chat_session.title, chat_session.metadata) == (title, metadata)
    assert repo.update_session(user_id="somebody-else", session_id=session_id, data={"title": "x"}) is False


async def test_delete_twice(repo: Any) -> None:
    session_id = repo.create_session("user123", None)
    await repo.add_message(session_id, "user", "Hello!")
    assert repo.delete_session(user_id="user123", session_id=session_id) is True
    assert repo.delete_session(user_id="user123", session_id=session_id) is False
    assert await repo.get_session_history("user123", session_id) == []


async def test_a_cleanup_of_ones_own(repo: Any) -> None:
    async def cleanup_old_sessions(user_id: str, keep_last_n: int = 50) -> None:
        sessions = repo.list_paginated_sessions(user_id, page=0, limit=1000)
        for session in sessions[keep_last_n:]:
            repo.delete_session(user_id, session.session_id)

    ids = [repo.create_session("user123", {"title": str(number)}) for number in range(53)]
    await asyncio.sleep(0.01)
    await repo.add_message(ids[0], "user", "Still here")
    latest = [item.session_id for item in repo.list_paginated_sessions("user123", limit=50)]
    await cleanup_old_sessions("user123")
    assert [item.session_id for item in repo.list_paginated_sessions("user123", limit=1000)] == latest
    assert latest[0] == ids[0]


# -- Factory ---------------------------------------------------------------------------------------


async def test_create_by_type(monkeypatch: pytest.MonkeyPatch, mongodb_url: str, postgres_url: str) -> None:
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    monkeypatch.setenv("POSTGRES_URL", postgres_url)
    for repo_type in (SessionRepositoryType.MONGODB, SessionRepositoryType.POSTGRES):
        repo = SessionRepositoryFactory.create_repository(repo_type)
        assert isinstance(repo, BaseSessionRepository)
        session_id = repo.create_session("user123", {"title": str(repo_type)})
        [chat_session] = repo.list_paginated_sessions("user123")
        assert (chat_session.session_id, chat_session.title) == (session_id, repo_type.value)


def test_list_what_there_is() -> None:
    available = SessionRepositoryFactory.list_repositories()
    assert SessionRepositoryType.MONGODB in available
    assert SessionRepositoryType.POSTGRES in available


@pytest.fixture
def registered_class() -> Iterator[type[BaseSessionRepository]]:
    from sessions import SessionRepositoryRegistry

    before = dict(SessionRepositoryRegistry._classes)
    from sessions.repositories.mongo_session_repository import MongoSessionRepository

    @register_repository("audited")
    class AuditedRepository(MongoSessionRepository):
        pass

    yield AuditedRepository
    SessionRepositoryRegistry._classes = before | {
        name: found for name, found in SessionRepositoryRegistry._classes.items() if name != "audited"
    }


async def test_a_registered_type_can_be_the_default(
    registered_class: type[BaseSessionRepository], monkeypatch: pytest.MonkeyPatch, mongodb_url: str
) -> None:
    monkeypatch.setenv("MONGODB_URL", mongodb_url)
    monkeypatch.setenv("SESSIONS_DEFAULT_REPOSITORY", "audited")
    assert "audited" in SessionRepositoryFactory.list_repositories()
    repo = SessionRepositoryFactory.get_default_repository()
    assert type(repo) is registered_class
    assert await repo.get_session_history("user123", repo.create_session("user123", None)) == []
