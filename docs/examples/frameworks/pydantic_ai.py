"""Conversations of Pydantic AI in a store of this package."""

import asyncio

from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.models.test import TestModel

from sessions import SessionRepositoryFactory
from sessions.integrations.pydantic_ai import ConversationStore

# The framework's test model: it answers without a network.
agent = Agent(TestModel(custom_output_text="The Pantheon."))


async def main() -> None:
    async with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///chats.db") as repository:
        store = ConversationStore(repository, user_id="alice")
        for question in ("What should I see first?", "And then?"):
            conversation = await store.load("trip") or Conversation(conversation_id="trip")
            result = await agent.run(question, conversation=conversation)
            print(len(await store.save(result)), "new messages")

        try:  # It was loaded before the last save.
            await store.save(await agent.run("Really?", conversation=conversation))
        except ConversationConflict:
            print("somebody else has continued it")

        fork = await store.fork("trip", at=2, new_conversation_id="other trip")
        print("the fork begins with", len(fork.messages), "messages")
        for chat_session in (await repository.list_sessions("alice")).sessions:
            count = await repository.count_messages("alice", chat_session.session_id)
            print(f"{chat_session.metadata['framework_session_id']}: {chat_session.title} {count} messages")


asyncio.run(main())
