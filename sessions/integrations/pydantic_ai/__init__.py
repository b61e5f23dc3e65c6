"""A store of Pydantic AI's conversations, in a repository."""

from __future__ import annotations

from sessions.integrations.common import missing

try:
    from sessions.integrations.pydantic_ai.store import ConversationStore
except ImportError as error:
    raise missing("pydantic_ai", "pydantic-ai", error) from error

__all__ = ["ConversationStore"]
