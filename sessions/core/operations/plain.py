"""The operations in plain names: the user first, the owner always checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

from sessions import validation
from sessions.core.appending import append_message, append_messages
from sessions.core.calls import Calls
from sessions.core.identifiers import Identifier, new_session_id
from sessions.core.operations.shared import SharedOperations
from sessions.errors import InvalidInputError, SessionConflictError
from sessions.models import Role

__all__ = ["Operations", "SessionData"]


class SessionData(TypedDict, total=False):
    """Values of a session to create or update.

    Attributes:
        title: 1 to 255 characters.
        metadata: A JSON object.
    """

    title: str | None
    metadata: dict[str, Any] | None


class Operations(SharedOperations):
    """Every operation in its plain name: the user first, the owner always checked.

    Args:
        calls: The calls to the backend.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def create_session(
        self,
        user_id: str,
        session_data: SessionData | None = None,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Create a session and return its id, a UUID.

        Args:
            user_id: Owner, 1 to 255 characters.
            session_data: ``title`` and ``metadata`` as a mapping, instead of by keyword.
            title: 1 to 255 characters; "New Chat" if not given.
            metadata: A JSON object; empty if not given.
        """
        data, owner = _merged(session_data, title, metadata), validation.check_user_id(user_id)
        new = self._calls.new_session(new_session_id(), owner, data)
        await self._calls.run("create_session", self._calls.backend.create, new)
        return new.session_id

    async def ensure_session_exists(
        self,
        user_id: str,
        session_id: Identifier,
        session_data: SessionData | None = None,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Create the session unless it exists; idempotent, and safe to call concurrently.

        Args:
            user_id: Owner.
            session_id: A UUID, as text or ``uuid.UUID``; with MongoDB any text of 1 to 255 characters.
            session_data: As in `create_session`; used only if the session is created.
            title: As in `create_session`.
            metadata: As in `create_session`.

        Returns:
            True for exactly one of any number of concurrent callers, the one that created it.

        Raises:
            SessionConflictError: The id is taken by another user's session.
        """
        data = _merged(session_data, title, metadata)
        new = self._calls.new_session(*self._calls.check_key(session_id, user_id), data)
        work = self._calls.backend.ensure
        created = await self._calls.run_counting_attempts("ensure_session_exists", work, new)
        if created is None:
            raise SessionConflictError("the session id is taken by another user's session")
        return created

    async def update_session(
        self,
        user_id: str,
        session_id: Identifier,
        data: SessionData | None = None,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Change the title, or replace the metadata, of a session, and bump its ``updated_at``.

        Args:
            user_id: Owner.
            session_id: The session.
            data: ``title`` and ``metadata`` as a mapping, instead of by keyword; None or an absent key
                keeps the old value.
            title: The new title; None keeps the old one.
            metadata: The new metadata; None keeps the old.

        Returns:
            Whether the user has such a session.
        """
        changes = _merged(data, title, metadata)
        session_id, user_id = self._calls.check_key(session_id, user_id)
        new_title, new_metadata = validation.check_update({} if changes is None else changes)
        self._calls.backend.check_size("metadata", new_metadata)
        work = self._calls.backend.update
        return await self._calls.run("update_session", work, session_id, user_id, new_title, new_metadata)

    async def delete_session(self, user_id: str, session_id: Identifier) -> bool:
        """Delete a session and its messages; return whether the user had such a session.

        Also True if the session is absent and the response to an earlier attempt, which may have deleted
        it, was lost.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        work = self._calls.backend.delete
        return await self._calls.run_counting_attempts("delete_session", work, session_id, user_id)

    async def add_message(self, user_id: str, session_id: Identifier, role: Role, content: str) -> str:
        """Append a message to a session, bump the session's ``updated_at``, and return the message's id.

        Args:
            user_id: Owner.
            session_id: The session.
            role: ``"user"`` or ``"assistant"``.
            content: Text without NUL and lone surrogates; may be empty.

        Raises:
            SessionNotFoundError: The user has no such session; nothing is stored.
        """
        owner = validation.check_user_id(user_id)
        return await append_message(self._calls, session_id, owner, role, content)

    async def add_messages(
        self, user_id: str, session_id: Identifier, messages: Iterable[tuple[Role, str]]
    ) -> list[str]:
        """Append messages to a session in their order, all of them or none, and return their ids.

        Args:
            user_id: Owner.
            session_id: The session.
            messages: ``(role, content)`` pairs; an empty batch only checks that the session exists.

        Raises:
            SessionNotFoundError: The user has no such session; nothing is stored.
        """
        owner = validation.check_user_id(user_id)
        return await append_messages(self._calls, session_id, owner, messages)

    async def delete_sessions_older_than(self, user_id: str, cutoff: datetime) -> int:
        """Delete a user's sessions last changed before a point in time; return how many.

        Args:
            user_id: Owner.
            cutoff: Timezone-aware; sessions with ``updated_at`` before it are deleted with their messages.
        """
        cutoff, owner = validation.check_cutoff(cutoff), validation.check_user_id(user_id)
        work = self._calls.backend.delete_older
        return await self._calls.run_batches("delete_sessions_older_than", work, cutoff, owner)


def _merged(
    session_data: Mapping[str, Any] | None, title: str | None, metadata: dict[str, Any] | None
) -> Mapping[str, Any] | None:
    """Return one mapping of the values given by keyword or as a mapping.

    Raises:
        InvalidInputError: A value is given both ways.
    """
    given = {"title": title, "metadata": metadata}
    keywords = {key: value for key, value in given.items() if value is not None}
    if not keywords:
        return session_data
    if session_data is None:
        return keywords
    if not isinstance(session_data, Mapping):
        return session_data  # Rejected by the check that follows.
    for key in keywords:
        if session_data.get(key) is not None:
            raise InvalidInputError(key, "is given twice")
    return {**session_data, **keywords}
