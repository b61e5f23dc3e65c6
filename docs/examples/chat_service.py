"""A chat: an agent answers, the service stores each message with its answer."""

import asyncio

from sessions import AsyncChats
from sessions.services import AgentContext, AgentResponse, ChatService


async def agent(message: str, context: AgentContext) -> AgentResponse:
    # A model is asked here, with the messages before this one.
    told = [f"{item.role}: {item.content}" for item in context.history]
    return AgentResponse(f"{message.split()[-1]} I know {len(told)} messages.", usage={"input_tokens": 7})


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        service = ChatService(agent, repository=chats.repository)

        first = await service.chat("What is the Pantheon?", "alice")
        session_id = first["session_id"]
        print(first["success"], first["message"], first["metadata"]["usage.input_tokens"])
        second = await service.chat("And the Colosseum?", "alice", session_id)
        print(second["message"])

        again = await service.regenerate("alice", session_id)
        print("again:", again["message"])
        branch = await service.edit(
            "alice", session_id, second["metadata"]["message_id"], "And the Forum?", branch=True
        )
        print("branch:", branch["message"], branch["session_id"] != session_id)

        for chat_session in (await service.list_sessions("alice")).sessions:
            history = await service.get_session_history("alice", chat_session.session_id)
            print(chat_session.title, [message.content for message in history])


asyncio.run(main())
