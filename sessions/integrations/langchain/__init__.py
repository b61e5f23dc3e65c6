"""Histories of LangChain, in a repository."""

from __future__ import annotations

from sessions.integrations.common import missing

try:
    from sessions.integrations.langchain.history import ChatMessageHistory
except ImportError as error:
    raise missing("langchain_core", "langchain", error) from error

__all__ = ["ChatMessageHistory"]
