"""This package's histories of LangChain."""

from __future__ import annotations

from frameworks.connected import Connected
from frameworks.langchain import HistoryCalls

from sessions.integrations.langchain import ChatMessageHistory


class Peer(Connected, HistoryCalls):
    def new_history(self, session_id: str) -> ChatMessageHistory:
        return ChatMessageHistory(session_id, repository=self.repository, user_id="alice")
