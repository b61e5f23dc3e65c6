"""Changes of messages that are stored, and copies of sessions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sessions import validation
from sessions.core.appending import message_rows
from sessions.core.calls import Calls, must_exist
from sessions.core.identifiers import Identifier
from sessions.core.values import MessageChange, MessageRow
from sessions.models import UNSET, ChatMessage, NewMessage, Role, SessionData, Unset

__all__ = ["EditingOperations"]


class EditingOperations:
    """Changes messages that are stored, and copies sessions."""

    _calls: Calls

    async def update_message(
        self,
        user_id: str,
        session_id: Identifier,
        message_id: Identifier,
        *,
        content: str | None = None,
        metadata: dict[str, Any] | None = None,
        merge_metadata: dict[str, Any] | None = None,
        payload: Any | Unset = UNSET,
        expected_version: int | None = None,
    ) -> bool:
        """Change a message, which keeps its id, its place and its timestamp; return whether it exists.

        Bumps the session's ``updated_at`` and ``version`` if a value changes.

        Args:
            user_id: Owner.
            session_id: The session.
            message_id: The message.
            content: The new content; None keeps the old.
            metadata: The new metadata; None keeps the old.
            merge_metadata: Top-level keys to set in the metadata, atomically.
            payload: The new payload; None removes it, `UNSET` keeps it.
            expected_version: The version that the session must have; None for any.

        Raises:
            VersionConflictError: The session has another version; nothing is changed.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        message_id = self._calls.check_id("message_id", message_id)
        change = self._message_change(content, metadata, merge_metadata, payload, expected_version)
        work, repeats = self._calls.backend.update_message, change.expected_version is None
        return await self._calls.run(
            "update_message", work, session_id, user_id, message_id, change, repeats_unknown=repeats
        )

    def _message_change(
        self, content: object, metadata: object, merge: object, payload: object, expected_version: object
    ) -> MessageChange:
        replaced = None if metadata is None else validation.check_message_metadata(metadata)
        replaced, merged, _ = validation.check_metadata_change(replaced, merge)
        change = MessageChange(
            None if content is None else validation.check_content(content),
            replaced,
            merged,
            UNSET if payload is UNSET else validation.encode_payload(payload),
            validation.check_expected_version(expected_version),
        )
        new_payload = None if change.payload is UNSET else change.payload
        sized = MessageRow("", "", change.content or "", None, replaced or merged, new_payload)
        self._calls.backend.check_message_size(sized)
        return change

    async def pop_message(self, user_id: str, session_id: Identifier) -> ChatMessage | None:
        """Remove the newest message of a session and return it; None if there is none.

        No two callers get the same message.

        Raises:
            BackendUnavailableError: Also if the response was lost: the message may be removed.
        """
        key = self._calls.check_key(session_id, user_id)
        work = self._calls.backend.pop_message
        return await self._calls.run("pop_message", work, *key, repeats_unknown=False)

    async def delete_messages(
        self, user_id: str, session_id: Identifier, message_ids: Iterable[Identifier]
    ) -> int:
        """Delete messages of a session by their ids; return how many there were.

        After a lost response, the messages that the first attempt deleted are not counted.

        Args:
            user_id: Owner.
            session_id: The session.
            message_ids: Ids; those that the session does not have are ignored.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        ids = validation.check_message_ids(message_ids, self._calls.check_id)
        work = self._calls.backend.delete_messages
        return await self._calls.run("delete_messages", work, session_id, user_id, ids)

    async def delete_messages_from(
        self, user_id: str, session_id: Identifier, message_id: Identifier, *, inclusive: bool = True
    ) -> int:
        """Delete a message and all after it, to answer or to ask anew; return how many.

        Args:
            user_id: Owner.
            session_id: The session; 0 if the user has no such session.
            message_id: The message.
            inclusive: False keeps the message itself.

        Raises:
            InvalidInputError: Also if the user's session has no message with this id.
            BackendUnavailableError: Also if the response was lost: the messages may be deleted.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        message_id = self._calls.check_id("message_id", message_id)
        inclusive = validation.check_flag("inclusive", inclusive)
        work, arguments = (
            self._calls.backend.delete_messages_from,
            (session_id, user_id, message_id, inclusive),
        )
        return await self._calls.run("delete_messages_from", work, *arguments, repeats_unknown=False)

    async def clear_messages(
        self, user_id: str, session_id: Identifier, *, expected_version: int | None = None
    ) -> int:
        """Delete all messages of a session, which stays; return how many.

        Args:
            user_id: Owner.
            session_id: The session.
            expected_version: The version that the session must have; None for any.

        Raises:
            VersionConflictError: The session has another version; nothing is deleted.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        version = validation.check_expected_version(expected_version)
        work, repeats = self._calls.backend.clear_messages, version is None
        return await self._calls.run(
            "clear_messages", work, session_id, user_id, version, repeats_unknown=repeats
        )

    async def replace_messages(
        self,
        user_id: str,
        session_id: Identifier,
        messages: Iterable[tuple[Role, str] | NewMessage],
        *,
        expected_version: int | None = None,
    ) -> list[str]:
        """Replace the whole history of a session, atomically, and return the ids of the new messages.

        Args:
            user_id: Owner.
            session_id: The session.
            messages: ``(role, content)`` pairs and `NewMessage` objects, in any mixture.
            expected_version: The version that the session must have; None for any.

        Raises:
            SessionNotFoundError: The user has no such session; nothing is stored.
            MessageConflictError: An id is taken by a message of another session; nothing is changed.
            VersionConflictError: The session has another version; nothing is changed.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        rows, version = (
            message_rows(self._calls, messages),
            validation.check_expected_version(expected_version),
        )
        work, repeats = self._calls.backend.replace_messages, version is None
        arguments = session_id, user_id, rows, version
        await self._calls.run("replace_messages", work, *arguments, repeats_unknown=repeats, check=must_exist)
        return [row.message_id for row in rows]

    async def fork_session(
        self,
        user_id: str,
        session_id: Identifier,
        *,
        through: Identifier | None = None,
        session_data: SessionData | None = None,
    ) -> str:
        """Copy a session up to a message into a new session of the same user, and return the new id.

        The copies have new ids, and the same order, timestamps, roles, contents, metadata and payloads.

        Args:
            user_id: Owner.
            session_id: The session to copy.
            through: Id of the last message to copy; None for all.
            session_data: ``title`` and ``metadata`` of the new session; an absent one has the default.

        Raises:
            SessionNotFoundError: The user has no such session.
            InvalidInputError: Also if the user's session has no message with the id ``through``.
        """
        session_id, user_id = self._calls.check_key(session_id, user_id)
        last = None if through is None else self._calls.check_id("through", through)
        new = self._calls.new_session(None, user_id, session_data)
        arguments = session_id, user_id, last, new
        await self._calls.run("fork_session", self._calls.backend.fork, *arguments, check=must_exist)
        return new.session_id
