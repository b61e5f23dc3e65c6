"""What is measured of a conversation store of Pydantic AI."""

from __future__ import annotations

from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationStore
from pydantic_ai.messages import ModelRequest, UserPromptPart


class StoreCalls:
    """Saves conversations with further messages and loads them.

    Args:
        content: Text of each message.
    """

    store: ConversationStore

    def __init__(self, content: str) -> None:
        self._content = content
        self._conversations: dict[str, Conversation] = {}

    async def append(self, session_id: str) -> None:
        await self.fill(session_id, 1)

    async def fill(self, session_id: str, size: int) -> None:
        conversation = self._conversations.setdefault(session_id, Conversation(conversation_id=session_id))
        conversation.messages += [ModelRequest(parts=[UserPromptPart(self._content)]) for _ in range(size)]
        await self.store.save(conversation)

    async def history(self, session_id: str) -> int:
        conversation = await self.store.load(session_id)
        return len(conversation.messages) if conversation else 0
