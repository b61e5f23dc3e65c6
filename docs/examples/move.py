# needs: POSTGRES_URL
import asyncio
import os

from sessions import AsyncChats


async def move(source: AsyncChats, target: AsyncChats) -> None:
    async for chat_session, messages in source.admin.export():
        await target.admin.restore(chat_session, messages)


async def main() -> None:
    async with AsyncChats("sqlite:///chat.db") as source, AsyncChats(os.environ["POSTGRES_URL"]) as target:
        for user_id in ("alice", "bob"):
            session_id = await source.create_session(user_id, title=f"Chat of {user_id}")
            await source.add_messages(user_id, session_id, [("user", "Hello"), ("assistant", "Hi")])

        await move(source, target)
        await move(source, target)  # May be repeated.

        statistics = await target.admin.statistics()
        print(statistics.users, statistics.sessions, statistics.messages)
        history = await target.get_session_history("bob", session_id)
        print(history == await source.get_session_history("bob", session_id))


asyncio.run(main())
