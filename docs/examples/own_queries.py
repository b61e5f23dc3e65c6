import asyncio

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sessions import AsyncChats
from sessions.queries import parameters, statements_for

statements = statements_for("sqlite")


async def main() -> None:
    async with AsyncChats("sqlite:///chat.db") as chats:
        await chats.create_session("alice", title="Trip to Rome")

    engine = create_async_engine("sqlite+aiosqlite:///chat.db")
    async with AsyncSession(engine) as db_session:
        newest = await db_session.execute(statements.list_first, parameters(user_id="alice", limit=5))
        print([row.title for row in newest])
    await engine.dispose()


asyncio.run(main())
