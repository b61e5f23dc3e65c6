"""The history of Microsoft's Agent Framework, in a repository."""

from __future__ import annotations

from sessions.integrations.common import missing

try:
    from sessions.integrations.agent_framework.provider import HistoryProvider
except ImportError as error:
    raise missing("agent_framework", "agent-framework", error) from error

__all__ = ["HistoryProvider"]
