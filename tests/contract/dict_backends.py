"""Backends as another package writes them, with `BaseSessionRepository` and the public checks only."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import uuid_utils

from sessions import (
    AsyncBaseConnectionManager,
    BaseConnectionManager,
    BaseSessionRepository,
    ChatMessage,
    ChatSession,
    SessionNotFoundError,
)
from sessions import validation as check

Store = dict[str, dict[str, Any]]


class DictConnectionManager(BaseConnectionManager):
    def __init__(self) -> None:
        self._store: Store = {}

    def connect(self) -> Store:
        return self._store

    def disconnect(self) -> None:
        pass

    def is_healthy(self) -> bool:
        return True


class DictSessionRepository(BaseSessionRepository):
    """Async and blocking operations as in the base class."""

    def __init__(self) -> None:
        super().__init__("dict", connection_manager=DictConnectionManager())

    def _create_tables_if_not_exist(self) -> None:
        for table in ("sessions", "messages"):
            self._connection.setdefault(table, {})

    def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
        user_id = check.check_user_id(user_id)
        title, metadata = check.check_session_data(session_data)
        session_id, now = str(uuid.uuid4()), datetime.now(UTC)
        self._connection["sessions"][session_id] = ChatSession(session_id, title, user_id, now, now, metadata)
        self._connection["messages"][session_id] = []
        return session_id

    def _find(self, user_id: str, session_id: str) -> ChatSession | None:
        user_id, session_id = check.check_user_id(user_id), check.check_uuid("session_id", session_id)
        found: ChatSession | None = self._connection["sessions"].get(session_id)
        return found if found is not None and found.user_id == user_id else None

    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        if self._find(user_id, session_id) is None:
            return []
        return [dataclasses.replace(message) for message in self._connection["messages"][session_id]]

    def update_session(self, user_id: str, session_id: str, data: dict[str, Any]) -> bool:
        title, metadata = check.check_update(data)
        found = self._find(user_id, session_id)
        if found is None:
            return False
        found.title = found.title if title is None else title
        found.metadata = found.metadata if metadata is None else metadata
        found.updated_at = datetime.now(UTC)
        return True

    def list_paginated_sessions(self, user_id: str, page: int = 0, limit: int = 10) -> list[ChatSession]:
        user_id = check.check_user_id(user_id)
        page, limit = check.check_page(page), check.check_limit(limit)
        mine = [item for item in self._connection["sessions"].values() if item.user_id == user_id]
        mine.sort(key=lambda item: item.session_id)
        mine.sort(key=lambda item: item.updated_at, reverse=True)
        return copy.deepcopy(mine[page * limit : (page + 1) * limit])

    def delete_session(self, user_id: str, session_id: str) -> bool:
        if self._find(user_id, session_id) is None:
            return False
        del self._connection["sessions"][session_id], self._connection["messages"][session_id]
        return True

    async def add_message(self, session_id: str, role: str, content: str) -> str:
        session_id, role = check.check_uuid("session_id", session_id), check.check_role(role)
        content = check.check_content(content)
        found = self._connection["sessions"].get(session_id)
        if found is None:
            raise SessionNotFoundError("there is no such session")
        found.updated_at = datetime.now(UTC)
        message = ChatMessage(str(uuid_utils.uuid7()), session_id, role, content, found.updated_at)
        self._connection["messages"][session_id].append(message)
        return message.message_id


class PooledDictConnectionManager(AsyncBaseConnectionManager):
    """Counts checked-out connections."""

    def __init__(self) -> None:
        self._store = DictSessionRepository()
        self.taken = 0

    async def connect(self) -> PooledDictConnectionManager:
        return self

    async def disconnect(self) -> None:
        pass

    async def is_healthy(self) -> bool:
        return True

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[DictSessionRepository]:
        self.taken += 1
        try:
            yield self._store
        finally:
            self.taken -= 1


class AsyncDictSessionRepository(BaseSessionRepository):
    """All operations async, on an async manager; also accepted under the plain names."""

    def __init__(self) -> None:
        super().__init__("async-dict", connection_manager=PooledDictConnectionManager())

    async def _create_tables_if_not_exist(self) -> None:
        async with self._connection.take() as store:
            store._create_tables_if_not_exist()

    async def create_session(self, user_id: str, session_data: dict[str, Any] | None) -> str:
        await self._ensure_connection()
        async with self._connection.take() as store:
            return store.create_session(user_id, session_data)

    async def get_session_history(self, user_id: str, session_id: str) -> list[ChatMessage]:
        await self._ensure_connection()
        async with self._connection.take() as store:
            return await store.get_session_history(user_id, session_id)

    async def update_session(self, user_id: str, session_id: str, data: dict[str, Any]) -> bool:
        await self._ensure_connection()
        async with self._connection.take() as store:
            return store.update_session(user_id, session_id, data)

    async def list_paginated_sessions(
        self, user_id: str, page: int = 0, limit: int = 10
    ) -> list[ChatSession]:
        await self._ensure_connection()
        async with self._connection.take() as store:
            return store.list_paginated_sessions(user_id, page, limit)

    async def delete_session(self, user_id: str, session_id: str) -> bool:
        await self._ensure_connection()
        async with self._connection.take() as store:
            return store.delete_session(user_id, session_id)

    async def add_message(self, session_id: str, role: str, content: str) -> str:
        await self._ensure_connection()
        async with self._connection.take() as store:
            return await store.add_message(session_id, role, content)
