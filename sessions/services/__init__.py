"""A conversation's turn: `ChatService`, and what an agent is to it. No LLM library is needed.

Everything here uses the public interface of a repository.
"""

from sessions.errors import TurnConflictError
from sessions.services.agents import (
    Agent,
    AgentCallable,
    AgentContext,
    AgentFactory,
    AgentResponse,
    AnyAgent,
    StreamingAgent,
)
from sessions.services.chat_service import ChatService
from sessions.services.results import ChatResult

__all__ = [
    "Agent",
    "AgentCallable",
    "AgentContext",
    "AgentFactory",
    "AgentResponse",
    "AnyAgent",
    "ChatResult",
    "ChatService",
    "StreamingAgent",
    "TurnConflictError",
]
