"""The operations of a service on sessions, without an agent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sessions import validation
from sessions.core.identifiers import Identifier
from sessions.core.twins import blocking
from sessions.models import ChatMessage, SessionPage
from sessions.repositories import AsyncSessionRepository

__all__ = ["UserSessions"]


class UserSessions:
    """The sessions of users.

    Args:
        repository: Where they are stored.
    """

    def __init__(self, repository: AsyncSessionRepository) -> None:
        self._repository = repository

    @property
    def repository(self) -> AsyncSessionRepository:
        """Where conversations are stored; it has every other operation."""
        return self._repository

    async def create_session(
        self, user_id: str, title: str | None = None, *, metadata: dict[str, Any] | None = None
    ) -> str:
        """Create an empty session and return its id.

        Args:
            user_id: Owner.
            title: 1 to 255 characters; None for "New Chat", which the first turn replaces.
            metadata: A JSON object; None for an empty one.
        """
        return await self._repository.create_session_async(user_id, {"title": title, "metadata": metadata})

    async def get_session_history(
        self,
        user_id: str,
        session_id: Identifier,
        *,
        limit: int | None = None,
        before: Identifier | None = None,
        after: Identifier | None = None,
        since: datetime | None = None,
    ) -> list[ChatMessage]:
        """Return the messages of a session, oldest first; empty if the user has no such session.

        Args:
            user_id: Owner.
            session_id: The session.
            limit: At most so many: alone or with ``before`` the newest, with ``after`` or ``since`` the
                oldest.
            before: Only messages before the one with this id.
            after: Only messages after the one with this id.
            since: Only messages with this timestamp or a later one.
        """
        return await self._repository.get_session_history(
            user_id, session_id, limit=limit, before=before, after=after, since=since
        )

    async def list_sessions(
        self,
        user_id: str,
        *,
        limit: int = 10,
        cursor: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> SessionPage:
        """Return a page of a user's sessions, the last changed first.

        Args:
            user_id: Owner.
            limit: Sessions on a page, 1 to 1000.
            cursor: ``next_cursor`` of the page before; None for the first page.
            where: Only sessions whose metadata has these values.
        """
        return await self._repository.list_sessions(user_id, limit=limit, cursor=cursor, where=where)

    async def rename_session(self, user_id: str, session_id: Identifier, title: str) -> bool:
        """Set the title of a session, which stays; return whether the user has such a session.

        Its place in the list stays, too.
        """
        return await self._repository.update_session_async(
            user_id, session_id, {"title": validation.check_title(title)}, touch=False
        )

    async def delete_session(self, user_id: str, session_id: Identifier) -> bool:
        """Delete a session with its messages; return whether the user had such a session.

        A turn that is under way raises `SessionNotFoundError`, and stores nothing.
        """
        return await self._repository.delete_session_async(user_id, session_id)

    create_session_sync = blocking(create_session, "create_session_sync")
    get_session_history_sync = blocking(get_session_history, "get_session_history_sync")
    list_sessions_sync = blocking(list_sessions, "list_sessions_sync")
    rename_session_sync = blocking(rename_session, "rename_session_sync")
    delete_session_sync = blocking(delete_session, "delete_session_sync")
