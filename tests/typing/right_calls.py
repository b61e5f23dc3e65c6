"""A program of a user, for type checkers: it is never run. Each call has the type that is documented."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, assert_type
from uuid import UUID

from sessions import (
    UNSET,
    AsyncBaseConnectionManager,
    AsyncChats,
    AsyncSessionRepository,
    BackendUnavailableError,
    BaseConnectionManager,
    BaseSessionRepository,
    CachedSessionRepository,
    ChatMessage,
    Chats,
    ChatSession,
    ConfigurationError,
    ConnectionFactory,
    ConnectionType,
    InvalidInputError,
    MemoryCache,
    MessageConflictError,
    MissingDependencyError,
    NewMessage,
    PreviewPage,
    RedisCache,
    RetryConfig,
    RetryStrategy,
    Role,
    SchemaOutdatedError,
    SearchHit,
    SearchPage,
    SessionConflictError,
    SessionData,
    SessionNotFoundError,
    SessionPage,
    SessionPreview,
    SessionRepositoryFactory,
    SessionRepositoryRegistry,
    SessionRepositoryType,
    SessionsError,
    Statistics,
    TurnConflictError,
    UnknownRepositoryError,
    Unset,
    VersionConflictError,
    async_retry,
    register_connection_manager,
    register_repository,
    retry,
)
from sessions.services import AgentContext, AgentResponse, ChatResult, ChatService


def models(chat_session: ChatSession, message: ChatMessage, role: Role, payload: str | Unset = UNSET) -> None:
    assert_type(chat_session.version, int)
    assert_type(message.metadata, dict[str, Any])
    assert_type(message.payload, Any)
    assert_type(NewMessage("tool").content, str)
    assert_type(NewMessage(role, "Hi", message_id=uuid.uuid4(), timestamp=datetime.now(UTC)).role, Role)
    assert_type(NewMessage("user", metadata={"a": 1}, payload=[1]).metadata, dict[str, Any] | None)
    if payload is not UNSET:
        assert_type(payload, str)
    data: SessionData = {"title": "Rome", "metadata": {"channel": "web"}}
    assert_type(data["title"], str | None)


def pages(previews: PreviewPage, found: SearchPage, hit: SearchHit) -> None:
    assert_type(previews.previews, list[SessionPreview])
    assert_type(previews.previews[0].session, ChatSession)
    assert_type(previews.previews[0].last_message, ChatMessage | None)
    assert_type(previews.next_cursor, str | None)
    assert_type(found.hits, list[SearchHit])
    assert_type(found.next_cursor, str | None)
    assert_type(hit.session, ChatSession)
    assert_type(hit.message, ChatMessage)


def built_in(name: str) -> None:
    create = SessionRepositoryFactory.create_repository
    assert_type(create("postgres", url="postgresql://host/database"), AsyncSessionRepository)
    assert_type(create("mongodb", client=object(), retry=RetryConfig()), AsyncSessionRepository)
    assert_type(create("sqlite", url="sqlite://", pool_size=1), AsyncSessionRepository)
    assert_type(create(SessionRepositoryType.POSTGRES), AsyncSessionRepository)
    assert_type(create(SessionRepositoryType(name)), AsyncSessionRepository)
    assert_type(create("of another package"), Any)
    assert_type(create(name), Any)
    assert_type(SessionRepositoryFactory.get_default_repository(), AsyncSessionRepository)
    assert_type(
        SessionRepositoryFactory.get_default_repository(url="sqlite://", retry=RetryConfig()),
        AsyncSessionRepository,
    )
    assert_type(SessionRepositoryFactory.list_repositories(), list[SessionRepositoryType | str])


async def plain_names(session_id: UUID) -> None:
    async with AsyncChats("postgresql://host/database", pool_size=20, retry=RetryConfig()) as chats:
        assert_type(chats, AsyncChats)
        assert_type(chats.repository, AsyncSessionRepository)
        assert_type(chats.repository.chats, AsyncChats)
        assert_type(await chats.create_session("alice", title="T", metadata={"a": 1}), str)
        assert_type(await chats.ensure_session_exists("alice", session_id, {"title": "T"}), bool)
        assert_type(await chats.get_session("alice", session_id), ChatSession | None)
        assert_type(await chats.list_sessions("alice", limit=5), SessionPage)
        assert_type(await chats.add_message("alice", session_id, "user", "Hi"), str)
        assert_type(await chats.add_messages("alice", "id", [("user", "Hi"), ("assistant", "Hi")]), list[str])
        assert_type(await chats.get_session_history("alice", "id", before=session_id), list[ChatMessage])
        assert_type(await chats.search_messages("alice", "Rome", session_id=session_id, limit=5), SearchPage)
        async for chat_session, messages in chats.export_user("alice"):
            assert_type(chat_session, ChatSession)
            assert_type(messages, list[ChatMessage])


async def cached(repository: AsyncSessionRepository, session_id: UUID) -> None:
    in_front = CachedSessionRepository(repository, cache=MemoryCache(ttl=5, max_bytes=2**20))
    assert_type(in_front.uncached, AsyncSessionRepository)
    assert_type(in_front.chats, AsyncChats)
    assert_type(await in_front.get_session("alice", session_id), ChatSession | None)
    await in_front.invalidate("alice", session_id)
    async with CachedSessionRepository(repository, cache=RedisCache("redis://host/0")) as shared:
        assert_type(shared, CachedSessionRepository)
    CachedSessionRepository(repository, cache="memory://").invalidate_sync("alice")


async def copies(chats: AsyncChats, messages: list[ChatMessage]) -> None:
    # What was read can be stored again.
    await chats.add_messages("alice", "id", [(message.role, message.content) for message in messages])
    await chats.add_message("alice", "id", messages[0].role, messages[0].content)
    await chats.replace_messages("alice", "id", [NewMessage(message.role) for message in messages])


async def what_agents_write(chats: AsyncChats, repository: AsyncSessionRepository, moment: datetime) -> None:
    call = NewMessage(
        "tool", message_id=uuid.uuid4(), timestamp=moment, metadata={"a": 1}, payload={"b": None}
    )
    assert_type(await chats.create_session("alice", messages=[("system", "Be kind."), call]), str)
    assert_type(await chats.update_session("alice", "id", merge_metadata={"pinned": True}, touch=False), bool)
    assert_type(await chats.update_session("alice", "id", title="Rome", if_title="New Chat"), bool)
    assert_type(
        await chats.update_session("alice", "id", remove_metadata=["pinned"], expected_version=3), bool
    )
    assert_type(await chats.delete_session("alice", "id", expected_version=3), bool)
    assert_type(
        await chats.add_message(
            "alice", "id", "developer", "Hi", message_id="id", timestamp=moment, metadata={}, payload=[1]
        ),
        str,
    )
    assert_type(
        await chats.add_messages("alice", "id", [call], merge_metadata={"a": 1}, expected_version=3),
        list[str],
    )
    assert_type(
        await chats.list_sessions("alice", where={"pinned": True, "folder": ["a", None]}), SessionPage
    )
    assert_type(await chats.list_session_previews("alice", limit=5, where={"a": None}), PreviewPage)
    assert_type(await chats.count_sessions("alice", where={"pinned": True}), int)
    assert_type(await chats.get_session_history("alice", "id", after="id", limit=0), list[ChatMessage])
    assert_type(await chats.get_session_history("alice", "id", since=moment), list[ChatMessage])
    assert_type(await chats.get_message("alice", "id", uuid.uuid4()), ChatMessage | None)
    assert_type(await chats.count_messages("alice", "id"), int)
    assert_type(await chats.get_session_payloads("alice", "id", limit=2), list[Any])
    assert_type(await chats.update_message("alice", "id", "id", content="Hi", payload=None), bool)
    assert_type(await chats.update_message("alice", "id", "id", merge_metadata={"a": 1}, payload=UNSET), bool)
    assert_type(await chats.pop_message("alice", "id"), ChatMessage | None)
    assert_type(await chats.delete_messages("alice", "id", ["id", uuid.uuid4()]), int)
    assert_type(await chats.delete_messages_from("alice", "id", "id", inclusive=False), int)
    assert_type(await chats.clear_messages("alice", "id", expected_version=3), int)
    assert_type(await chats.replace_messages("alice", "id", [("system", "…"), call]), list[str])
    assert_type(await chats.fork_session("alice", "id", through="id", session_data={"title": "T"}), str)
    assert_type(await chats.search_messages("alice", "rome", session_id="id", limit=5), SearchPage)
    assert_type(await chats.delete_sessions_older_than("alice", moment, where={"a": 1}), int)
    # The names of the repository, where they differ.
    assert_type(await repository.create_session_async("alice", messages=[call]), str)
    assert_type(await repository.update_session_async("alice", "id", touch=False, if_title="T"), bool)
    assert_type(await repository.delete_session_async("alice", "id", expected_version=3), bool)
    assert_type(await repository.add_message("id", "tool", "Hi", user_id="alice", payload=1), str)
    assert_type(await repository.add_messages("id", [call], merge_metadata={"a": 1}), list[str])
    assert_type(await repository.delete_sessions_older_than(moment, where={"a": 1}), int)


def blocking_what_agents_write(chats: Chats, repository: AsyncSessionRepository) -> None:
    assert_type(chats.list_session_previews("alice", where={"pinned": True}), PreviewPage)
    assert_type(chats.get_message("alice", "id", "id"), ChatMessage | None)
    assert_type(chats.update_message("alice", "id", "id", payload=[1]), bool)
    assert_type(chats.pop_message("alice", "id"), ChatMessage | None)
    assert_type(chats.delete_messages("alice", "id", ["id"]), int)
    assert_type(chats.delete_messages_from("alice", "id", "id"), int)
    assert_type(chats.clear_messages("alice", "id"), int)
    assert_type(chats.replace_messages("alice", "id", [NewMessage("user")]), list[str])
    assert_type(chats.fork_session("alice", "id"), str)
    assert_type(chats.count_messages("alice", "id"), int)
    assert_type(chats.get_session_payloads("alice", "id"), list[Any])
    assert_type(chats.search_messages("alice", "rome"), SearchPage)
    assert_type(repository.create_session("alice", messages=[NewMessage("user")]), str)
    assert_type(repository.update_session("alice", "id", merge_metadata={"a": 1}), bool)
    assert_type(repository.delete_session("alice", "id", expected_version=1), bool)
    assert_type(repository.list_session_previews_sync("alice"), PreviewPage)
    assert_type(repository.get_message_sync("alice", "id", "id"), ChatMessage | None)
    assert_type(repository.update_message_sync("alice", "id", "id", content="Hi"), bool)
    assert_type(repository.pop_message_sync("alice", "id"), ChatMessage | None)
    assert_type(repository.delete_messages_sync("alice", "id", ["id"]), int)
    assert_type(repository.delete_messages_from_sync("alice", "id", "id", inclusive=True), int)
    assert_type(repository.clear_messages_sync("alice", "id"), int)
    assert_type(repository.replace_messages_sync("alice", "id", [("user", "Hi")]), list[str])
    assert_type(repository.fork_session_sync("alice", "id", through=uuid.uuid4()), str)
    assert_type(repository.count_messages_sync("alice", "id"), int)
    assert_type(repository.get_session_payloads_sync("alice", "id"), list[Any])
    assert_type(repository.search_messages_sync("alice", "rome", cursor=None), SearchPage)


def blocking_plain_names() -> None:
    with Chats(backend="mongodb", client=object()) as chats:
        assert_type(chats.update_session("alice", "id", {"metadata": {}}), bool)
        assert_type(chats.add_message("alice", "id", "assistant", "Hi"), str)
        assert_type(chats.delete_user("alice"), int)


async def across_users(chats: AsyncChats, repository: AsyncSessionRepository) -> None:
    then = datetime.now(UTC)
    async for user_id in chats.admin.iter_users():
        assert_type(user_id, str)
    async for chat_session in chats.admin.iter_sessions(updated_since=then, where={"pinned": True}):
        assert_type(chat_session, ChatSession)
    async for exported, messages in repository.admin.export(updated_before=then, user_id="alice"):
        await chats.admin.restore(exported, messages)
    statistics = await repository.admin.statistics()
    assert_type(statistics, Statistics)
    assert_type(statistics.users, int)
    assert_type(statistics.newest, datetime | None)


def across_users_blocking(chats: Chats, repository: AsyncSessionRepository) -> None:
    for user_id in chats.admin.iter_users():
        assert_type(user_id, str)
    for chat_session in repository.admin.iter_sessions_sync():
        assert_type(chat_session, ChatSession)
    for exported, messages in chats.admin.export():
        assert_type(messages, list[ChatMessage])
        repository.admin.restore_sync(exported, messages)
    assert_type(chats.admin.statistics(), Statistics)


async def awaits(repository: AsyncSessionRepository) -> None:
    data: Mapping[str, Any] = {"title": "Trip to Rome", "metadata": {"channel": "web"}}
    now = datetime.now(UTC)
    session_id = await repository.create_session_async("alice", data)
    assert_type(session_id, str)
    assert_type(await repository.create_session_async("alice"), str)
    assert_type(await repository.create_session_async("alice", None), str)
    assert_type(await repository.ensure_session_exists(session_id, "alice", {"title": "T"}), bool)
    assert_type(await repository.get_session("alice", session_id), ChatSession | None)
    assert_type(await repository.update_session_async("alice", session_id, data), bool)
    assert_type(await repository.delete_session_async("alice", session_id), bool)
    assert_type(await repository.list_paginated_sessions_async("alice", page=1, limit=5), list[ChatSession])
    page = await repository.list_sessions("alice", limit=5, cursor=None)
    assert_type(page, SessionPage)
    assert_type(page.sessions, list[ChatSession])
    assert_type(page.next_cursor, str | None)
    assert_type(await repository.count_sessions("alice"), int)
    assert_type(await repository.add_message(session_id, "user", "Hi"), str)
    assert_type(await repository.add_message(session_id, "user", "Hi", user_id="alice"), str)
    assert_type(await repository.add_messages(session_id, [("user", "Hi")], user_id=None), list[str])
    assert_type(await repository.add_messages(session_id, (("user", t) for t in "ab")), list[str])
    assert_type(await repository.get_session_history("alice", session_id), list[ChatMessage])
    assert_type(
        await repository.get_session_history("alice", session_id, limit=5, before=None), list[ChatMessage]
    )
    assert_type(await repository.keep_latest_sessions("alice", 3), int)
    assert_type(await repository.delete_sessions_older_than(now, user_id="alice"), int)
    assert_type(await repository.delete_user("alice"), int)
    async for chat_session, messages in repository.export_user("alice"):
        assert_type(chat_session, ChatSession)
        assert_type(messages, list[ChatMessage])
    assert_type(await repository.is_healthy(), bool)
    await repository.ensure_ready()
    some_id = uuid.uuid4()
    assert_type(await repository.ensure_session_exists(some_id, "alice"), bool)
    assert_type(await repository.add_message(some_id, "user", "Hello"), str)
    assert_type(
        await repository.get_session_history("alice", some_id, before=uuid.uuid4()), list[ChatMessage]
    )
    async with repository as entered:
        assert_type(entered, AsyncSessionRepository)
    await repository.aclose()


def blocks(repository: AsyncSessionRepository) -> None:
    data: dict[str, object] = {"title": "Trip to Rome"}
    session_id = repository.create_session("alice", data)
    assert_type(session_id, str)
    assert_type(repository.create_session("alice"), str)
    assert_type(repository.ensure_session_exists_sync(session_id, "alice", None), bool)
    assert_type(repository.get_session_sync("alice", session_id), ChatSession | None)
    assert_type(repository.update_session("alice", session_id, data), bool)
    assert_type(repository.delete_session("alice", session_id), bool)
    assert_type(repository.list_paginated_sessions("alice", 1, 5), list[ChatSession])
    assert_type(repository.list_sessions_sync("alice", limit=5, cursor="…"), SessionPage)
    assert_type(repository.count_sessions_sync("alice"), int)
    assert_type(repository.add_message_sync(session_id, "user", "Hi", user_id="alice"), str)
    assert_type(repository.add_messages_sync(session_id, [("user", "Hi")]), list[str])
    assert_type(
        repository.get_session_history_sync("alice", session_id, limit=5, before="…"), list[ChatMessage]
    )
    assert_type(repository.keep_latest_sessions_sync("alice", 3), int)
    assert_type(repository.delete_sessions_older_than_sync(datetime.now(UTC), user_id=None), int)
    assert_type(repository.delete_user_sync("alice"), int)
    for chat_session, messages in repository.export_user_sync("alice"):
        assert_type(chat_session, ChatSession)
        assert_type(messages, list[ChatMessage])
    assert_type(repository.is_healthy_sync(), bool)
    repository.ensure_ready_sync()
    assert_type(repository.get_session_sync("alice", uuid.uuid4()), ChatSession | None)
    assert_type(repository.delete_session("alice", uuid.uuid4()), bool)
    with repository as entered:
        assert_type(entered, AsyncSessionRepository)
    repository.close()


def values(chat_session: ChatSession, message: ChatMessage) -> None:
    assert_type(chat_session.session_id, str)
    assert_type(chat_session.title, str)
    assert_type(chat_session.user_id, str)
    assert_type(chat_session.created_at, datetime)
    assert_type(chat_session.updated_at, datetime)
    assert_type(chat_session.metadata, dict[str, Any])
    assert_type(message.message_id, str)
    assert_type(message.session_id, str)
    assert_type(message.role, Role)
    assert_type(message.content, str)
    assert_type(message.timestamp, datetime)


def errors(error: SessionsError) -> None:
    if isinstance(error, InvalidInputError):
        assert_type(error.argument, str)
    as_builtin: list[Exception] = [InvalidInputError("limit", "is too large"), SessionConflictError()]
    conflicts: list[SessionsError] = [MessageConflictError(), SessionConflictError(), VersionConflictError()]
    value: ValueError = InvalidInputError("limit", "is too large")
    lookup: list[LookupError] = [SessionNotFoundError(), UnknownRepositoryError()]
    missing: ImportError = MissingDependencyError()
    ours: list[SessionsError] = [ConfigurationError(), SchemaOutdatedError(), BackendUnavailableError()]
    print(as_builtin, conflicts, value, lookup, missing, ours)


# -- Decorators keep the types of what they decorate ---------------------------------------------------


@async_retry(RetryConfig(max_attempts=5, strategy=RetryStrategy.LINEAR), on=ConnectionError)
async def fetch(number: int, *, text: str = "") -> list[int]:
    return [number, len(text)]


@retry(RetryConfig(), on=lambda error: isinstance(error, OSError))
def read(path: str) -> bytes:
    return path.encode()


async def retried() -> None:
    assert_type(await fetch(1, text="a"), list[int])
    assert_type(read("a"), bytes)


@register_connection_manager("memory")
class MemoryConnectionManager(BaseConnectionManager):
    def connect(self) -> dict[str, ChatSession]:
        return {}

    def disconnect(self) -> None:
        pass

    def is_healthy(self) -> bool:
        return True

    def only_here(self) -> int:
        return 1


@register_repository("memory")
class MemorySessionRepository(BaseSessionRepository):
    def __init__(self) -> None:
        super().__init__("memory", connection_manager=MemoryConnectionManager())

    def _create_tables_if_not_exist(self) -> None:
        pass

    def create_session(self, user_id: str, session_data: Mapping[str, Any] | None) -> str:
        assert_type(self._connection, Any)
        return user_id

    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        await self._ensure_connection()
        return []

    def update_session(self, user_id: str, session_id: str, data: Mapping[str, Any]) -> bool:
        return True

    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        return []

    def delete_session(self, user_id: str, session_id: str) -> bool:
        return True

    async def add_message(self, session_id: str, role: str, content: str) -> str:
        return session_id


async def custom() -> None:
    assert_type(MemoryConnectionManager().only_here(), int)
    assert_type(MemorySessionRepository(), MemorySessionRepository)
    assert_type(SessionRepositoryRegistry.get_repository_class("memory"), type[BaseSessionRepository])
    manager = ConnectionFactory.get_connection_manager(ConnectionType.POSTGRES, url="postgresql://host/db")
    assert_type(manager, BaseConnectionManager | AsyncBaseConnectionManager)
    ConnectionFactory.close_all()
    await ConnectionFactory.aclose_all()


class ExecutingAgent:
    async def execute(self, message: str, context: AgentContext) -> AgentResponse:
        assert_type(context.history, list[ChatMessage])
        return AgentResponse(
            message, usage={"input_tokens": 1}, tool_messages=[("tool", "14 °C"), NewMessage("tool")]
        )


class PlainAgent:
    async def execute(self, query: str, context: AgentContext) -> str:
        return query


class Streamer:
    async def stream(self, query: str, context: AgentContext) -> AsyncIterator[str | AgentResponse]:
        yield query


async def function(query: str, context: AgentContext) -> str:
    return f"{context.metadata} {query}"


async def pieces(query: str, context: AgentContext) -> AsyncIterator[str]:
    yield query


class HubFactory:
    async def create_agent(
        self, *, agent_type: str, session_repository: Any, verbose: bool = False
    ) -> PlainAgent:
        return PlainAgent()


async def make_title(message: str, answer: str) -> str:
    return message + answer


def make_summary(messages: list[ChatMessage], summary: str | None) -> str:
    return str(messages) + (summary or "")


async def services(repository: AsyncSessionRepository) -> None:
    for agent in (ExecutingAgent(), PlainAgent(), Streamer()):
        ChatService(agent, repository=repository)
    ChatService(function, repository=repository, title=make_title, summarize=make_summary)
    ChatService(pieces, repository=repository, title=str.upper, on_conflict="wait", history_limit=None)
    service = ChatService(
        agent_factory=HubFactory(),
        agent_options={"agent_type": "a"},
        title=False,
        count_tokens=lambda m: len(m.content),
    )
    result = await service.chat("Hi", "alice", UUID(int=1), "sse", message_id="m", metadata={"a": 1})
    assert_type(result, ChatResult)
    assert_type(result["errors"], list[str])
    async for item in service.stream("Hi", "alice"):
        assert_type(item, str | ChatResult)
    assert_type(await service.regenerate("alice", "s"), ChatResult)
    async for item in service.stream_regenerate("alice", "s", "sse"):
        assert_type(item, str | ChatResult)
    async for item in service.stream_edit("alice", "s", "m", "Hi", branch=True):
        assert_type(item, str | ChatResult)
    assert_type(await service.edit("alice", "s", "m", "Hi", branch=True), ChatResult)
    assert_type(await service.list_sessions("alice"), SessionPage)
    assert_type(await service.get_session_history("alice", "s", limit=3), list[ChatMessage])
    assert_type(await service.rename_session("alice", "s", "T"), bool)
    assert_type(service.chat_sync("Hi", "alice"), ChatResult)
    for item in service.stream_sync("Hi", "alice"):
        assert_type(item, str | ChatResult)
    for item in service.stream_edit_sync("alice", "s", "m", "Hi", branch=True):
        assert_type(item, str | ChatResult)
    for item in service.stream_regenerate_sync("alice", "s", metadata={"a": 1}):
        assert_type(item, str | ChatResult)
    assert_type(service.delete_session_sync("alice", "s"), bool)
    assert_type(service.create_session_sync("alice", "T"), str)
    try:
        service.edit_sync("alice", "s", "m", "Hi")
    except TurnConflictError as error:
        assert_type(error, TurnConflictError)
