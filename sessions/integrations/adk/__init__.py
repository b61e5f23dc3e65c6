"""Sessions of Google's Agent Development Kit (ADK), in a repository."""

from __future__ import annotations

from sessions.integrations.adk.state import APP_STATE_OWNER
from sessions.integrations.common import missing

try:
    from sessions.integrations.adk.service import SessionService
except ImportError as error:
    raise missing("google.adk", "adk", error) from error

__all__ = ["APP_STATE_OWNER", "SessionService"]
