"""Chat stores of LlamaIndex, in a repository."""

from __future__ import annotations

from sessions.integrations.common import missing

try:
    from sessions.integrations.llama_index.store import ChatStore
except ImportError as error:
    raise missing("llama_index", "llama-index", error) from error

__all__ = ["ChatStore"]
