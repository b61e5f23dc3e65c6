import asyncio

from sessions import AsyncChats


async def main() -> None:
    async with AsyncChats("sqlite:///chat.db") as chats:
        session_id = await chats.create_session("alice", title="Trip to Rome")
        await chats.add_message("alice", session_id, "user", "What should I see first?")
        await chats.add_message("alice", session_id, "assistant", "The Pantheon, before ten.")

        for message in await chats.get_session_history("alice", session_id):
            print(f"{message.role}: {message.content}")
        print("for bob:", await chats.get_session("bob", session_id))


asyncio.run(main())
