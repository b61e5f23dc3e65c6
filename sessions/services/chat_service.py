"""`ChatService`: a conversation's turn, from the message to the stored answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from sessions.core.identifiers import Identifier
from sessions.core.twins import blocking, iterating
from sessions.errors import InvalidInputError
from sessions.models import ChatMessage
from sessions.repositories import AsyncSessionRepository, SessionRepositoryFactory
from sessions.services.agents import AgentFactory, AnyAgent
from sessions.services.answered_anew import AnsweredAnew
from sessions.services.options import Options, Summarise, TitleCallable
from sessions.services.results import ChatResult
from sessions.services.sources import AgentSource
from sessions.services.streams import iterate_stream

__all__ = ["ChatService"]


class ChatService(AnsweredAnew):
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
        options = Options(
            history_limit=history_limit,
            history_tokens=history_tokens,
            count_tokens=count_tokens,
            summarize=summarize,
            title=title,
            store_failed=store_failed,
            on_conflict=on_conflict,
            timeout=timeout,
            wait_timeout=wait_timeout,
            hook_timeout=hook_timeout,
            claim_seconds=claim_seconds,
        )
        self._owns_repository = repository is None
        if repository is None:
            repository = SessionRepositoryFactory.get_default_repository()
        source = AgentSource(agent, agent_factory, agent_options or {}, repository)
        super().__init__(repository, source, options)

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
    stream_sync = iterating(stream, "stream_sync", by=iterate_stream)
    close = blocking(aclose, "close")
