"""The memory of a chat engine of LlamaIndex in a repository of this package."""

import asyncio

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import MockLLM
from llama_index.core.memory import Memory

from sessions import SessionRepositoryFactory
from sessions.integrations.llama_index import ChatStore


async def main() -> None:
    async with SessionRepositoryFactory.create_repository("sqlite", url="sqlite:///chats.db") as repository:
        store = ChatStore(repository, user_id="alice")
        # In a request, and in another one, of any process:
        for question in ("What should I see first?", "And then?"):
            memory = Memory.from_defaults(session_id="trip", chat_store=store)
            # LlamaIndex's model for tests: it repeats the question without a network.
            engine = SimpleChatEngine.from_defaults(llm=MockLLM(max_tokens=6), memory=memory)
            await engine.achat(question)
        print(len(await memory.aget()), "messages")

        archived = await store.archive_oldest_messages("trip", 2)
        print("archived:", archived[0].content)
        print("active:", [message.role.value for message in await store.get_messages("trip")])
        print("keys:", await store.get_keys())

        page = await repository.list_sessions("alice", where={"framework": "llama-index"})
        for chat_session in page.sessions:
            print("listed as:", chat_session.title)


asyncio.run(main())
