"""The operations in plain names: the user first, the owner always checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sessions import validation
from sessions.core.appending import append_message, append_messages, message_rows
from sessions.core.calls import Calls
from sessions.core.identifiers import Identifier
from sessions.core.operations.shared import SharedOperations
from sessions.core.values import SessionChange
from sessions.errors import InvalidInputError, SessionConflictError
from sessions.models import NewMessage, Role, SessionData

__all__ = ["Operations"]


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
        messages: Iterable[tuple[Role, str] | NewMessage] = (),
        session_id: Identifier | None = None,
    ) -> str:
        """Create a session with its first messages, all or none, and return its id, a UUID.

        Args:
            user_id: Owner, 1 to 255 characters.
            session_data: ``title`` and ``metadata`` as a mapping, instead of by keyword.
            title: 1 to 255 characters; "New Chat" if not given.
            metadata: A JSON object; empty if not given.
            messages: ``(role, content)`` pairs and `NewMessage` objects, in any mixture.
            session_id: An id of your own, as in `ensure_session_exists`; None for a new UUID.

        Raises:
            SessionConflictError: ``session_id`` is taken, by whichever user; nothing is stored.
            MessageConflictError: A message id is taken by another message; nothing is stored.
        """
        data, owner = _merged(session_data, title, metadata), validation.check_user_id(user_id)
        chosen = None if session_id is None else self._calls.check_id("session_id", session_id)
        new = self._calls.new_session(chosen, owner, data)
        rows = message_rows(self._calls, messages)
        await self._calls.run("create_session", self._calls.backend.create, new, rows)
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
        created = await self._calls.run_counting_attempts(
            "ensure_session_exists", work, new, check=_must_be_own
        )
        return bool(created)

    async def update_session(
        self,
        user_id: str,
        session_id: Identifier,
        data: SessionData | None = None,
        *,
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        merge_metadata: dict[str, Any] | None = None,
        remove_metadata: Iterable[str] = (),
        touch: bool = True,
        if_title: str | None = None,
        expected_version: int | None = None,
    ) -> bool:
        """Change the title or the metadata of a session; return whether it is there and was to be changed.

        Bumps ``version``, and ``updated_at`` unless ``touch`` is False, if a value changes.

        Args:
            user_id: Owner.
            session_id: The session.
            data: ``title`` and ``metadata`` as a mapping, instead of by keyword; None or an absent key
                keeps the old value.
            title: The new title; None keeps the old one.
            metadata: The new metadata; None keeps the old.
            merge_metadata: Top-level keys to set in the metadata, atomically.
            remove_metadata: Top-level keys to remove from the metadata, atomically.
            touch: False keeps ``updated_at``, and so the session's place in the list.
            if_title: Change nothing, and return False, unless this is the title. With a new title the call is
                not retried after a lost response.
            expected_version: The version that the session must have; None for any.

        Returns:
            Whether the user has such a session, with the title ``if_title`` if that is given.

        Raises:
            VersionConflictError: The session has another version; nothing is changed.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        new_title, replaced = validation.check_update(_merged(data, title, metadata))
        replaced, merged, removed = validation.check_metadata_change(
            replaced, merge_metadata, remove_metadata
        )
        self._calls.backend.check_size("metadata" if merged is None else "merge_metadata", replaced or merged)
        change = SessionChange(
            new_title,
            replaced,
            merged,
            removed,
            validation.check_flag("touch", touch),
            None if if_title is None else validation.check_title(if_title, "if_title"),
            validation.check_expected_version(expected_version),
        )
        work = self._calls.backend.update
        # Another attempt would find the version, or the title, that an earlier one has changed.
        keeps_title = change.if_title is None or change.title in (None, change.if_title)
        repeats = change.expected_version is None and keeps_title
        return await self._calls.run(
            "update_session", work, session_id, user_id, change, repeats_unknown=repeats
        )

    async def delete_session(
        self, user_id: str, session_id: Identifier, *, expected_version: int | None = None
    ) -> bool:
        """Delete a session and its messages; return whether the user had such a session.

        Also True if the session is absent and the response to an earlier attempt, which may have deleted
        it, was lost.

        Args:
            user_id: Owner.
            session_id: The session.
            expected_version: The version that the session must have; None for any.

        Raises:
            VersionConflictError: The session has another version; nothing is deleted.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        version, work = validation.check_expected_version(expected_version), self._calls.backend.delete
        return await self._calls.run_counting_attempts("delete_session", work, session_id, user_id, version)

    async def add_message(
        self,
        user_id: str,
        session_id: Identifier,
        role: Role,
        content: str,
        *,
        message_id: Identifier | None = None,
        timestamp: datetime | None = None,
        metadata: dict[str, Any] | None = None,
        payload: Any = None,
        expected_version: int | None = None,
    ) -> str:
        """Append a message to a session, bump ``updated_at`` and ``version``, and return the message's id.

        Args:
            user_id: Owner.
            session_id: The session.
            role: ``"user"``, ``"assistant"``, ``"system"``, ``"developer"`` or ``"tool"``.
            content: Text without NUL and lone surrogates; may be empty.
            message_id: An id of your own: sent again with the same role and content, nothing is stored and
                the same id is returned. None for a new UUID.
            timestamp: Timezone-aware; sorts the message into the history. None for the time of writing.
            metadata: A JSON object; None for an empty one.
            payload: Any value that ``json.dumps`` can express, such as a framework's own form of the message.
            expected_version: The version that the session must have; None for any.

        Raises:
            SessionNotFoundError: The user has no such session; nothing is stored.
            MessageConflictError: ``message_id`` is taken by another message; nothing is stored.
            VersionConflictError: The session has another version; nothing is stored.
        """
        owner = validation.check_user_id(user_id)
        return await append_message(
            self._calls,
            session_id,
            owner,
            role,
            content,
            message_id=message_id,
            timestamp=timestamp,
            metadata=metadata,
            payload=payload,
            expected_version=expected_version,
        )

    async def add_messages(
        self,
        user_id: str,
        session_id: Identifier,
        messages: Iterable[tuple[Role, str] | NewMessage],
        *,
        merge_metadata: dict[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> list[str]:
        """Append messages to a session in their order, all of them or none, and return their ids.

        Args:
            user_id: Owner.
            session_id: The session.
            messages: ``(role, content)`` pairs and `NewMessage` objects, in any mixture; an empty batch only
                checks that the session exists.
            merge_metadata: Top-level keys to set in the session's metadata, in the same transaction; not if
                all messages are stored already.
            expected_version: The version that the session must have; None for any.

        Raises:
            SessionNotFoundError: The user has no such session; nothing is stored.
            MessageConflictError: A message id is taken by another message; nothing is stored.
            VersionConflictError: The session has another version; nothing is stored.
        """
        owner = validation.check_user_id(user_id)
        return await append_messages(
            self._calls, session_id, owner, messages, merge_metadata, expected_version
        )

    async def delete_sessions_older_than(
        self, user_id: str, cutoff: datetime, *, where: Mapping[str, Any] | None = None
    ) -> int:
        """Delete a user's sessions last updated before ``cutoff``; return the number of deleted sessions.

        Args:
            user_id: Owner.
            cutoff: Timezone-aware; sessions with ``updated_at`` before it are deleted with their messages.
            where: Only sessions whose metadata has these values, as in `list_sessions`.
        """
        cutoff, owner = validation.check_cutoff(cutoff), validation.check_user_id(user_id)
        work, accepted = self._calls.backend.delete_older, validation.check_where(where)
        return await self._calls.run_batches("delete_sessions_older_than", work, cutoff, owner, accepted)


def _must_be_own(created: bool | None) -> None:
    if created is None:
        raise SessionConflictError("the session id is taken by another user's session")


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
