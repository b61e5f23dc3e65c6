"""What is measured of a history of LangChain."""

from __future__ import annotations

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage


class _Histories:
    """The histories that are used.

    Args:
        content: Text of each message.
    """

    def __init__(self, content: str) -> None:
        self.content = content
        self._histories: dict[str, BaseChatMessageHistory] = {}

    def new_history(self, session_id: str) -> BaseChatMessageHistory:
        raise NotImplementedError

    def messages_of_turn(self) -> list[BaseMessage]:
        """Return what `RunnableWithMessageHistory` appends at once."""
        return [HumanMessage(self.content), AIMessage(self.content)]

    def of(self, session_id: str) -> BaseChatMessageHistory:
        if session_id not in self._histories:
            self._histories[session_id] = self.new_history(session_id)
        return self._histories[session_id]


class HistoryCalls(_Histories):
    """Appends messages to histories and reads them."""

    async def append(self, session_id: str) -> None:
        await self.of(session_id).aadd_messages([HumanMessage(self.content)])

    async def turn(self, session_id: str) -> None:
        await self.of(session_id).aadd_messages(self.messages_of_turn())

    async def fill(self, session_id: str, size: int) -> None:
        await self.of(session_id).aadd_messages([HumanMessage(self.content)] * size)

    async def history(self, session_id: str) -> int:
        return len(await self.of(session_id).aget_messages())


class BlockingHistoryCalls(_Histories):
    """Appends messages to histories and reads them, with the blocking calls."""

    def append(self, session_id: str) -> None:
        self.of(session_id).add_message(HumanMessage(self.content))

    def turn(self, session_id: str) -> None:
        self.of(session_id).add_messages(self.messages_of_turn())

    def fill(self, session_id: str, size: int) -> None:
        self.of(session_id).add_messages([HumanMessage(self.content)] * size)

    def history(self, session_id: str) -> int:
        return len(self.of(session_id).messages)
