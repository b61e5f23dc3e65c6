"""The turns of a service that answer a message anew, or another one in its place."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from sessions import validation
from sessions.core.identifiers import Identifier, new_session_id
from sessions.core.twins import blocking, iterating
from sessions.errors import InvalidInputError
from sessions.repositories import AsyncSessionRepository
from sessions.services.claims import derived_id
from sessions.services.finishing import Finishing
from sessions.services.options import Options, lower_uuid
from sessions.services.plans import Request
from sessions.services.results import ChatResult
from sessions.services.sessions_of_users import UserSessions
from sessions.services.sources import AgentSource
from sessions.services.streams import iterate_stream
from sessions.services.turns import Turns

__all__ = ["AnsweredAnew"]


class AnsweredAnew(UserSessions):
    """The turns that change what is stored, and what they share with those that add to it.

    Args:
        repository: Where conversations are stored.
        source: Where the agent comes from.
        options: The options of the service.
    """

    def __init__(self, repository: AsyncSessionRepository, source: AgentSource, options: Options) -> None:
        super().__init__(repository)
        self._source = source
        self._finishing = Finishing()
        self._turns = Turns(repository, source, self._finishing, options)

    async def regenerate(
        self,
        user_id: str,
        session_id: Identifier,
        protocol: str = "rest",
        *,
        metadata: dict[str, Any] | None = None,
    ) -> ChatResult:
        """Answer the last message of the user anew; the new answer replaces the old one.

        If the agent fails before its first word, the old answer stays, also with ``store_failed``.

        Args:
            user_id: The user.
            session_id: The session.
            protocol: As in `chat`.
            metadata: A JSON object, passed to the agent.

        Raises:
            SessionNotFoundError: The user has no such session.
            InvalidInputError: Also if the session has no message of the user.
            TurnConflictError: Another turn has changed the conversation meanwhile; nothing is stored.
        """
        return await self._run(self._request(None, user_id, session_id, protocol, None, metadata))

    def stream_regenerate(
        self,
        user_id: str,
        session_id: Identifier,
        protocol: str = "rest",
        *,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncGenerator[str | ChatResult, None]:
        """Yield the pieces of a new answer as ``str``, then the result as `regenerate` returns it.

        As in `stream`, what there is of the answer is stored if the iterator is closed: it replaces the old
        answer. Before the first piece, the old answer stays.

        Args:
            user_id: The user.
            session_id: The session.
            protocol: As in `chat`.
            metadata: A JSON object, passed to the agent.

        Raises:
            InvalidInputError: At once: an argument is invalid. All other errors are raised by the iterator,
                as by `regenerate`.
        """
        request = self._request(None, user_id, session_id, protocol, None, metadata)
        return self._turns.run(request, streaming=True)

    async def edit(
        self,
        user_id: str,
        session_id: Identifier,
        message_id: Identifier,
        message: str,
        *,
        branch: bool = False,
        protocol: str = "rest",
        metadata: dict[str, Any] | None = None,
    ) -> ChatResult:
        """Answer another message in place of one of the user's; it replaces that one and all after it.

        If the agent fails before its first word, the conversation stays as it is.

        Args:
            user_id: The user.
            session_id: The session.
            message_id: The message to replace.
            message: The new message, which has a new id.
            branch: Leave the session as it is, and store a new one: copies of the messages before, the new
                message and its answer. The result has its id.
            protocol: As in `chat`.
            metadata: As in `chat`.

        Raises:
            SessionNotFoundError: The user has no such session.
            InvalidInputError: Also if the session has no such message, or it is not the user's.
            TurnConflictError: Another turn has changed the conversation meanwhile; nothing is stored.
        """
        request = self._edit(message, user_id, session_id, message_id, branch, protocol, metadata)
        return await self._run(request)

    def stream_edit(
        self,
        user_id: str,
        session_id: Identifier,
        message_id: Identifier,
        message: str,
        *,
        branch: bool = False,
        protocol: str = "rest",
        metadata: dict[str, Any] | None = None,
    ) -> AsyncGenerator[str | ChatResult, None]:
        """Yield the pieces of the answer to an edited message, then the result as `edit` returns it.

        As in `stream`, what there is of the answer is stored if the iterator is closed.

        Args:
            user_id: The user.
            session_id: The session.
            message_id: As in `edit`.
            message: As in `edit`.
            branch: As in `edit`.
            protocol: As in `chat`.
            metadata: As in `chat`.

        Raises:
            InvalidInputError: At once: an argument is invalid. All other errors are raised by the iterator,
                as by `edit`.
        """
        request = self._edit(message, user_id, session_id, message_id, branch, protocol, metadata)
        return self._turns.run(request, streaming=True)

    def _edit(
        self,
        message: str,
        user_id: str,
        session_id: Identifier,
        message_id: Identifier,
        branch: bool,
        protocol: str,
        metadata: dict[str, Any] | None,
    ) -> Request:
        request = self._request(message, user_id, session_id, protocol, None, metadata)
        request.edited_id = lower_uuid(validation.check_id("message_id", message_id))
        request.is_branch = validation.check_flag("branch", branch)
        return request

    regenerate_sync = blocking(regenerate, "regenerate_sync")
    stream_regenerate_sync = iterating(stream_regenerate, "stream_regenerate_sync", by=iterate_stream)
    edit_sync = blocking(edit, "edit_sync")
    stream_edit_sync = iterating(stream_edit, "stream_edit_sync", by=iterate_stream)

    async def _run(self, request: Request) -> ChatResult:
        result: ChatResult | None = None
        async for item in self._turns.run(request, streaming=False):
            if not isinstance(item, str):
                result = item
        assert result is not None
        return result

    def _request(
        self,
        message: str | None,
        user_id: str,
        session_id: Identifier | None,
        protocol: str,
        message_id: Identifier | None,
        metadata: dict[str, Any] | None,
    ) -> Request:
        """Return the checked arguments; what depends on the backend is checked by its first operation."""
        self._source.check()
        user_id = validation.check_user_id(user_id)
        chosen = None if session_id is None else validation.check_id("session_id", session_id)
        own_id = None if message_id is None else lower_uuid(validation.check_id("message_id", message_id))
        if not isinstance(protocol, str):
            raise InvalidInputError("protocol", f"must be str, not {type(protocol).__name__}")
        return Request(
            user_id,
            # From the message's id: a client that did not get the result does not know the session's.
            chosen or (new_session_id() if own_id is None else derived_id("session", user_id, own_id)),
            None if message is None else validation.check_content(message, "message"),
            protocol,
            {} if metadata is None else validation.check_metadata(metadata),
            own_id,
            is_new_session=chosen is None and own_id is None,
        )
