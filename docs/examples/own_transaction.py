import asyncio

from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sessions import AsyncChats

engine = create_async_engine("sqlite+aiosqlite:///chat.db")


@event.listens_for(engine.sync_engine, "connect")
def enforce_foreign_keys(connection, _record):
    connection.execute("PRAGMA foreign_keys=ON")  # for SQLite only


async def main() -> None:
    chats = AsyncChats(backend="sqlite", engine=engine)
    session_id = await chats.create_session("alice", title="Trip to Rome")
    async with AsyncSession(engine) as db_session, db_session.begin():
        await db_session.execute(text("CREATE TABLE bookings (session_id VARCHAR(36))"))

    for ends_well in (False, True):
        async with AsyncSession(engine) as db_session:
            await chats.using(db_session).add_message("alice", session_id, "user", "Book it.")
            await db_session.execute(text("INSERT INTO bookings VALUES (:id)"), {"id": session_id})
            await (db_session.commit() if ends_well else db_session.rollback())

        async with AsyncSession(engine) as db_session:
            bookings = await db_session.scalar(text("SELECT count(*) FROM bookings"))
        print(len(await chats.get_session_history("alice", session_id)), "messages,", bookings, "bookings")
    await engine.dispose()


asyncio.run(main())
