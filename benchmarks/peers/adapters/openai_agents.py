"""This package's sessions of the OpenAI Agents SDK."""

from __future__ import annotations

from frameworks.connected import Connected
from frameworks.openai_agents import SessionCalls

from sessions.integrations.openai_agents import AgentSession


class Peer(Connected, SessionCalls):
    def new_session(self, session_id: str) -> AgentSession:
        return AgentSession(session_id, repository=self.repository, user_id="alice")
