"""The same request twice, and two requests at once."""

import asyncio
import uuid

from sessions import AsyncChats, TurnConflictError
from sessions.services import AgentContext, ChatService


class Agent:
    asked = 0
    together: asyncio.Barrier | None = None

    async def execute(self, message: str, context: AgentContext) -> str:
        self.asked += 1
        if self.together:  # Both turns have read the same history.
            await self.together.wait()
        return f"Answer {len(context.history) // 2 + 1}"


async def main() -> None:
    agent = Agent()
    async with AsyncChats("sqlite://") as chats:
        service = ChatService(agent, repository=chats.repository)
        message_id = uuid.uuid4()
        results = await asyncio.gather(
            *(service.chat("Hello?", "alice", message_id=message_id) for _ in range(3))
        )
        session_id = results[0]["session_id"]
        print([result["message"] for result in results], "asked:", agent.asked)

        agent.together = asyncio.Barrier(2)
        outcomes = await asyncio.gather(
            *(service.chat(text, "alice", session_id) for text in ("One", "Two")), return_exceptions=True
        )
        print("lost:", sum(isinstance(outcome, TurnConflictError) for outcome in outcomes))

        agent.together = None
        waiting = ChatService(agent, repository=chats.repository, on_conflict="wait")
        results = await asyncio.gather(*(waiting.chat(text, "alice", session_id) for text in ("One", "Two")))
        print([result["message"] for result in results])


asyncio.run(main())
