"""Sessions of the OpenAI Agents SDK, in a repository."""

from __future__ import annotations

from sessions.integrations.common import missing

try:
    from sessions.integrations.openai_agents.session import AgentSession
except ImportError as error:
    raise missing("agents", "openai-agents", error) from error

__all__ = ["AgentSession"]
