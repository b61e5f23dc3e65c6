"""What an agent is, what it is told, and what it answers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from sessions.models import ChatMessage, NewMessage, Role

__all__ = [
    "Agent",
    "AgentCallable",
    "AgentContext",
    "AgentFactory",
    "AgentResponse",
    "AnyAgent",
    "StreamingAgent",
]


def _new_request_id() -> str:
    return str(uuid.uuid4())


@dataclass(slots=True)
class AgentContext:
    """What an agent is told beside the message.

    Attributes:
        user_id: The user.
        session_id: The session; it is created with the answer, if it does not exist.
        request_id: A new UUID for each time that the agent is asked.
        metadata: That of the message, and ``"protocol"``.
        history: The messages before this one, oldest first; at most ``history_limit``.
        summary: What ``summarize`` returned for the messages before ``history``; None for nothing.
    """

    user_id: str
    session_id: str
    request_id: str = field(default_factory=_new_request_id)
    metadata: dict[str, Any] = field(default_factory=dict)
    history: list[ChatMessage] = field(default_factory=list)
    summary: str | None = None


@dataclass(slots=True)
class AgentResponse:
    """The answer of an agent.

    Attributes:
        content: Text of the answer. In a stream: empty for the pieces before it, joined.
        metadata: A JSON object, stored with the answer.
        tool_messages: The calls of tools and their results, stored between the message and the answer.
        usage: Counts such as ``input_tokens``; stored in the answer's metadata as ``"usage.input_tokens"``.
        tools_used: Names of the tools; None for those that ``tool_messages`` name.
        payload: Any JSON value, stored with the answer, such as a framework's own form of it.
        success: False if the agent failed: what it returns is no answer.
        errors: What went wrong, without content; returned to the caller.
    """

    content: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    tool_messages: Sequence[NewMessage | tuple[Role, str]] = ()
    usage: Mapping[str, Any] | None = None
    tools_used: Sequence[str] | None = None
    payload: Any = None
    success: bool = True
    errors: Sequence[str] = ()


@runtime_checkable
class Agent(Protocol):
    """Answers messages. It may also have ``stream``; see `StreamingAgent`."""

    async def execute(self, query: str, context: AgentContext, /) -> AgentResponse | str:
        """Return the answer to a message.

        Args:
            query: The message.
            context: The user, the session, and the messages before.
        """
        ...


@runtime_checkable
class StreamingAgent(Protocol):
    """Answers messages piece by piece."""

    def stream(self, query: str, context: AgentContext, /) -> AsyncIterator[str | AgentResponse]:
        """Yield the pieces of an answer, and at any time an `AgentResponse` with what belongs to it.

        Args:
            query: The message.
            context: The user, the session, and the messages before.
        """
        ...


AgentCallable = Callable[
    [str, AgentContext], Awaitable[AgentResponse | str] | AsyncIterator[str | AgentResponse]
]
"""A function with the arguments of `Agent.execute`: async, or an async generator of pieces."""

AnyAgent = Agent | StreamingAgent | AgentCallable
"""What `ChatService` takes as an agent."""


class AgentFactory(Protocol):
    """Creates agents."""

    @property
    def create_agent(self) -> Callable[..., Any]:
        """Return an agent; async or not.

        Called with the keywords ``agent_type``, ``framework``, ``llm_provider``, ``session_repository`` and
        ``verbose``.
        """
        ...
