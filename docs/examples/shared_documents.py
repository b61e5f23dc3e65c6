# needs: MONGODB_URL
import asyncio
import os

from beanie import init_beanie
from pymongo import AsyncMongoClient

from sessions import SessionRepositoryFactory
from sessions.models.documents import ChatMessageDocument, ChatSessionDocument


async def main() -> None:
    client = AsyncMongoClient(os.environ["MONGODB_URL"])
    repository = SessionRepositoryFactory.create_repository("mongodb", client=client)
    session_id = await repository.create_session_async("alice")
    await repository.add_message(session_id, "user", "Hello")

    database = client.get_default_database()
    await init_beanie(database, document_models=[ChatSessionDocument, ChatMessageDocument])
    document = await ChatSessionDocument.find_one(ChatSessionDocument.user_id == "alice")
    print(document.title)
    await client.close()


asyncio.run(main())
