import asyncio
import copy
import uuid
from datetime import UTC, datetime
from typing import Any

import uuid_utils

from sessions import (
    BaseConnectionManager,
    BaseSessionRepository,
    ChatMessage,
    ChatSession,
    SessionNotFoundError,
    SessionRepositoryFactory,
    register_connection_manager,
    register_repository,
    validation,
)


@register_connection_manager("memory")
class MemoryConnectionManager(BaseConnectionManager):
    """Hands out one dict."""

    def __init__(self) -> None:
        self._store: dict[str, dict[str, Any]] = {}

    def connect(self) -> dict[str, dict[str, Any]]:
        return self._store

    def disconnect(self) -> None:
        pass

    def is_healthy(self) -> bool:
        return True


@register_repository("memory")
class MemorySessionRepository(BaseSessionRepository):
    """Keeps sessions and messages in `self._connection`, the manager's dict."""

    def __init__(self, *, connection_manager: MemoryConnectionManager | None = None) -> None:
        super().__init__("memory", connection_manager=connection_manager)

    def _create_tables_if_not_exist(self) -> None:
        self._connection.setdefault("sessions", {})
        self._connection.setdefault("messages", {})

    def _find(self, user_id: str, session_id: str) -> ChatSession | None:
        user_id = validation.check_user_id(user_id)
        session_id = validation.check_uuid("session_id", session_id)
        found = self._connection["sessions"].get(session_id)
        return found if found is not None and found.user_id == user_id else None

    def create_session(self, user_id: str, session_data: dict[str, Any] | None = None) -> str:
        user_id = validation.check_user_id(user_id)
        title, metadata = validation.check_session_data(session_data)
        session_id, now = str(uuid.uuid4()), datetime.now(UTC)
        new = ChatSession(session_id, title, user_id, now, now, metadata)
        self._connection["sessions"][session_id] = new
        self._connection["messages"][session_id] = []
        return session_id

    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        found = self._find(user_id, session_id)
        return [] if found is None else copy.deepcopy(self._connection["messages"][found.session_id])

    def update_session(self, user_id: str, session_id: str, data: dict[str, Any]) -> bool:
        title, metadata = validation.check_update(data)
        found = self._find(user_id, session_id)
        if found is None:
            return False
        found.title = found.title if title is None else title
        found.metadata = found.metadata if metadata is None else metadata
        found.updated_at = datetime.now(UTC)
        return True

    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        user_id = validation.check_user_id(user_id)
        page, limit = validation.check_page(page), validation.check_limit(limit)
        owned = [found for found in self._connection["sessions"].values() if found.user_id == user_id]
        owned.sort(key=lambda found: found.session_id)
        owned.sort(key=lambda found: found.updated_at, reverse=True)
        return copy.deepcopy(owned[page * limit : (page + 1) * limit])

    def delete_session(self, user_id: str, session_id: str) -> bool:
        found = self._find(user_id, session_id)
        if found is None:
            return False
        del self._connection["sessions"][found.session_id], self._connection["messages"][found.session_id]
        return True

    async def add_message(self, session_id: str, role: str, content: str) -> str:
        session_id = validation.check_uuid("session_id", session_id)
        role, content = validation.check_role(role), validation.check_content(content)
        found = self._connection["sessions"].get(session_id)
        if found is None:
            raise SessionNotFoundError("there is no such session")
        found.updated_at = datetime.now(UTC)
        message = ChatMessage(str(uuid_utils.uuid7()), session_id, role, content, found.updated_at)
        self._connection["messages"][session_id].append(message)
        return message.message_id


async def main() -> None:
    repository = SessionRepositoryFactory.create_repository("memory")
    session_id = repository.create_session("alice", {"title": "In memory"})
    await repository.add_message(session_id, "user", "Hello")
    print([message.content for message in await repository.get_session_history("alice", session_id)])
    print([chat_session.title for chat_session in repository.list_paginated_sessions("alice")])


if __name__ == "__main__":
    asyncio.run(main())
