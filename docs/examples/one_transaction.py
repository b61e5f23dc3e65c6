"""Move the last messages of a conversation into a new one: both change, or neither."""

import asyncio

from sessions import AsyncChats, NewMessage


async def main() -> None:
    async with AsyncChats("sqlite://") as chats:
        trip = await chats.create_session("alice", title="Trip to Rome")
        await chats.add_messages(
            "alice",
            trip,
            [("user", "What should I see?"), ("assistant", "The Pantheon."), ("user", "By the way, my tax")],
        )

        async def move_last(inside: AsyncChats) -> str:
            found = await inside.pop_message("alice", trip)
            assert found is not None
            moved = NewMessage(found.role, found.content, timestamp=found.timestamp)
            return await inside.create_session("alice", title="Tax", messages=[moved])

        tax = await chats.run_in_transaction(move_last)
        for session_id in (trip, tax):
            history = await chats.get_session_history("alice", session_id)
            print([message.content for message in history])


asyncio.run(main())
