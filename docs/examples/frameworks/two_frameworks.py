"""A conversation that begins with LangChain and continues with LlamaIndex."""

import asyncio

from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.memory import Memory

from sessions import SessionRepositoryFactory
from sessions.integrations.langchain import ChatMessageHistory
from sessions.integrations.llama_index import ChatStore


async def main() -> None:
    async with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///chats.db") as repository:
        # An id that is a UUID is the same session for each framework.
        session_id = await repository.create_session_async("alice")
        history = ChatMessageHistory(session_id, repository=repository, user_id="alice")
        await history.aadd_messages([HumanMessage("What should I see first?"), AIMessage("The Pantheon.")])

        store = ChatStore(repository, user_id="alice")
        memory = Memory.from_defaults(session_id=session_id, chat_store=store)
        for message in await memory.aget():
            print(message)


asyncio.run(main())
