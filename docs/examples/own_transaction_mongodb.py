# needs: MONGODB_URL
import asyncio
import os

from pymongo import AsyncMongoClient

from sessions import AsyncChats


async def main() -> None:
    client = AsyncMongoClient(os.environ["MONGODB_URL"])
    bookings = client.get_default_database()["bookings"]
    chats = AsyncChats(backend="mongodb", client=client)
    session_id = await chats.create_session("alice", title="Trip to Rome")

    async with client.start_session() as client_session, await client_session.start_transaction():
        await chats.using(client_session).add_message("alice", session_id, "assistant", "Booked.")
        await bookings.insert_one({"session_id": session_id}, session=client_session)

    print(await bookings.count_documents({}), len(await chats.get_session_history("alice", session_id)))
    await client.close()


asyncio.run(main())
