"""The adapter for LangChain, on MongoDB, with its blocking calls as the peer has no others."""

from __future__ import annotations

from langchain_core.messages import HumanMessage

from sessions import SessionRepositoryFactory
from sessions.integrations.langchain import ChatMessageHistory


class Peer:
    def __init__(self, content: str) -> None:
        self._content = content
        self._histories: dict[str, ChatMessageHistory] = {}

    def open(self, url: str) -> None:
        self._repository = SessionRepositoryFactory.create_repository("mongodb", url=url)

    def _history(self, session_id: str) -> ChatMessageHistory:
        if session_id not in self._histories:
            self._histories[session_id] = ChatMessageHistory(
                session_id, repository=self._repository, user_id="alice"
            )
        return self._histories[session_id]

    def append(self, session_id: str) -> None:
        self._history(session_id).add_message(HumanMessage(self._content))

    def fill(self, session_id: str, size: int) -> None:
        for _ in range(size):
            self.append(session_id)

    def history(self, session_id: str) -> int:
        return len(self._history(session_id).messages)

    def close(self) -> None:
        self._repository.close()
