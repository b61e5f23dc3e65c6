"""Runs of an agent of Microsoft's Agent Framework, with the history in a repository."""

import asyncio

from agent_framework import (
    Agent,
    AgentSession,
    BaseChatClient,
    ChatResponse,
    FunctionInvocationLayer,
    Message,
)

from sessions import SessionRepositoryFactory
from sessions.integrations.agent_framework import HistoryProvider


class Scripted(FunctionInvocationLayer, BaseChatClient):
    """Answers without a network."""

    def _inner_get_response(self, *, messages, stream, options, **kwargs):
        async def answer():
            questions = [message.text for message in messages if message.role == "user"]
            return ChatResponse(
                messages=[Message("assistant", [f"{len(questions)}: {questions[-1]}"])], model="scripted"
            )

        return answer()


async def main() -> None:
    async with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///chats.db") as repository:
        # In a request, and in another one, of any process:
        for question in ("What should I see first?", "And then?"):
            history = HistoryProvider(repository=repository, user_id="alice")
            agent = Agent(Scripted(), name="guide", context_providers=[history])
            response = await agent.run(question, session=AgentSession(session_id="trip"))
            print(response.text)

        page = await repository.list_sessions("alice", where={"framework": "agent-framework"})
        for chat_session in page.sessions:
            print("listed as:", chat_session.title)
            for message in await repository.get_session_history("alice", chat_session.session_id):
                print(f"{message.role:9} {message.content}")


asyncio.run(main())
