"""Runs of an agent of Google's Agent Development Kit, with sessions of this package."""

import asyncio
from collections.abc import AsyncGenerator

from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import Runner
from google.adk.tools import ToolContext
from google.genai import types

from sessions import SessionRepositoryFactory
from sessions.integrations.adk import SessionService


class Scripted(BaseLlm):
    """Answers without a network: it calls the tool, and then says what it knows."""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        last = llm_request.contents[-1].parts[-1]
        if last.function_response is None:
            part = types.Part(function_call=types.FunctionCall(name="remember", args={"city": "Rome"}))
        else:
            part = types.Part(text="The Pantheon.")
        usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=7, candidates_token_count=3)
        yield LlmResponse(content=types.Content(role="model", parts=[part]), usage_metadata=usage)


def remember(city: str, tool_context: ToolContext) -> str:
    """Remember where the user goes."""
    tool_context.state["city"] = city
    tool_context.state["user:cities"] = [*tool_context.state.get("user:cities", []), city]
    return "noted"


async def main() -> None:
    agent = LlmAgent(name="guide", model=Scripted(model="scripted"), tools=[remember])
    async with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///chats.db") as repository:
        service = SessionService(repository)
        runner = Runner(app_name="travel", agent=agent, session_service=service)
        session = await service.create_session(app_name="travel", user_id="alice", session_id="trip")
        question = types.Content(role="user", parts=[types.Part(text="What should I see first?")])
        async for event in runner.run_async(user_id="alice", session_id=session.id, new_message=question):
            if event.is_final_response():
                print(event.author, "says:", event.content.parts[0].text)

        found = await service.get_session(app_name="travel", user_id="alice", session_id="trip")
        print(len(found.events), "events,", found.state)
        other = await service.create_session(app_name="travel", user_id="alice")
        print("another session:", other.state)

        page = await repository.list_sessions("alice", where={"framework": "adk"})
        [chat_session] = [each for each in page.sessions if each.title != "New Chat"]
        print("listed as:", chat_session.title)
        for message in await repository.get_session_history("alice", chat_session.session_id):
            print(f"{message.role:9} {message.content}")


asyncio.run(main())
