"""A window over the history, a summary of what is before it, and a title."""

import asyncio

from sessions import AsyncChats, ChatMessage
from sessions.services import AgentContext, ChatService


async def agent(message: str, context: AgentContext) -> str:
    seen = [item.content for item in context.history]
    print(f"{message} sees {seen}, summary: {context.summary}")
    return f"re {message}"


async def summarize(messages: list[ChatMessage], summary: str | None) -> str:
    # A model is asked here.
    return f"{summary or 'about'} {' '.join(item.content for item in messages if item.role == 'user')}"


async def title(message: str, answer: str) -> str:
    return f"On {message}"


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        service = ChatService(
            agent, repository=chats.repository, history_limit=4, summarize=summarize, title=title
        )
        session_id = (await service.chat("Rome", "alice"))["session_id"]
        for message in ("Paris", "Oslo", "Bern"):
            await service.chat(message, "alice", session_id)

        found = await chats.get_session("alice", session_id)
        assert found is not None
        print(found.title, found.metadata["summary"]["text"])

        budget = ChatService(
            agent,
            repository=chats.repository,
            history_tokens=12,
            count_tokens=lambda message: len(message.content),
        )
        await budget.chat("Riga", "alice", session_id)


asyncio.run(main())
