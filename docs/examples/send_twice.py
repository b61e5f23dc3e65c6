"""A client that got no response sends its message again, and it is stored once."""

import asyncio
import uuid

from sessions import AsyncChats, MessageConflictError


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        session_id = await chats.create_session("alice")
        message_id = uuid.uuid4()  # The client makes it, and keeps it until it has a response.

        for _ in range(2):
            await chats.add_message("alice", session_id, "user", "Hello", message_id=message_id)
        print("stored:", await chats.count_messages("alice", session_id))

        try:
            await chats.add_message("alice", session_id, "user", "Bye", message_id=message_id)
        except MessageConflictError:
            print("the id belongs to another message")


asyncio.run(main())
