"""`ChatService`: a conversation's turn, from the message to the stored answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from sessions import validation
from sessions.core.identifiers import Identifier, new_session_id
from sessions.core.twins import blocking
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage
from sessions.repositories import AsyncSessionRepository, SessionRepositoryFactory
from sessions.services.afterwards import Afterwards, Summarise, TitleCallable
from sessions.services.agents import AgentFactory, AnyAgent
from sessions.services.claims import Claims, derived_id
from sessions.services.finishing import Finishing
from sessions.services.options import check_count, check_seconds, lower_uuid
from sessions.services.plans import Request
from sessions.services.results import ChatResult
from sessions.services.sessions_of_users import UserSessions
from sessions.services.sources import AgentSource
from sessions.services.storing import Conversations
from sessions.services.streams import iterate_stream
from sessions.services.turns import Turns
from sessions.services.windows import Window

__all__ = ["ChatService"]


class ChatService(UserSessions):
    """Answers messages with an agent, and stores them.

    A turn reads the history, asks the agent, then stores the message and its answer in one statement, if no
    other turn has changed the conversation meanwhile. No connection is checked out while the agent works.
    Each method has a blocking twin with the suffix ``_sync``, for any thread. One service serves all users,
    threads and event loops of a process.

    Args:
        agent: Has ``execute``, ``stream``, or both; or is an async function of the message and an
            `AgentContext`.
        repository: Where conversations are stored; None for that of the settings, which `aclose` closes.
        agent_factory: Instead of ``agent``: ``create_agent`` is called once, at the first turn.
        agent_options: Keywords for ``create_agent``: ``agent_type``, ``framework``, ``llm_provider``,
            ``verbose``, or any other. ``session_repository`` is the repository, and ``verbose`` False, if not
            given. The first three are None if they are neither given nor optional.
        history_limit: The agent sees at most so many of the newest messages; None for all.
        history_tokens: The agent sees only the newest messages with together at most so many tokens.
        count_tokens: Returns the tokens of a message; goes with ``history_tokens``.
        summarize: Called after an answer, with the messages that the agent will no longer see, and the
            former summary or None; async or not. Its result is stored in the session's metadata under
            ``"summary"``, and passed to the agent as ``context.summary``.
        title: Called after the first answer, with the message and the answer, or with the message alone;
            async or not. None takes the beginning of the message, False leaves "New Chat". A title that
            somebody has set stays.
        store_failed: Store the message, and an empty answer with the status "failed", also if the agent fails
            before its first word.
        on_conflict: What happens if another turn changes the conversation meanwhile: ``"raise"`` raises
            `TurnConflictError`, ``"wait"`` waits for turns under way, also in other processes, before it
            reads the history.
        timeout: Seconds within which the agent has to answer; None for no limit.
        wait_timeout: Seconds to wait for other turns, then `TurnConflictError` is raised.
        hook_timeout: Time limit of ``title``, and of ``summarize``, in seconds.
        claim_seconds: A turn that waits, or that has a ``message_id``, waits so long for a turn of a process
            that was killed.

    Raises:
        InvalidInputError: An option is invalid.
        ConfigurationError: There is no repository, and the settings name none that can be used.
    """

    def __init__(
        self,
        agent: AnyAgent | None = None,
        *,
        repository: AsyncSessionRepository | None = None,
        agent_factory: AgentFactory | None = None,
        agent_options: Mapping[str, Any] | None = None,
        history_limit: int | None = 50,
        history_tokens: int | None = None,
        count_tokens: Callable[[ChatMessage], int] | None = None,
        summarize: Summarise | None = None,
        title: TitleCallable | Literal[False] | None = None,
        store_failed: bool = False,
        on_conflict: Literal["raise", "wait"] = "raise",
        timeout: float | None = 300.0,
        wait_timeout: float = 300.0,
        hook_timeout: float = 10.0,
        claim_seconds: float = 10.0,
    ) -> None:
        if agent is not None and agent_factory is not None:
            raise InvalidInputError("agent_factory", "goes with no agent")
        if agent_options is not None and agent_factory is None:
            raise InvalidInputError("agent_options", "goes with agent_factory")
        if on_conflict not in ("raise", "wait"):
            raise InvalidInputError("on_conflict", "must be 'raise' or 'wait'")
        if (history_tokens is None) != (count_tokens is None):
            raise InvalidInputError("history_tokens", "goes with count_tokens")
        window = Window(
            check_count("history_limit", history_limit),
            check_count("history_tokens", history_tokens),
            count_tokens,
        )
        self._owns_repository = repository is None
        if repository is None:
            repository = SessionRepositoryFactory.get_default_repository()
        super().__init__(repository)
        self._finishing = Finishing()
        self._source = AgentSource(agent, agent_factory, agent_options or {}, repository)
        conversations = Conversations(repository)
        self._turns = Turns(
            self._source,
            Claims(
                repository,
                self._finishing,
                lease=check_seconds("claim_seconds", claim_seconds),
                patience=check_seconds("wait_timeout", wait_timeout),
            ),
            self._finishing,
            window,
            conversations,
            Afterwards(
                repository,
                conversations,
                window,
                title=title,
                summarize=summarize,
                seconds=check_seconds("hook_timeout", hook_timeout),
            ),
            repository,
            seconds=None if timeout is None else check_seconds("timeout", timeout),
            store_failed=store_failed,
            waits=on_conflict == "wait",
        )

    async def chat(
        self,
        message: str,
        user_id: str,
        session_id: Identifier | None = None,
        protocol: str = "rest",
        *,
        message_id: Identifier | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> ChatResult:
        """Answer a message, and store it with its answer.

        If the agent fails, the result says so, and nothing is stored.

        Args:
            message: The message.
            user_id: The user.
            session_id: The session, which is created if it does not exist; None for a new one.
            protocol: Passed to the agent, in the context's metadata.
            message_id: An id of the client's own: the same message again, from any process, returns the
                stored answer, and waits for it while the first is under way. Without a session id it
                determines that of the new session.
            metadata: A JSON object, stored with the message, and passed to the agent.

        Raises:
            InvalidInputError: An argument is invalid; nothing is stored.
            SessionConflictError: The session is another user's; the agent is not asked.
            MessageConflictError: ``message_id`` is taken by another message; nothing is stored.
            TurnConflictError: Another turn has changed the conversation meanwhile; nothing is stored.
            SessionNotFoundError: The session was deleted meanwhile; nothing is stored.
            BackendUnavailableError: The database cannot be used, after the retries.
            ConfigurationError: The service has neither an agent nor a factory.
        """
        request = self._request(message, user_id, session_id, protocol, message_id, metadata)
        return await self._run(request)

    def stream(
        self,
        message: str,
        user_id: str,
        session_id: Identifier | None = None,
        protocol: str = "rest",
        *,
        message_id: Identifier | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> AsyncGenerator[str | ChatResult, None]:
        """Yield the pieces of an answer as ``str``, then the result as `chat` returns it.

        If the iterator is closed, or its task cancelled, what there is of the answer is stored with the
        status "partial", within a second. If the agent fails after its first word, it is stored with the
        status "failed", and the result says so.

        Args:
            message: The message.
            user_id: The user.
            session_id: As in `chat`.
            protocol: As in `chat`.
            message_id: As in `chat`.
            metadata: As in `chat`.

        Raises:
            InvalidInputError: At once: an argument is invalid. All other errors are raised by the iterator,
                as by `chat`.
        """
        request = self._request(message, user_id, session_id, protocol, message_id, metadata)
        return self._turns.run(request, streaming=True)

    async def regenerate(
        self,
        user_id: str,
        session_id: Identifier,
        protocol: str = "rest",
        *,
        metadata: dict[str, Any] | None = None,
    ) -> ChatResult:
        """Answer the last message of the user anew; the new answer replaces the old one.

        If the agent fails, the old answer stays.

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

        If the agent fails, the conversation stays as it is.

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
        request = self._request(message, user_id, session_id, protocol, None, metadata)
        request.edited_id = lower_uuid(validation.check_id("message_id", message_id))
        request.is_branch = validation.check_flag("branch", branch)
        return await self._run(request)

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

    async def aclose(self) -> None:
        """Wait for partial answers that are still being stored; close the repository if it is the default."""
        await self._finishing.finish()
        if self._owns_repository:
            await self.repository.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- Blocking twins ----------------------------------------------------------------------------

    chat_sync = blocking(chat, "chat_sync")
    regenerate_sync = blocking(regenerate, "regenerate_sync")
    edit_sync = blocking(edit, "edit_sync")
    close = blocking(aclose, "close")

    def stream_sync(
        self,
        message: str,
        user_id: str,
        session_id: Identifier | None = None,
        protocol: str = "rest",
        *,
        message_id: Identifier | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Iterator[str | ChatResult]:
        """Iterate over the pieces of an answer, then its result; the blocking twin of `stream`."""
        return iterate_stream(
            lambda: self.stream(
                message, user_id, session_id, protocol, message_id=message_id, metadata=metadata
            )
        )
