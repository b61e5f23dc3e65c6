"""A stream: what a client has seen is stored, also if it leaves or the agent fails."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing

from sessions import AsyncChats
from sessions.services import AgentContext, AgentResponse, ChatService

logging.getLogger("sessions").setLevel(logging.ERROR)  # A failure of the agent is a warning.


class Agent:
    async def stream(self, message: str, context: AgentContext) -> AsyncIterator[str | AgentResponse]:
        for word in ("It ", "is ", "a ", "temple."):
            yield word
            if message == "Fail.":
                raise ConnectionError("the model is gone")
        yield AgentResponse(metadata={"model": "small-1"})


async def main() -> None:
    async with AsyncChats("sqlite://") as chats, ChatService(Agent(), repository=chats.repository) as service:
        async for item in service.stream("What is the Pantheon?", "alice"):
            if isinstance(item, str):
                print("piece:", item)
            else:
                session_id = item["session_id"]
                print("result:", item["message"], item["metadata"]["model"])

        async with aclosing(service.stream("Leave.", "alice", session_id)) as stream:
            async for _ in stream:
                break  # The client has disconnected.
        *_, result = [item async for item in service.stream("Fail.", "alice", session_id)]
        assert isinstance(result, dict)
        print("failed:", result["success"], result["errors"])

        for message in await service.get_session_history("alice", session_id):
            print(f"{message.role}: {message.content!r} {message.metadata.get('status', '')}")


asyncio.run(main())
