"""Runs of the OpenAI Agents SDK with sessions of this package."""

import asyncio

from agents import Agent, Runner, set_tracing_disabled
from agents.testing import ModelStep, ScriptedModel, assistant_message

from sessions import SessionRepositoryFactory
from sessions.integrations.openai_agents import AgentSession

# The SDK's test model: it answers without a network.
model = ScriptedModel(
    [
        ModelStep(output=[assistant_message("The Pantheon.")]),
        ModelStep(output=[assistant_message("Yes, since the year 609.")]),
    ]
)


async def main() -> None:
    set_tracing_disabled(True)
    agent = Agent("Guide", instructions="You know Rome.", model=model)
    async with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///chats.db") as repository:
        # In a request, and in another one, of any process:
        for question in ("What should I see first?", "Is it a church?"):
            session = AgentSession("trip", repository=repository, user_id="alice")
            result = await Runner.run(agent, question, session=session)
            print(f"{question} {result.final_output}")
        print(len(await session.get_items()), "items")

        page = await repository.list_sessions("alice", where={"framework": "openai-agents"})
        for chat_session in page.sessions:
            print("listed as:", chat_session.title)
        found = await repository.search_messages("alice", "church")
        print("found:", [hit.message.content for hit in found.hits])


asyncio.run(main())
