"""The operations of a service on sessions, without an agent."""

from __future__ import annotations

from typing import Any

from sessions import validation
from sessions.core.identifiers import Identifier
from sessions.core.operations import SharedOperations
from sessions.core.twins import blocking, delegating
from sessions.repositories import AsyncSessionRepository

__all__ = ["UserSessions"]


def _repository(sessions: UserSessions) -> AsyncSessionRepository:
    return sessions.repository


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

    get_session_history = delegating(SharedOperations.get_session_history, to=_repository)
    list_sessions = delegating(SharedOperations.list_sessions, to=_repository)

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
    get_session_history_sync = blocking(
        SharedOperations.get_session_history, "get_session_history_sync", of=_repository
    )
    list_sessions_sync = blocking(SharedOperations.list_sessions, "list_sessions_sync", of=_repository)
    rename_session_sync = blocking(rename_session, "rename_session_sync")
    delete_session_sync = blocking(delete_session, "delete_session_sync")
