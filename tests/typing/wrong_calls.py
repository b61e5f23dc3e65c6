"""Mistakes of a user, for type checkers: it is never run. Each line that ends in "# wrong" is an error."""

from __future__ import annotations

from datetime import date

from sessions import (
    AsyncChats,
    AsyncSessionRepository,
    BaseSessionRepository,
    ChatMessage,
    Chats,
    ChatSession,
    NewMessage,
    RetryConfig,
    SessionPage,
    SessionRepositoryFactory,
    async_retry,
    register_repository,
    retry,
)
from sessions.services import ChatService


async def arguments(repository: AsyncSessionRepository) -> None:
    await repository.create_session_async(7)  # wrong
    await repository.create_session_async("alice", ["title"])  # wrong
    await repository.create_session_async("alice", title="T")  # wrong
    await repository.ensure_session_exists("id")  # wrong
    await repository.update_session_async("alice")  # wrong
    await repository.list_sessions("alice", 10)  # wrong
    await repository.list_sessions("alice", cursor=3)  # wrong
    await repository.list_paginated_sessions_async("alice", "1")  # wrong
    await repository.add_message("id", "user", "Hi", "alice")  # wrong
    await repository.add_message("id", "user", b"Hi")  # wrong
    await repository.add_messages("id", ["Hi"])  # wrong
    await repository.add_messages("id", [("user", "Hi", "more")])  # wrong
    await repository.get_session_history("alice", "id", 5)  # wrong
    await repository.keep_latest_sessions("alice", None)  # wrong
    await repository.delete_sessions_older_than(date(2026, 1, 1))  # wrong
    repository.get_session_history_sync("alice", "id", before=1)  # wrong
    repository.add_message_sync("id", "user")  # wrong
    repository.no_such_operation()  # wrong


async def plain_names(chats: AsyncChats) -> None:
    await chats.create_session()  # wrong
    await chats.create_session("alice", titel="T")  # wrong
    await chats.create_session("alice", {"titel": "T"})  # wrong
    await chats.create_session("alice", metadata=["a"])  # wrong
    await chats.ensure_session_exists("alice")  # wrong
    await chats.update_session("alice", "id", {"metadta": {}})  # wrong
    await chats.list_sessions("alice", page=1)  # wrong
    await chats.add_message("id", "user", "Hi")  # wrong
    await chats.add_message("alice", "id", "usr", "Hi")  # wrong
    await chats.add_message("alice", "id", "user", None)  # wrong
    await chats.add_messages("alice", "id", [("bot", "Hi")])  # wrong
    await chats.add_messages("alice", "id", ("user", "Hi"))  # wrong
    await chats.add_message("alice", "id", "user", "Hi", metdata={})  # wrong
    await chats.update_session("alice", "id", merge_metadat={})  # wrong
    await chats.fork_session("alice", "id", trough="message")  # wrong
    print((await chats.search_messages("alice", "Rome")).sessions)  # wrong
    await chats.get_session_history("alice", "id", newest=5)  # wrong
    await chats.search_messages("alice", ["Rome"])  # wrong
    await chats.get_sesion("alice", "id")  # wrong
    await chats.create_session_async("alice")  # wrong
    history: list[str] = await chats.get_session_history("alice", "id")  # wrong
    print(history)


async def what_agents_write(chats: AsyncChats, repository: AsyncSessionRepository) -> None:
    NewMessage("bot", "Hi")  # wrong
    NewMessage("user", "Hi", "id")  # wrong
    NewMessage("user", "Hi", mesage_id="id")  # wrong
    NewMessage("user", "Hi", timestamp="2026-01-01")  # wrong
    await chats.create_session("alice", messages=["Hi"])  # wrong
    await chats.create_session("alice", messages=[("asistant", "Hi")])  # wrong
    await chats.update_session("alice", "id", merge={"a": 1})  # wrong
    await chats.update_session("alice", "id", remove_metadata=[1])  # wrong
    await chats.update_session("alice", "id", touched=False)  # wrong
    await chats.update_session("alice", "id", expected_version="3")  # wrong
    await chats.add_message("alice", "id", "user", "Hi", "id")  # wrong
    await chats.add_message("alice", "id", "user", "Hi", expected_versoin=3)  # wrong
    await chats.add_message("alice", "id", "function", "Hi")  # wrong
    await chats.add_messages("alice", "id", [("user", "Hi")], merge_metadta={})  # wrong
    await chats.list_sessions("alice", where=["pinned"])  # wrong
    await chats.list_session_previews("alice", page=1)  # wrong
    await chats.get_session_history("alice", "id", since="2026-01-01")  # wrong
    await chats.get_message("alice", "id")  # wrong
    await chats.update_message("alice", "id", "id", contents="Hi")  # wrong
    await chats.update_message("alice", "id", "id", role="user")  # wrong
    await chats.delete_messages("alice", "id", [3])  # wrong
    await chats.delete_messages_from("alice", "id", "id", False)  # wrong
    await chats.clear_messages("id")  # wrong
    await chats.replace_messages("alice", "id", [("bot", "Hi")])  # wrong
    await chats.fork_session("alice", "id", trough="id")  # wrong
    await chats.fork_session("alice", "id", session_data={"titel": "T"})  # wrong
    await chats.search_messages("alice")  # wrong
    await repository.pop_mesage("alice", "id")  # wrong
    popped: ChatMessage = await chats.pop_message("alice", "id")  # wrong
    repository.update_message_sync("alice", "id", "id", content=3)  # wrong
    repository.clear_messages_sync("alice", "id", version=3)  # wrong
    print(popped)


def blocking_plain_names(chats: Chats) -> None:
    chats.add_message("alice", "id", "asistant", "Hi")  # wrong
    chats.delete_sessions_older_than("alice", "2026-01-01")  # wrong
    session_id: int = chats.create_session("alice")  # wrong
    chats.repository.add_mesage_sync("id", "user", "Hi")  # wrong
    chats.admin.iter_sessions(updated_since="2026-01-01")  # wrong
    chats.admin.restore("id", [("user", "Hi")])  # wrong
    print(session_id)


def opened() -> None:
    AsyncChats("postgresql://host/database", pool_sise=3)  # wrong
    AsyncChats(backend="mongo")  # wrong
    Chats("sqlite://", repository="sqlite")  # wrong


async def results(repository: AsyncSessionRepository) -> None:
    created: str = repository.create_session_async("alice")  # wrong
    found: ChatSession = await repository.get_session("alice", "id")  # wrong
    page: list[ChatSession] = await repository.list_sessions("alice")  # wrong
    await repository.create_session("alice")  # wrong
    async for _ in repository.export_user_sync("alice"):  # wrong
        pass
    for _ in repository.export_user("alice"):  # wrong
        pass
    print(created, found, page)


def frozen(page: SessionPage, config: RetryConfig) -> None:
    page.next_cursor = None  # wrong
    config.max_attempts = 1  # wrong


def options() -> None:
    SessionRepositoryFactory.create_repository()  # wrong
    SessionRepositoryFactory.create_repository(3)  # wrong
    SessionRepositoryFactory.create_repository("postgres", "postgresql://host/database")  # wrong
    misspelt: AsyncSessionRepository
    misspelt = SessionRepositoryFactory.create_repository("postgres", pool_sise=3)  # wrong
    misspelt = SessionRepositoryFactory.create_repository("mongodb", engine=object())  # wrong
    misspelt = SessionRepositoryFactory.create_repository("sqlite", busy_timeout="long")  # wrong
    print(misspelt)
    RetryConfig(attempts=3)  # wrong
    RetryConfig(max_attempts="3")  # wrong
    retry(RetryConfig())  # wrong


@async_retry(RetryConfig(), on=OSError)
async def fetch(number: int) -> int:
    return number


async def retried() -> None:
    await fetch("1")  # wrong


@register_repository("incomplete")
class Incomplete(BaseSessionRepository):
    def delete_session(self, user_id: str) -> bool:  # wrong
        return True


Incomplete("incomplete")  # wrong


async def services() -> None:
    ChatService(3)  # wrong
    ChatService(on_conflict="queue")  # wrong
    ChatService(title=True)  # wrong
    service = ChatService()
    await service.chat("Hi")  # wrong
    await service.chat("Hi", "alice", message_id=3)  # wrong
    service.chat_sync("Hi", 3)  # wrong
    await service.edit("alice", "session", "Hi")  # wrong
    result = await service.chat("Hi", "alice")
    print(result["answer"])  # wrong
